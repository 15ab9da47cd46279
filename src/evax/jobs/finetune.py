"""evax finetune: a labelled store + an encoder -> a classifier bundle, tested once."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evax.config import command_line
from evax.data.augment import Augmentation, CropConfig
from evax.data.labels import TrainingUncertain
from evax.errors import ConfigError
from evax.training.options import Compile, LabelledConfig, OptimizerConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from lightning_fabric import Fabric

    from evax.data.preprocess import Preprocess
    from evax.data.store import ImageStore
    from evax.models.classifier import Classifier
    from evax.training.tracking import RunLog

Subset = Literal["fixed", "redrawn"]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LabelledConfig):
    """Fine-tune an encoder with labels: validation chooses the checkpoint and the thresholds, test is scored
    once. `evax recipes` lists the paper's experiments.
    """

    out: Path
    """Run folder; the classifier is written to OUT/bundle."""
    protocol: Literal["clean", "paper"] = "clean"
    """paper: the test films choose the checkpoint, as in the released code; not to be compared with clean."""
    train_uncertain: TrainingUncertain | None = None
    """What -1 counts as in training, where not as in uncertain; mixed and smooth go by finding."""
    steps: int = 500
    """Optimizer steps."""
    epochs: float | None = None
    """Passes over all training films of the store, instead of steps, whatever label_fraction."""
    warmup_epochs: float | None = None
    """Passes with rising learning rate, instead of optimizer.warmup; needs epochs."""
    batch_size: int = 32
    """Films per step."""
    validate_every: int = 50
    """Steps between looks at the validation films; each look costs their number of forward passes."""
    validation_cap: int | None = None
    """At most so many validation films choose the checkpoint; all of them choose the thresholds."""
    augmentation: Augmentation = "crop"
    """What training does to films: nothing; random crops; crops and timm's RandAugment m6-mstd0.5-inc1."""
    crop: CropConfig = field(default_factory=lambda: CropConfig(area=(0.5, 1.0)))
    """How training crops are cut; validation and test see whole films."""
    resize_size: int | None = None
    """Validation, test and deployment see the central image_size square of films of this side (the paper: 256
    for 224); without it whole films."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, clip_norm=0.0)
    )
    """AdamW and its schedule."""
    fc_norm: Literal["pretrained", "new"] = "pretrained"
    """Final norm: the one of the weights, or a new one, as the released loader has it."""
    position_antialias: bool = True
    """Resample the position table of another image size with antialias; the released loader does not."""
    freeze_patch_embed: bool = False
    """Leave the patch embedding as it is (stop_grad_conv1 of the released code)."""
    layer_decay: float = 0.75
    """Learning rate of each layer over that of the next one, in (0, 1]; a CNN has one rate."""
    drop_path: float = 0.1
    """Chance of skipping a block in training, rising linearly to this value, in [0, 1)."""
    compile: Compile = "auto"
    """torch.compile; auto: when the run is long enough to earn the compilation back."""
    workers: int = 2
    """Threads that cut crops."""
    sources: Path | None = None
    """CSV table with the columns image or patient, and source (a hospital, a device): test films are scored
    by source, too, as they are by sex, age and view."""
    subset: Subset = "fixed"
    """Of the labels, where not all are used. fixed: one draw of patients; redrawn: another at each epoch."""
    seeds: tuple[int, ...] = ()
    """One run per seed, as 0-4, in OUT/runs, and mean, sd and interval over them in OUT/seeds.json."""
    resume: bool = False
    """Continue the runs of seeds in OUT: finished ones are not repeated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay must lie in (0, 1], got {self.layer_decay}.")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path must lie in [0, 1), got {self.drop_path}.")
        for name in ("steps", "batch_size", "validate_every", "workers", "validation_cap", "epochs"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"{name} must be above 0, got {value}.")
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs < (self.epochs or 0):
            raise ConfigError(
                f"warmup_epochs must lie in [0, epochs), got {self.warmup_epochs} of {self.epochs} epochs."
            )
        if self.resize_size is not None and self.resize_size < self.image_size:
            raise ConfigError(
                f"resize_size must be at least image_size, {self.image_size}, got {self.resize_size}."
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds must be different values, got {self.seeds}.")
        if self.seeds and self.seed != 0:
            raise ConfigError(
                f"seeds take the place of seed, which is {self.seed}: leave one of them out (--seed 0 where "
                "a recipe sets it)."
            )

    def in_steps(self, films: int) -> FinetuneConfig:
        """The same with steps and optimizer.warmup instead of epochs. films: of an epoch."""
        if self.epochs is None:
            return self
        share = self.optimizer.warmup if self.warmup_epochs is None else self.warmup_epochs / self.epochs
        return replace(
            self,
            steps=math.ceil(self.epochs * films / self.batch_size),
            optimizer=replace(self.optimizer, warmup=share),
            epochs=None,
            warmup_epochs=None,
        )


def finetune(config: FinetuneConfig) -> Path:
    """Runs the fine-tuning and the one test; returns the folder of the classifier bundle, or seeds.json.

    Raises DataError for a store without labels or an empty split, WeightsError for weights that do not fit.
    """
    from evax.files import read_json
    from evax.jobs.studies import continued, over_seeds
    from evax.reporting.examine import CHECKED_FILMS, tell

    if config.seeds:
        study = continued(config, config.resume, grows=("seeds",))
        return over_seeds(study, finetune_in_study, study.seeds, study.resume)
    if config.resume:
        raise ConfigError("Only runs over seeds are continued: give --seeds, or leave --resume out.")
    bundle = learn_and_test(config, CHECKED_FILMS)
    tell(read_json(config.out / "report.json")["checks"])
    return bundle


def finetune_in_study(config: FinetuneConfig) -> Path:
    """The same as one of many runs, which would all say the same of the same films: the checks stay in the
    report, and doubtful labels are searched among one patient's films, which nothing can contradict.
    """
    return learn_and_test(config, checked_films=1)


def learn_and_test(config: FinetuneConfig, checked_films: int) -> Path:
    """One fine-tuning; returns its bundle.

    checked_films: at most so many training films are searched for doubtful labels, a forward pass each.
    """
    import numpy as np

    from evax.data.labelled import (
        LabelShare,
        capped_rows,
        column_of,
        known_labels,
        redrawn_epochs,
        split_rows,
        with_findings,
    )
    from evax.data.store import open_store
    from evax.deploy.bundle import Card, model_facts, refuse_seen_films, save_bundle, starting_preprocess
    from evax.evaluation.classification import choose_thresholds, mean_auroc
    from evax.evaluation.report import evaluate_classifier
    from evax.evaluation.thresholds import ThresholdRule
    from evax.files import write_json
    from evax.jobs.studies import refuse_one_sided
    from evax.models.classifier import Classifier
    from evax.reporting.examine import Scored, examine, run_checks
    from evax.reporting.paper import best_of_the_looks, paper_entries
    from evax.reporting.protocol import protocol_card, write_predictions
    from evax.reporting.run_page import write_run_page
    from evax.training.probes import film_features
    from evax.training.runtime import precision_of, seeded, start_fabric
    from evax.training.scoring import predict_rows
    from evax.training.tracking import start_run
    from evax.weights.start import starting_encoder

    start, as_paper = time.perf_counter(), config.protocol == "paper"
    store = with_findings(open_store(config.store), config.findings)
    labels = known_labels(store, config.uncertain, config.blank)
    taught = known_labels(store, config.train_uncertain or config.uncertain, config.blank, config.seed)
    findings, exclusive = store.manifest.findings, store.manifest.exclusive
    pool, val, test = split_rows(store, config.split, config.split_by, needs_validation=not as_paper)
    in_steps = config.in_steps(len(pool))
    share = LabelShare(config.label_fraction, config.label_count, labels if config.stratified else None)
    train, epochs = share.draw(store, pool, config.seed), None
    if config.subset == "redrawn":
        films = in_steps.steps * config.batch_size
        train, epochs = redrawn_epochs(store, pool, share, config.seed, films)
    refuse_seen_films(config.weights, store, test)
    # no test film in the call of fit, unless the protocol is the paper's
    choosing = test if as_paper else capped_rows(store, val, config.validation_cap)
    refuse_one_sided(labels[choosing], f"{'test' if as_paper else 'validation'} split")
    sources = None if config.sources is None else column_of(store, config.sources, "source")
    preprocess = replace(
        starting_preprocess(config.encoder, config.weights, store, config.image_size),
        resize_size=config.resize_size,
    )
    with seeded(config.seed):
        model = Classifier(starting_encoder(config), len(findings))

    fabric = start_fabric(config.precision)
    log = start_run(config.out, config, resume=None)
    taught[choosing] = labels[choosing]
    best_step = fit(model, store, taught, train, choosing, preprocess, in_steps, fabric, log, epochs)
    softmax = exclusive and not as_paper
    val_probabilities = predict_rows(model, store, val, preprocess, softmax, fabric)
    if as_paper:
        thresholds = np.full(len(findings), math.nan)
    else:
        thresholds = choose_thresholds(val_probabilities, labels[val], ThresholdRule.of(config.thresholds))
    test_probabilities = predict_rows(model, store, test, preprocess, softmax, fabric)
    patients = store.manifest.table["patient"].to_numpy(dtype=str)
    metrics = evaluate_classifier(
        test_probabilities, labels[test], findings, patients[test], thresholds, exclusive,
        resamples=config.resamples, seed=config.seed,
    ).to_json()  # fmt: skip

    chosen = paper_entries(config, exclusive) if as_paper else {"checkpoint_chosen_on": "validation mAUC"}
    if config.train_uncertain:
        chosen["uncertain_in_training"] = config.train_uncertain
    protocol = protocol_card(
        config, store, subset=config.subset, train=train, validation=val, test=test, **chosen
    )
    protocol |= {
        "best_step": best_step,
        "steps": in_steps.steps,
        "trained_in": precision_of(fabric),
        "validation_mauc": mean_auroc(val_probabilities, labels[val]).value if len(val) else None,
        "validation_films_per_look": 0 if as_paper else len(choosing),
    }
    if as_paper:
        protocol["paper_protocol"] = best_of_the_looks(log.events("test"), exclusive)
    mark = config.protocol if as_paper else None
    write_predictions(config.out / "predictions-val.csv", store, val, labels[val], val_probabilities, mark)
    write_predictions(
        config.out / "predictions-test.csv", store, test, labels[test], test_probabilities, mark
    )
    card = Card(
        kind="classifier",
        encoder=config.encoder,
        preprocess=preprocess,
        findings=findings,
        exclusive=exclusive,
        thresholds={
            name: None if math.isnan(value) else float(value)
            for name, value in zip(findings, thresholds, strict=True)
        },
        training=protocol,
        metrics=metrics,
    )
    bundle = save_bundle(config.out / "bundle", card, model)
    validation = Scored(val, labels[val], val_probabilities)
    tested = Scored(test, labels[test], test_probabilities)
    looked_at = capped_rows(store, train, checked_films)
    features = film_features(model.encoder, store, looked_at, preprocess, fabric)
    checks = run_checks(store, train, validation, tested, labels, (looked_at, features), config.out)
    report = {
        "kind": "finetune",
        **protocol,
        "test_metrics": metrics,
        **examine(store, validation, tested, thresholds, config.resamples, config.seed, sources),
        "checks": checks,
        "model": model_facts(card, model, config.weights),
        "command": command_line("finetune", config),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_json(report, config.out / "report.json")  # a run folder that has one is finished
    write_run_page(config.out)
    return bundle


def fit(
    model: Classifier,
    store: ImageStore,
    labels: np.ndarray[Any, Any],
    train: np.ndarray[Any, Any],
    val: np.ndarray[Any, Any],
    preprocess: Preprocess,
    config: FinetuneConfig,
    fabric: Fabric,
    log: RunLog,
    epochs: Sequence[np.ndarray[Any, Any]] | None,
) -> int:
    """Trains; leaves the weights with the best mAUC in the model and returns their step.

    val: the films that choose, of the validation split or, in the paper's protocol, of the test split.
    config: in steps. epochs: which of the train films each epoch shows; None: all.
    """
    import torch

    from evax.data.augment import training_view
    from evax.data.loader import Films, training_batches
    from evax.data.order import DrawnOrder
    from evax.evaluation.classification import mean_auroc, top1_accuracy
    from evax.training.optim import create_optimizer, lr_at_step
    from evax.training.runtime import maybe_compile, seeded
    from evax.training.scoring import predict_rows
    from evax.training.steps import classification_step
    from evax.training.tracking import progress_bar

    optimizer = create_optimizer(model, config.optimizer, model.encoder.depth, config.layer_decay)
    tokens = config.steps * config.batch_size * (config.image_size // model.encoder.stride) ** 2
    network, optimizer = fabric.setup(maybe_compile(model, config.compile, tokens, fabric.device), optimizer)
    train_labels = torch.from_numpy(labels[train]).float()
    exclusive, as_paper = store.manifest.exclusive, config.protocol == "paper"
    split = "test" if as_paper else "validation"
    best_score, best_step, best_weights = -math.inf, 0, {}
    batches = training_batches(
        Films([(store, train)]),
        batch_size=config.batch_size,
        size=config.image_size,
        crop=training_view(config.augmentation, config.crop, preprocess, config.seed),
        seed=config.seed,
        steps=range(config.steps),
        workers=config.workers,
        order=DrawnOrder(epochs, config.seed) if epochs else None,
    )
    with progress_bar("fine-tuning", config.steps) as advance:
        for batch in batches:
            model.train()
            with seeded(config.seed, batch.step):
                measured = classification_step(
                    network,
                    optimizer,
                    fabric,
                    batch,
                    train_labels[batch.films],
                    preprocess=preprocess,
                    exclusive=exclusive,
                    lr=lr_at_step(batch.step, config.steps, config.optimizer),
                    clip_norm=config.optimizer.clip_norm,
                )
            done = batch.step + 1
            log.write("step", step=done, images=done * config.batch_size, **measured)
            if done % config.validate_every == 0 or done == config.steps:
                softmax = exclusive and not as_paper
                scores = predict_rows(model, store, val, preprocess, softmax, fabric, quick=not as_paper)
                macro = mean_auroc(scores, labels[val])
                top1 = {"top1": top1_accuracy(scores, labels[val])} if as_paper and exclusive else {}
                log.write(split, step=done, mauc=macro.value, findings=macro.entered, **top1)
                if macro.value > best_score:
                    best_score, best_step = macro.value, done
                    best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            advance(f"loss {measured['loss']:.3f}, {split} mAUC {max(best_score, 0):.3f}")
    model.load_state_dict(best_weights)
    return best_step

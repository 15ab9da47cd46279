"""evax finetune: a labelled store + an encoder -> a classifier bundle, tested once."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evax.config import command_line
from evax.data.labels import TrainingUncertain
from evax.errors import ConfigError
from evax.jobs.studies import (
    continued,
    over_seeds,
    refuse_at_once,
    refuse_one_sided,
    refuse_other_run,
    refuse_untaught_class,
    report_of,
    warn_of_untaught,
)
from evax.training.supervised_options import SupervisedConfig

if TYPE_CHECKING:
    import numpy as np
    from lightning_fabric import Fabric

    from evax.data.labelled import LearningFilms
    from evax.data.preprocess import Preprocess
    from evax.models.classifier import Classifier
    from evax.reporting.examine import Scored
    from evax.training.tracking import RunLog

Subset = Literal["fixed", "redrawn"]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(SupervisedConfig):
    """Fine-tune an encoder with labels: validation chooses the checkpoint and the thresholds, test is scored
    once. `evax recipes` lists the paper's experiments.
    """

    out: Path
    """Run folder; the classifier is written to OUT/bundle."""
    train_uncertain: TrainingUncertain | None = None
    """What -1 counts as in training, for uncertain and uncertain_ones; mixed and smooth go by finding."""
    validation_cap: int | None = None
    """At most so many validation films choose the checkpoint; all of them choose the thresholds."""
    resize_size: int | None = None
    """Validation, test and deployment see the central image_size square of films of this side (the paper: 256
    for 224); without it whole films."""
    fc_norm: Literal["pretrained", "new"] = "pretrained"
    """Final norm: the one of the weights, or a new one, as the released loader has it."""
    position_antialias: bool = True
    """Resample the position table of another image size with antialias; the released loader does not."""
    freeze_patch_embed: bool = False
    """Leave the patch embedding as it is (stop_grad_conv1 of the released code)."""
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
        if self.validation_cap is not None and self.validation_cap <= 0:
            raise ConfigError(f"validation_cap must be above 0, got {self.validation_cap}.")
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


def finetune(config: FinetuneConfig) -> Path:
    """Runs the fine-tuning and the one test; returns the folder of the classifier bundle, or seeds.json.

    Raises DataError for a store without labels or an empty split, WeightsError for weights that do not fit.
    """
    if config.resume and not config.seeds:
        raise ConfigError("Only runs over seeds are continued: give --seeds, or leave --resume out.")
    refuse_at_once(config, config.resume if config.seeds else None)
    if config.seeds:
        return finetune_over_seeds(config)
    from evax.deploy.bundle import note_other_size  # after what is refused at once
    from evax.files import read_json
    from evax.reporting.examine import CHECKED_FILMS, tell
    from evax.reporting.result_line import tell_result

    films = films_of(config)
    warn_of_untaught(films.findings, films.taught[films.train], "training films")
    note_other_size(config.weights, config.image_size)
    bundle = learn_and_test(config, films, CHECKED_FILMS)
    tell_result([config.out / "report.json"])
    tell(read_json(config.out / "report.json")["checks"])
    return bundle


def finetune_over_seeds(config: FinetuneConfig) -> Path:
    """One run per seed, whose classifiers are kept; returns the path of seeds.json."""
    from evax.data.labelled import data_fingerprint
    from evax.data.store import open_store
    from evax.deploy.bundle import note_other_size
    from evax.reporting.study_rows import auroc_of_each, row_of

    films = films_of(config)
    warn_of_untaught(films.findings, films.taught[films.pool], "training films")
    note_other_size(config.weights, config.image_size)
    study = continued(config, config.resume, grows=("seeds",))
    fingerprint = data_fingerprint(open_store(study.store), study.split)
    return over_seeds(
        study, study.seeds, study.resume, asked=config.precision,
        refuse=lambda run: refuse_other_run(run, fingerprint, needs_bundle=False),
        made=lambda run: report_of(run, finetune_in_study, keep_bundle=True),
        row=lambda report: {**row_of(report), **auroc_of_each(report)},
    )  # fmt: skip


def finetune_in_study(config: FinetuneConfig) -> Path:
    """The same as one of many runs, which would all say the same of the same films: the checks stay in the
    report, and doubtful labels are searched among one patient's films, which nothing can contradict.
    """
    return learn_and_test(config, films_of(config), checked_films=1)


def learn_and_test(config: FinetuneConfig, films: LearningFilms, checked_films: int) -> Path:
    """One fine-tuning; returns its bundle. A run folder whose training diverged is taken away again.

    films: see films_of. checked_films: at most so many training films are searched for doubtful labels, a
    forward pass each.
    """
    from evax.deploy.bundle import starting_preprocess
    from evax.models.classifier import Classifier
    from evax.reporting.examine import Scored
    from evax.training.fit import fit
    from evax.training.head import start_from_probe
    from evax.training.runtime import seeded, start_fabric
    from evax.training.scoring import predict_rows
    from evax.training.steps import Diverged
    from evax.training.tracking import start_run
    from evax.weights.start import starting_encoder

    start = time.perf_counter()
    preprocess = replace(
        starting_preprocess(config.encoder, config.weights, films.store, config.image_size),
        resize_size=config.resize_size,
    )
    with seeded(config.seed):
        model = Classifier(starting_encoder(config), len(films.findings))
    fabric = start_fabric(config.precision)
    log = start_run(config.out, config, resume=None)
    try:
        if config.head == "probe":
            log.write("head", validation_mauc=start_from_probe(model, films, preprocess, fabric))
        best_step = fit(model, films, preprocess, config, fabric, log)
    except Diverged:
        shutil.rmtree(config.out)  # nothing to go on with, and the next try may have the same --out
        raise
    softmax = films.exclusive and config.protocol == "clean"
    validation, tested = (
        Scored(rows, films.labels[rows], predict_rows(model, films.store, rows, preprocess, softmax, fabric))
        for rows in (films.validation, films.test)
    )
    thresholds = thresholds_of(config, films, validation)
    protocol = protocol_of(config, films, validation, fabric, log)
    protocol |= {"best_step": best_step, "steps": config.in_steps(len(films.pool))[0]}
    features = features_of(films, model, preprocess, fabric, checked_films)
    write_results(config, films, model, preprocess, validation, tested, thresholds, protocol, features, start)
    return config.out / "bundle"


def films_of(config: FinetuneConfig) -> LearningFilms:
    """What is learned from, what chooses and what is tested, with their labels.

    Raises DataError for a store or a split that cannot be learned from, and for test films that the encoder
    was pre-trained on.
    """
    from evax.data.labelled import (
        LabelShare,
        LearningFilms,
        capped_rows,
        column_of,
        known_labels,
        redrawn_epochs,
        split_rows,
        with_findings,
    )
    from evax.data.store import open_store
    from evax.deploy.bundle import refuse_seen_films

    as_paper = config.protocol == "paper"
    store = with_findings(open_store(config.store), config.findings)
    labels = known_labels(store, config.uncertain, config.blank, config.uncertain_ones)
    pool, validation, test = split_rows(store, config.split, config.split_by, needs_validation=not as_paper)
    share = LabelShare(config.label_fraction, config.label_count, labels if config.stratified else None)
    train, epochs = share.draw(store, pool, config.seed), None
    if config.subset == "redrawn":
        shown = config.in_steps(len(pool))[0] * config.batch_size
        train, epochs = redrawn_epochs(store, pool, share, config.seed, shown)
    refuse_seen_films(config.weights, store, test)
    # no test film chooses, unless the protocol is the paper's
    choosing = test if as_paper else capped_rows(store, validation, config.validation_cap)
    refuse_one_sided(
        store.manifest.findings, labels[choosing], f"{'test' if as_paper else 'validation'} split"
    )
    taught = known_labels(
        store,
        config.train_uncertain or config.uncertain,
        config.blank,
        () if config.train_uncertain else config.uncertain_ones,
        config.seed,
    )
    if store.manifest.exclusive:
        refuse_untaught_class(store.manifest.findings, taught[pool], f"train split of {store.path}")
    return LearningFilms(
        store=store,
        labels=labels,
        taught=taught,
        pool=pool,
        train=train,
        epochs=epochs,
        choosing=choosing,
        validation=validation,
        test=test,
        sources=None if config.sources is None else column_of(store, config.sources, "source"),
    )


def thresholds_of(
    config: FinetuneConfig, films: LearningFilms, validation: Scored
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(K,), chosen on validation; NaN for a finding that was not learned, and in the paper's protocol."""
    import numpy as np

    from evax.evaluation.classification import choose_thresholds
    from evax.evaluation.learned import learned_findings, only_learned
    from evax.evaluation.thresholds import ThresholdRule

    if config.protocol == "paper":
        return np.full(len(films.findings), math.nan)
    rule, learned = ThresholdRule.of(config.thresholds), learned_findings(films.taught[films.train])
    return choose_thresholds(validation.probabilities, only_learned(validation.labels, learned), rule)


def protocol_of(
    config: FinetuneConfig, films: LearningFilms, validation: Scored, fabric: Fabric, log: RunLog
) -> dict[str, Any]:
    """What every number of the run must carry."""
    from evax.evaluation.classification import mean_auroc
    from evax.evaluation.learned import learned_findings, only_learned
    from evax.evaluation.report import plain
    from evax.reporting.paper import best_of_the_looks, paper_entries
    from evax.reporting.protocol import protocol_card
    from evax.training.runtime import precision_of

    as_paper = config.protocol == "paper"
    chosen = (
        paper_entries(config, films.exclusive) if as_paper else {"checkpoint_chosen_on": "validation mAUC"}
    )
    if config.train_uncertain:
        chosen["uncertain_in_training"] = config.train_uncertain
    card = protocol_card(
        config, films.store,
        subset=config.subset, train=films.train, validation=films.validation, test=films.test, **chosen,
    )  # fmt: skip
    learnable = only_learned(validation.labels, learned_findings(films.taught[films.train]))
    macro = plain(mean_auroc(validation.probabilities, learnable).value) if len(validation.rows) else None
    card |= {
        "trained_in": precision_of(fabric),
        "validation_mauc": macro,
        "validation_films_per_look": 0 if as_paper else len(films.choosing),
    }
    if as_paper:
        card["paper_protocol"] = best_of_the_looks(log.events("test"), films.exclusive)
    return card


def features_of(
    films: LearningFilms, model: Classifier, preprocess: Preprocess, fabric: Fabric, cap: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """At most `cap` training films and their features, for the search for doubtful labels."""
    from evax.data.labelled import capped_rows
    from evax.training.probes import film_features

    rows = capped_rows(films.store, films.train, cap)
    return rows, film_features(model.encoder, films.store, rows, preprocess, fabric)


def write_results(
    config: FinetuneConfig,
    films: LearningFilms,
    model: Classifier,
    preprocess: Preprocess,
    validation: Scored,
    tested: Scored,
    thresholds: np.ndarray[Any, Any],
    protocol: dict[str, Any],
    features: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
    start: float,
) -> None:
    """Scores of the test, bundle, tables, report and page. start: of the job, by time.perf_counter."""
    from evax.deploy.bundle import Card, model_facts, save_bundle
    from evax.evaluation.learned import learned_findings
    from evax.evaluation.report import evaluate_classifier
    from evax.files import write_json
    from evax.reporting.examine import examine, run_checks
    from evax.reporting.protocol import write_predictions
    from evax.reporting.run_page import write_run_page

    store = films.store
    patients = store.manifest.table["patient"].to_numpy(dtype=str)
    learned = learned_findings(films.taught[films.train])
    metrics = evaluate_classifier(
        tested.probabilities, tested.labels, films.findings, patients[tested.rows], thresholds,
        films.exclusive, resamples=config.resamples, seed=config.seed, learned=learned,
    ).to_json()  # fmt: skip
    mark = None if config.protocol == "clean" else config.protocol
    for name, part in (("val", validation), ("test", tested)):
        path = config.out / f"predictions-{name}.csv"
        write_predictions(path, store, part.rows, part.labels, part.probabilities, mark)
    card = Card(
        kind="classifier",
        encoder=config.encoder,
        preprocess=preprocess,
        findings=films.findings,
        exclusive=films.exclusive,
        thresholds={
            name: None if math.isnan(value) else float(value)
            for name, value in zip(films.findings, thresholds, strict=True)
        },
        training=protocol,
        metrics=metrics,
    )
    save_bundle(config.out / "bundle", card, model)
    report = {
        "kind": "finetune",
        **protocol,
        "test_metrics": metrics,
        **examine(
            store,
            validation,
            tested,
            learned,
            thresholds,
            config.resamples,
            config.seed,
            films.sources,
        ),
        "checks": run_checks(store, films.train, validation, tested, films.labels, features, config.out),
        "model": model_facts(card, model, config.weights),
        "command": command_line("finetune", config),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_json(report, config.out / "report.json")  # a run folder that has one is finished
    write_run_page(config.out)

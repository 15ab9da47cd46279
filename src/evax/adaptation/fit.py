"""The steps of fine-tuning in their order, with looks at the films that choose the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric

from evax.adaptation.scoring import predict_rows
from evax.adaptation.steps import classification_step
from evax.data.labelled import LearningFilms
from evax.data.loader import Batch, Films, training_batches
from evax.data.order import DrawnOrder
from evax.data.preprocess import Preprocess
from evax.data.randaugment import training_view
from evax.evaluation.classification import mean_auroc, top1_accuracy
from evax.evaluation.learned import learned_findings, only_learned
from evax.models.classifier import Classifier
from evax.models.segmenter import Segmenter
from evax.options.adaptation import SegmentConfig, SupervisedConfig
from evax.runs.device import maybe_compile, seeded
from evax.runs.log import RunLog
from evax.runs.optimizer import create_optimizer, lr_at_step
from evax.runs.progress import progress_bar


def fit(
    model: Classifier,
    films: LearningFilms,
    preprocess: Preprocess,
    config: SupervisedConfig,
    fabric: Fabric,
    log: RunLog,
) -> int:
    """Trains; leaves the weights with the best mAUC on films.choosing in the model and returns their step."""
    steps, schedule = config.in_steps(len(films.pool))
    network, optimizer = ready_to_learn(model, config, len(films.pool), fabric)
    train_labels = torch.from_numpy(films.taught[films.train]).float()
    store, choosing, truth = films.store, films.choosing, films.labels[films.choosing]
    learnable = only_learned(truth, learned_findings(films.taught[films.train]))
    exclusive, as_paper = films.exclusive, config.protocol == "paper"
    split = "test" if as_paper else "validation"
    batches = training_batches(
        Films([(store, films.train)]),
        batch_size=config.batch_size,
        size=config.image_size,
        crop=training_view(config.augmentation, config.crop, preprocess, config.seed),
        seed=config.seed,
        steps=range(steps),
        workers=config.workers,
        order=DrawnOrder(films.epochs, config.seed) if films.epochs else None,
    )

    def learn(batch: Batch) -> dict[str, float]:
        return classification_step(
            network,
            optimizer,
            fabric,
            batch,
            train_labels[batch.films],
            preprocess=preprocess,
            exclusive=exclusive,
            lr=lr_at_step(batch.step, steps, schedule),
            clip_norm=schedule.clip_norm,
        )

    def look() -> Look:
        scores = predict_rows(model, store, choosing, preprocess, exclusive and not as_paper, fabric)
        macro = mean_auroc(scores, learnable)
        top1 = {"top1": top1_accuracy(scores, truth)} if as_paper and exclusive else {}
        return Look(macro.value, {"mauc": macro.value, "findings": macro.entered, **top1})

    looks = Looks(look, config.validate_every, split, f"mAUC of {len(choosing)} {split} films")
    return learn_and_choose(model, batches, steps, learn, looks, config.seed, log)


class Look(NamedTuple):
    """What the films that choose the checkpoint say of the weights as they are."""

    score: float
    """The higher the better; NaN where nothing can be said."""
    facts: dict[str, Any]
    """For the log."""


class Looks(NamedTuple):
    """When and how the films that choose the checkpoint are looked at."""

    look: Callable[[], Look] | None
    """None: nothing chooses, the last weights stay."""
    every: int
    """Steps; the last one is always looked at."""
    split: str
    """Of these films, the event of the log."""
    what: str
    """The score and its films, in words."""


def ready_to_learn(
    model: Classifier | Segmenter, config: SupervisedConfig | SegmentConfig, films: int, fabric: Fabric
) -> tuple[Any, torch.optim.Optimizer]:
    """The network on its device, maybe compiled, and its optimizer. films: of an epoch."""
    steps, schedule = config.in_steps(films)
    optimizer = create_optimizer(model, schedule, model.encoder.depth, config.layer_decay)
    tokens = steps * config.batch_size * (config.image_size // model.encoder.stride) ** 2
    return fabric.setup(maybe_compile(model, config.compile, tokens, fabric.device), optimizer)


def learn_and_choose(
    model: Classifier | Segmenter,
    batches: Iterator[Batch],
    steps: int,
    learn: Callable[[Batch], dict[str, float]],
    looks: Looks,
    seed: int,
    log: RunLog,
) -> int:
    """Learns from the batches, leaves the weights of the best look in the model and returns their step.

    learn: one optimizer step; what it returns is logged, `loss` and more.
    """
    best_score, best_step = -math.inf, 0
    best_weights: dict[str, torch.Tensor] = {}
    with progress_bar("fine-tuning", steps) as advance:
        for batch in batches:
            model.train()
            with seeded(seed, batch.step):
                measured = learn(batch)
            done = batch.step + 1
            log.write("step", step=done, images=done * len(batch.films), **measured)
            if looks.look and (done % looks.every == 0 or done == steps):
                score, facts = looks.look()
                log.write(looks.split, step=done, **facts)
                # without any score, where nothing can be learned, the latest weights are kept
                if score > best_score or best_score == -math.inf:
                    best_score, best_step = (-math.inf if math.isnan(score) else score), done
                    best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            best = f", {looks.what} {best_score:.3f}" if best_score > -math.inf else ""
            advance(f"loss {measured['loss']:.3f}{best}")
    if not best_weights:
        return steps
    model.load_state_dict(best_weights)
    return best_step

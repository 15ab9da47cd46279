"""What training a classifier and training a segmenter have in common, in this order: start, fit, save."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from evax.config import command_line
from evax.data.augment import TrainingView
from evax.data.labelled import LabelledData
from evax.data.loader import Batch, DrawnOrder, Films, training_batches
from evax.data.masked import MaskedData
from evax.data.preprocess import Preprocess
from evax.deploy.bundle import (
    Card,
    model_facts,
    read_seen,
    save_bundle,
    save_seen,
    seen_in,
    starting_preprocess,
)
from evax.models.classifier import Classifier
from evax.models.segmenter import Segmenter
from evax.options.adaptation import FinetuneConfig, SegmentConfig
from evax.pages.run import write_run_page
from evax.runs.device import maybe_compile, precision_of, seeded, start_fabric
from evax.runs.files import write_report
from evax.runs.log import RunLog, run_folder
from evax.runs.optimizer import Diverged, backward_and_step, create_optimizer, lr_at_step
from evax.runs.progress import progress_bar
from evax.weights.encoders import digest_of_weights

M = TypeVar("M", Classifier, Segmenter)
Options = FinetuneConfig | SegmentConfig
Data = LabelledData | MaskedData
COMMANDS = {"classifier": "finetune", "segmenter": "segment"}  # kind of a bundle: who makes it
# network, images (B, C, S, S) as bytes on its device, batch -> loss
Loss = Callable[[Any, Tensor, Batch], Tensor]
Step = Callable[[Batch], dict[str, float]]


@dataclass(frozen=True, eq=False)
class Learner(Generic[M]):
    """A network that is trained, how it sees images, and where it runs."""

    model: M
    preprocess: Preprocess
    fabric: Fabric
    weights_digest: str | None
    """Of the weights it started from, see digest_of_weights."""


class Selection(NamedTuple):
    """How validation chooses the checkpoint."""

    evaluate: Callable[[], tuple[float, dict[str, Any]]] | None
    """Score of the current weights, higher is better, NaN where undefined, and what to log. None: the last
    weights are kept."""
    every: int
    """Steps between validation passes; the last step always has one."""
    split: str
    """Whose images these are: the event of the log."""
    description: str
    """The score and its images, for the progress bar."""


class Task(NamedTuple):
    """What is learned and how it is chosen."""

    view: TrainingView
    """What training sees of an image."""
    loss: Loss
    selection: Selection


def start_learner(config: Options, data: Data, build: Callable[[], M], resize_size: int | None) -> Learner[M]:
    """The network with its starting weights, its preprocessing and its device. build: makes the network."""
    chain = starting_preprocess(config.encoder, config.weights, data.store, config.image_size)
    with seeded(config.seed):
        model = build()
    digest = digest_of_weights(config.encoder, config.weights)
    return Learner(model, replace(chain, resize_size=resize_size), start_fabric(config.precision), digest)


@contextmanager
def training_run(config: Options) -> Iterator[RunLog]:
    """The run folder and its log; the folder of a training that diverged is deleted."""
    with run_folder(config.out, config, resume=None) as log:
        try:
            yield log
        except Diverged:
            shutil.rmtree(config.out)
            raise


def fit(
    learner: Learner[M],
    config: Options,
    data: Data,
    task: Task,
    log: RunLog,
) -> int:
    """Trains; leaves the weights with the best validation score in the model and returns their step."""
    steps, _ = config.in_steps(len(data.pool))
    batches = batches_of(config, data, task.view, range(steps))
    step = training_step(learner, config, data, task.loss)
    return fit_and_select(learner.model, batches, steps, step, task.selection, config.seed, log)


def batches_of(config: Options, data: Data, view: TrainingView, steps: range) -> Iterator[Batch]:
    """Training images of these steps, as the view shows them."""
    return training_batches(
        Films([(data.store, data.train)]),
        batch_size=config.batch_size,
        size=config.image_size,
        crop=view,
        seed=config.seed,
        steps=steps,
        workers=config.workers,
        **input_of(config, data),
    )


def training_step(learner: Learner[M], config: Options, data: Data, loss: Loss) -> Step:
    """One optimizer step of the network on its device, compiled if that pays. loss: see Loss."""
    model, fabric = learner.model, learner.fabric
    steps, schedule = config.in_steps(len(data.pool))
    optimizer: Any = create_optimizer(model, schedule, model.encoder.depth, config.layer_decay)
    tokens = steps * config.batch_size * (config.image_size // model.encoder.stride) ** 2
    network, optimizer = fabric.setup(maybe_compile(model, config.compile, tokens, fabric.device), optimizer)

    def step(batch: Batch) -> dict[str, float]:
        start = time.perf_counter()
        images = fabric.to_device(torch.from_numpy(batch.images))
        lr = lr_at_step(batch.step, steps, schedule)
        measured = backward_and_step(
            loss(network, images, batch), network, optimizer, fabric, lr, schedule.clip_norm, batch.step
        )
        return measured | {"images_per_s": len(images) / (time.perf_counter() - start)}

    return step


def input_of(config: Options, data: Data) -> dict[str, Any]:
    """Options of training_batches: the masks of an image are further channels, redrawn labels an order."""
    if isinstance(data, MaskedData):
        return {"channels": 1 + len(data.findings)}
    return {"order": DrawnOrder(data.epochs, config.seed) if data.epochs else None}


def fit_and_select(
    model: Classifier | Segmenter,
    batches: Iterator[Batch],
    steps: int,
    step: Step,
    selection: Selection,
    seed: int,
    log: RunLog,
) -> int:
    """Takes the steps, leaves the weights of the best validation pass in the model and returns their step.

    step: one optimizer step; returns what is logged, `loss` and more.
    """
    best_score, best_step = -math.inf, 0
    best_weights: dict[str, Tensor] = {}
    with progress_bar("fine-tuning", steps) as advance:
        for batch in batches:
            model.train()
            with seeded(seed, batch.step):
                measured = step(batch)
            done = batch.step + 1
            log.write("step", step=done, images=done * len(batch.films), **measured)
            if selection.evaluate and (done % selection.every == 0 or done == steps):
                score, facts = selection.evaluate()
                log.write(selection.split, step=done, **facts)
                # as long as no score is defined, the latest weights are kept
                if score > best_score or best_score == -math.inf:
                    best_score, best_step = (-math.inf if math.isnan(score) else score), done
                    best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            best = f", {selection.description} {best_score:.3f}" if best_score > -math.inf else ""
            advance(f"loss {measured['loss']:.3f}{best}")
    if not best_weights:
        return steps
    model.load_state_dict(best_weights)
    return best_step


def training_facts(learner: Learner[M], config: Options, data: Data, best_step: int) -> dict[str, Any]:
    """Entries of report.json and of the card that every training has."""
    return {
        "trained_in": precision_of(learner.fabric),
        "weights_digest": learner.weights_digest,
        "best_step": best_step,
        "steps": config.in_steps(len(data.pool))[0],
    }


def save_trained(learner: Learner[M], config: Options, data: Data, card: Card) -> Path:
    """Writes the bundle and returns its folder.

    It has digests of the images that it was trained on or chosen by, and of those its weights began from.
    """
    bundle = config.out / "bundle"
    save_bundle(bundle, card, learner.model)
    save_seen(bundle, seen_in(data.store, data.train, data.validation).also(read_seen(config.weights)))
    return bundle


def save_report(
    learner: Learner[M], config: Options, card: Card, content: dict[str, Any], start: float
) -> None:
    """Writes report.json and report.html. content: entries of report.json. start: of the run, by
    time.perf_counter.
    """
    kind = COMMANDS[card.kind]
    report = {
        "kind": kind,
        **content,
        "model": model_facts(card, learner.model, config.weights),
        "command": command_line(kind, config),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_report(report, config.out / "report.json")  # last: a run folder that has one is finished
    write_run_page(config.out)

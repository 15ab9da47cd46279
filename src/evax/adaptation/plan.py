"""How long a fine-tuning may be to fit into a time, and what other sizes and encoders would cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from evax.adaptation.classify import BATCH, classification_task, classifier_learner, score_rows
from evax.adaptation.examine import CHECKED_IMAGES
from evax.adaptation.spine import Learner, Task, batches_of, training_step
from evax.data.labelled import LabelledData
from evax.data.loader import Batch
from evax.models.classifier import Classifier
from evax.options.adaptation import FinetuneConfig
from evax.runs.device import decided_compile, decided_precision, forward_operations
from evax.runs.plan import (
    Cost,
    Length,
    Row,
    check_memory,
    compared_sizes,
    estimate_step,
    seconds_of,
    seconds_per_step,
    speed_table,
)

SECONDS_AROUND = 10.0  # intervals, checks and the page
MANY_STEPS = 100_000  # more than are measured


def choose_steps(config: FinetuneConfig, data: LabelledData, start: float) -> FinetuneConfig:
    """The options with the steps that fit into their minutes; without minutes as they are.

    The precision and compilation that were measured are in them, too: with them the run can be repeated.
    All that is built here is thrown away. start: of the run, by time.perf_counter.
    Raises ConfigError if not one step fits, or a step does not fit into memory.
    """
    if config.minutes is None:
        return config
    until = start + 60 * config.minutes
    config = replace(config, precision=decided_precision(config.precision))
    built = time.perf_counter()
    learner = classifier_learner(config, data)
    task = classification_task(learner, config, data)
    building = time.perf_counter() - built
    cost = cost_of(learner, config, data, task)
    check_memory(cost.bytes, learner.fabric.device, "give a smaller --batch-size, --image-size or --encoder")
    images = int(max(0, until - time.perf_counter()) / cost.seconds) * config.batch_size
    tokens = images * (config.image_size // learner.model.encoder.stride) ** 2
    config = replace(config, compile=decided_compile(config.compile, tokens))
    step = training_step(learner, config, data, task.loss)
    learner.model.train()
    seconds = seconds_per_step(step, batches_of(config, data, task.view, range(MANY_STEPS)), learner.fabric)
    some = data.choosing[:BATCH]
    scoring = seconds_of(lambda: score_rows(learner, data.store, some, data.exclusive)) / len(some)
    looked_at = len(data.choosing) * scoring
    scored = len(data.validation) + len(data.test) + min(CHECKED_IMAGES, len(data.train))
    if config.head == "probe":
        scored += len(data.train) + len(data.choosing)
    around = building + SECONDS_AROUND + scored * scoring + looked_at
    each = seconds + looked_at / config.validate_every
    length = Length.fitting(until - time.perf_counter(), around, each, config.batch_size, len(data.pool))
    length.log(config.image_size, cost.bytes)
    return replace(config, minutes=None, steps=length.steps)


def cost_of(learner: Learner[Classifier], config: FinetuneConfig, data: LabelledData, task: Task) -> Cost:
    """Of a step that is not compiled."""

    def batches(size: int) -> Iterator[Batch]:
        return batches_of(replace(config, batch_size=size), data, task.view, range(2))

    learner.model.train()
    step = training_step(learner, replace(config, compile="off"), data, task.loss)
    return estimate_step(step, batches, config.batch_size, learner.model, learner.fabric)


def compare_sizes(config: FinetuneConfig, data: LabelledData) -> str:
    """A table of speed, length and memory for several image sizes and encoders."""
    config = replace(config, precision=decided_precision(config.precision), weights=None, resize_size=None)
    rows = []
    for size, encoder in compared_sizes(config.image_size, config.encoder):
        sized = replace(config, image_size=size, encoder=encoder)
        learner = classifier_learner(sized, data)
        operations = 3.0 * forward_operations(learner.model, torch.zeros(1, 1, size, size))
        cost = cost_of(learner, sized, data, classification_task(learner, sized, data))
        rows.append(Row(size, encoder, config.batch_size / cost.seconds, cost.bytes, operations))
    fabric = learner.fabric
    if config.minutes is not None:
        steps_per_image = 60 * config.minutes / config.batch_size
        head = f"steps in {config.minutes:g} min"
        return speed_table(rows, fabric, head, lambda speed: speed * steps_per_image)
    steps, _ = config.in_steps(len(data.pool))
    minutes = steps * config.batch_size / 60
    return speed_table(rows, fabric, f"minutes for {steps:,} steps", lambda speed: minutes / speed)

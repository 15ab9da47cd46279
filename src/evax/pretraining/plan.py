"""How long a pre-training may be to fit into a time, and what other sizes and encoders would cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_fabric import Fabric

from evax.data.loader import Batch, Films
from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore
from evax.data.unlabelled import common_preprocess, images_outside_tests
from evax.models.tokenizers import Tokenizer
from evax.options.pretraining import EPOCHS, PretrainConfig
from evax.pretraining.loop import Pretraining, crops_of, set_up
from evax.pretraining.resume import precision_of_run
from evax.pretraining.run import check_equal_parts, probe_of, student_of, tokenizer_of
from evax.pretraining.step import masked_image_step
from evax.pretraining.watch import step_operations
from evax.runs.checkpoint import save_checkpoint
from evax.runs.device import decided_compile, on_first_process, start_shared_fabric
from evax.runs.log import QuietLog
from evax.runs.optimizer import create_optimizer
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
from evax.weights.encoders import EncoderWeights

SECONDS_AROUND = 6.0  # the start of the log, the bundle, curves and page
MANY_STEPS = 100_000  # more than are measured


def choose_epochs(config: PretrainConfig, stores: list[ImageStore], start: float) -> PretrainConfig:
    """The options with the epochs that fit into their hours; without hours as they are.

    The precision and compilation that were measured are in them, too: with them the run can be repeated.
    All that is built here is thrown away. start: of the run, by time.perf_counter.
    Raises ConfigError if not one step fits, or a step does not fit into memory.
    """
    if config.hours is None:
        return config
    until = start + 3600 * config.hours
    config = replace(config, precision=precision_of_run(config))
    fabric = start_shared_fabric(config.precision)
    check_equal_parts(config, fabric.world_size)
    EncoderWeights(config.encoder, config.weights).digest()  # raises before anything is measured
    built = time.perf_counter()
    preprocess = common_preprocess(stores, config.image_size)
    run = rehearsal(config, images_outside_tests(stores), preprocess, fabric)
    building = time.perf_counter() - built
    images, cost = len(run.images), cost_of(run)
    remedy = f"give --accumulate {2 * config.accumulate}, or a smaller batch, image size or encoder"
    on_first_process(fabric, lambda: check_memory(cost.bytes, fabric.device, remedy))
    most_steps = fabric.broadcast(math.ceil(max(0, until - time.perf_counter()) / cost.seconds))
    tokens = most_steps * config.batch_size * config.patches // fabric.world_size
    config = replace(config, compile=decided_compile(config.compile, tokens))
    run = replace(run, config=config)
    step = partial(masked_image_step, set_up(run), options=config, lr=0.0)
    seconds = seconds_per_step(step, crops_of(run, range(MANY_STEPS)), fabric)
    saving = seconds_of_checkpoint(run)
    probe = probe_of(config, run.model, run.preprocess, fabric)
    probing = seconds_of(probe) if probe and fabric.is_global_zero else 0.0
    around = building + SECONDS_AROUND + 2 * probing + saving
    each = seconds + saving / config.checkpoint_every
    each += probing / max(config.probe_every * images / config.batch_size, 1)

    def fitting() -> int:
        length = Length.fitting(until - time.perf_counter(), around, each, config.batch_size, images)
        length.log(config.image_size, cost.bytes)
        return length.steps

    steps = fabric.broadcast(on_first_process(fabric, fitting))
    return replace(config, hours=None).with_steps(steps, images)


def rehearsal(
    config: PretrainConfig,
    images: Films,
    preprocess: Preprocess,
    fabric: Fabric,
    tokenizer: Tokenizer | None = None,
) -> Pretraining:
    """The pre-training as it would be, but from random weights and without a log.

    tokenizer: if it is open already.
    """
    tokenizer = tokenizer or tokenizer_of(config, preprocess)
    model = student_of(config, tokenizer, EncoderWeights(config.encoder, None))
    optimizer = create_optimizer(model, config.optimizer, depth=len(model.encoder.blocks))
    return Pretraining(
        config, model, tokenizer, optimizer, images, preprocess, fabric, {"steps": MANY_STEPS}, QuietLog()
    )


def cost_of(run: Pretraining) -> Cost:
    """Of a step that is not compiled."""
    config, processes = run.config, run.fabric.world_size
    learner = set_up(replace(run, config=replace(config, compile="off")))
    whole = replace(config, accumulate=1)

    def batches(size: int) -> Iterator[Batch]:
        return crops_of(replace(run, config=replace(config, batch_size=size * processes)), range(2))

    part = config.batch_size // (processes * config.accumulate)
    step = partial(masked_image_step, learner, options=whole, lr=0.0)
    cost = estimate_step(step, batches, part, run.model, run.fabric)
    return Cost(cost.seconds * config.accumulate, cost.bytes)


def seconds_of_checkpoint(run: Pretraining) -> float:
    """How long one takes, written next to the run folder and deleted."""
    if not run.fabric.is_global_zero:
        return 0.0
    there = next(folder for folder in run.config.out.absolute().parents if folder.is_dir())
    with TemporaryDirectory(dir=there, prefix=".evax-") as folder:
        return seconds_of(lambda: save_checkpoint(Path(folder), 0, run.model, run.optimizer, {}))


def compare_sizes(config: PretrainConfig, stores: list[ImageStore]) -> str:
    """A table of speed, length and memory for several image sizes and encoders."""
    config = replace(config, precision=precision_of_run(config))
    fabric = start_shared_fabric(config.precision)
    check_equal_parts(config, fabric.world_size)
    images, preprocess = images_outside_tests(stores), common_preprocess(stores, config.image_size)
    tokenizers: dict[int, Tokenizer] = {}
    rows = []
    for size, encoder in compared_sizes(config.image_size, config.encoder):
        sized, chain = replace(config, image_size=size, encoder=encoder), preprocess.at(size)
        run = rehearsal(sized, images, chain, fabric, tokenizers.get(size))
        tokenizers[size] = run.tokenizer
        operations, cost = step_operations(run.model, size, sized.hidden), cost_of(run)
        rows.append(Row(size, encoder, config.batch_size / cost.seconds, cost.bytes, operations))
    if config.hours is not None:
        epochs = 3600 * config.hours / len(images)
        return speed_table(rows, fabric, f"epochs in {config.hours:g} h", lambda speed: speed * epochs)
    hours = config.steps(len(images)) * config.batch_size / 3600
    head = f"hours for {config.epochs or EPOCHS:g} epochs"
    return speed_table(rows, fabric, head, lambda speed: hours / speed)

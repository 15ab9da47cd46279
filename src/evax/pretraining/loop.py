"""The steps of pre-training in their order, with checkpoints, probes and the log."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from evax.data.loader import Batch, Films, ImageOrder, training_batches
from evax.data.preprocess import Preprocess
from evax.errors import DataError, Interrupted
from evax.models.masked import MaskedImageModel
from evax.models.tokenizers import Tokenizer
from evax.options.pretraining import PretrainConfig
from evax.pretraining.probe import ProbeResult
from evax.pretraining.step import MaskedImageLearner, masked_image_step
from evax.pretraining.watch import Watch, measure_speed
from evax.runs.checkpoint import last_good, save_checkpoint
from evax.runs.device import is_compiled, maybe_compile, precision_of, seeded, stop_requests
from evax.runs.log import RunLog
from evax.runs.optimizer import Diverged, lr_at_step
from evax.runs.progress import live_panel

logger = logging.getLogger("evax")


@dataclass(frozen=True, eq=False)
class Pretraining:
    """A pre-training: what learns, from which images, and where it is written."""

    config: PretrainConfig
    model: MaskedImageModel
    tokenizer: Tokenizer
    optimizer: torch.optim.Optimizer
    images: Films
    preprocess: Preprocess
    fabric: Fabric
    identity: dict[str, Any]
    """What a resumed run must share, see identity_of; its "steps" is their number."""
    log: RunLog

    @property
    def steps(self) -> int:
        return int(self.identity["steps"])

    @property
    def checkpoints(self) -> Path:
        return self.config.out / "checkpoints"

    def save(self, done: int) -> None:
        """A checkpoint after so many steps."""
        precision = self.fabric.strategy.precision
        save_checkpoint(self.checkpoints, done, self.model, self.optimizer, self.identity, precision)


def learn(run: Pretraining, first: int, probe: Callable[[], ProbeResult] | None) -> None:
    """Takes the steps from `first` on; leaves the weights in the model.

    probe: measures the features of the encoder as it is; only the first process calls it.
    Raises DataError for a run that diverged, Interrupted (after saving) when Ctrl-C or SIGTERM stopped it.
    """
    config, fabric, steps = run.config, run.fabric, run.steps
    here, batch_size = fabric.is_global_zero, config.batch_size
    speed = measure_speed(run.model, fabric, config.image_size, config.hidden)
    watch = Watch(run.log, steps, first, *speed)
    learner = set_up(run)
    compiled = is_compiled(learner.tokenizer)
    run.log.write(
        "start", step=first, steps=steps, films=len(run.images), compiled=compiled,
        precision=precision_of(fabric), processes=fabric.world_size, device=fabric.device.type,
    )  # fmt: skip
    if here and first:
        logger.info("Continuing after step %d of %d.", first, steps)
    if here and compiled:
        logger.info("The networks are compiled first; the first step waits for it.")

    def probe_at(step: int) -> None:
        if probe is not None and here:  # the other processes wait for the first at their next step
            watch.probe(step, step * batch_size, probe())

    # a step is probed at most once, however short the distance
    distance = max(config.probe_every * len(run.images), batch_size)
    probe_steps = {math.ceil(k * distance / batch_size) for k in range(steps)}
    with live_panel("pre-training", steps, first, shown=here) as advance, stop_requests() as stop:
        for batch in crops_of(run, range(first, steps)):
            if batch.step in probe_steps:
                probe_at(batch.step)
            with seeded(config.seed, batch.step):
                try:
                    lr = lr_at_step(batch.step, steps, config.optimizer)
                    measured = masked_image_step(learner, batch, config, lr)
                except Diverged as error:
                    raise DataError(f"{error} {last_good(run.checkpoints)}") from error
            done = batch.step + 1
            watch.step(done, batch.step * batch_size // len(run.images), done * batch_size, measured)
            stop.agree(fabric)
            if here and (done % config.checkpoint_every == 0 or done == steps or stop):
                run.save(done)
            if stop:
                fabric.barrier()  # torchrun ends all processes when one has ended: not while one saves
                raise Interrupted(
                    f"stopped after step {done} of {steps}; it is saved, --resume continues.",
                    stop.signal_number,
                )
            advance(watch.news())
    probe_at(steps)


def crops_of(run: Pretraining, steps: range) -> Iterator[Batch]:
    """The crops of these steps, this process's share of them."""
    config = run.config
    return training_batches(
        run.images,
        batch_size=config.batch_size,
        size=max(config.image_size, run.tokenizer.view),  # the crop must have what the tokenizer sees
        crop=config.crop,
        seed=config.seed,
        steps=steps,
        workers=config.workers,
        order=ImageOrder(run.images.counts(), config.seed, config.store_shares),
        rank=run.fabric.global_rank,
        processes=run.fabric.world_size,
    )


def set_up(run: Pretraining) -> MaskedImageLearner:
    """The networks and the optimizer on their device, compiled if that pays."""
    config, fabric = run.config, run.fabric
    # tokens of the whole run: a resumed one must decide as before, or its bits would differ
    tokens = run.steps * config.batch_size * config.patches // fabric.world_size
    student = maybe_compile(run.model, config.compile, tokens, fabric.device)
    network, optimizer = fabric.setup(student, run.optimizer)
    tokenizer = maybe_compile(fabric.to_device(run.tokenizer), config.compile, tokens, fabric.device)
    return MaskedImageLearner(network, tokenizer, optimizer, fabric, run.preprocess)

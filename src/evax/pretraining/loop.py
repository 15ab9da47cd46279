"""The steps of pre-training in their order, with checkpoints, probes and the log."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from evax.data.loader import FilmOrder, Films, training_batches
from evax.data.preprocess import Preprocess
from evax.errors import DataError, Interrupted
from evax.models.masked import MaskedImageModel
from evax.models.tokenizers import Tokenizer
from evax.options.pretraining import MaskedImageConfig
from evax.pretraining.probe import ProbeResult
from evax.pretraining.step import masked_image_step
from evax.pretraining.watch import start_watch
from evax.runs.checkpoint import last_good, save_checkpoint
from evax.runs.device import is_compiled, maybe_compile, precision_of, seeded, stop_requests
from evax.runs.log import RunLog
from evax.runs.optimizer import Diverged, lr_at_step
from evax.runs.progress import live_panel

logger = logging.getLogger("evax")


def learn(
    model: MaskedImageModel,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    films: Films,
    order: FilmOrder,
    preprocess: Preprocess,
    config: MaskedImageConfig,
    fabric: Fabric,
    log: RunLog,
    checkpoints: Path,
    facts: dict[str, Any],
    first: int,
    probe: Callable[[], ProbeResult] | None,
) -> None:
    """The steps from `first` on; leaves the weights in the model.

    facts: what the run is, for the checkpoints; its "steps" is their number. probe: how good the encoder's
    features are at this moment; only the first process asks.
    Raises DataError for a run that diverged, Interrupted (after saving) when Ctrl-C or SIGTERM stopped it.
    """
    steps, here = facts["steps"], fabric.is_global_zero
    watch = start_watch(
        model,
        log,
        fabric,
        image_size=config.image_size,
        hidden=config.hidden,
        steps=steps,
        first=first,
    )
    # of the whole run: one that goes on must not find that compiling no longer pays, or its bits would differ
    tokens = steps * config.batch_size * config.patches // fabric.world_size
    student, optimizer = fabric.setup(maybe_compile(model, config.compile, tokens, fabric.device), optimizer)
    teacher = maybe_compile(fabric.to_device(tokenizer), config.compile, tokens, fabric.device)
    log.write(
        "start", step=first, steps=steps, films=len(films), compiled=is_compiled(teacher),
        precision=precision_of(fabric), processes=fabric.world_size, device=fabric.device.type,
    )  # fmt: skip

    if here and first:
        logger.info("Going on after step %d of %d.", first, steps)
    if here and is_compiled(teacher):
        logger.info("The networks are compiled first; the first step waits for it.")

    def look(step: int) -> None:
        if probe is not None and here:  # the other processes wait for the first at their next step
            watch.probe(step, step * config.batch_size, probe())

    # a step is probed at most once, however short the distance
    distance = max(config.probe_every * len(films), config.batch_size)
    probe_steps = {math.ceil(k * distance / config.batch_size) for k in range(steps)}
    batches = training_batches(
        films,
        batch_size=config.batch_size,
        size=max(config.image_size, tokenizer.view),  # what the tokenizer may see, the crop must have
        crop=config.crop,
        seed=config.seed,
        steps=range(first, steps),
        workers=config.workers,
        order=order,
        rank=fabric.global_rank,
        processes=fabric.world_size,
    )
    with live_panel("pre-training", steps, first, shown=here) as advance, stop_requests() as stop:
        for batch in batches:
            if batch.step in probe_steps:
                look(batch.step)
            with seeded(config.seed, batch.step):
                try:
                    measured = masked_image_step(
                        student,
                        teacher,
                        optimizer,
                        fabric,
                        batch,
                        preprocess=preprocess,
                        mask=config.mask,
                        mask_ratio=config.mask_ratio,
                        seed=config.seed,
                        lr=lr_at_step(batch.step, steps, config.optimizer),
                        clip_norm=config.optimizer.clip_norm,
                        accumulate=config.accumulate,
                    )
                except Diverged as error:
                    raise DataError(f"{error} {last_good(checkpoints)}") from error
            done = batch.step + 1
            epoch = batch.step * config.batch_size // len(films)
            watch.step(done, epoch, done * config.batch_size, measured)
            stop.agree(fabric)
            if here and (done % config.checkpoint_every == 0 or done == steps or stop):
                save_checkpoint(checkpoints, done, model, optimizer, facts, fabric.strategy.precision)
            if stop:
                fabric.barrier()  # torchrun ends all processes when one has ended: not while one saves
                raise Interrupted(
                    f"stopped after step {done} of {steps}; it is saved, --resume goes on.",
                    stop.signal_number,
                )
            advance(watch.news())
    look(steps)

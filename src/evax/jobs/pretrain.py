"""evax pretrain: unlabelled stores -> an encoder, by masked image modelling against a frozen tokenizer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evax.config import job
from evax.errors import ConfigError
from evax.options.pretraining import PretrainConfig
from evax.options.training import Precision
from evax.pretraining.resume import (
    begun_with,
    identity_of_run,
    is_finished,
    refuse_other_options,
    refuse_other_probe_store,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from evax.data.preprocess import Preprocess
    from evax.data.store import ImageStore
    from evax.models.masked import MaskedImageModel
    from evax.models.tokenizers import Tokenizer
    from evax.pretraining.probe import ProbeResult

logger = logging.getLogger("evax")
PATCH_GRADIENT = 0.1  # with stop_grad_conv1; facts 2.1


@job(PretrainConfig)
def pretrain(config: PretrainConfig) -> Path:
    """Runs the pre-training; returns the folder of the encoder bundle. Of a finished run nothing is written.

    Under torchrun all processes share the work, and the first one writes.
    Raises ConfigError for a run folder that exists, DataError for stores that cannot be used and for a run
    that diverged, WeightsError for a checkpoint of another run, Interrupted (after saving) when Ctrl-C or
    SIGTERM stopped it.
    """
    from evax.runs.log import QuietLog, refuse_used_folder, start_run

    start = time.perf_counter()
    refuse_used_folder(config.out, config, config.resume)  # before torch, as far as this can be known
    begun = begun_with(config)
    stores = stores_of(config)
    refuse_other_probe_store(config)
    from evax.data.loader import FilmOrder
    from evax.data.unlabelled import films_outside_tests
    from evax.deploy.lineage import earlier_training
    from evax.pretraining.loop import learn
    from evax.pretraining.results import write_results
    from evax.runs.checkpoint import load_newest_checkpoint
    from evax.runs.device import on_first_process, start_shared_fabric
    from evax.runs.optimizer import create_optimizer
    from evax.runs.trackers import open_mirrors

    refuse_other_options(config, begun)
    mirrors = open_mirrors(config.track)
    films = films_outside_tests(stores)
    before = earlier_training(config.weights)
    preprocess = preprocess_of(config, stores)
    tokenizer = tokenizer_of(config, preprocess)
    facts = identity_of_run(config, stores, len(films), tokenizer)
    if is_finished(config, facts):
        return config.out / "encoder"
    model = student_of(config, tokenizer)
    optimizer = create_optimizer(model, config.optimizer, depth=len(model.encoder.blocks))
    fabric = start_shared_fabric(precision_of_run(config))
    probe = probe_of(config, model, preprocess, fabric)
    refuse_uneven_parts(config, fabric.world_size)
    log = (
        on_first_process(fabric, lambda: start_run(config.out, config, config.resume, mirrors)) or QuietLog()
    )
    with log:
        checkpoints = config.out / "checkpoints"
        first = load_newest_checkpoint(checkpoints, model, optimizer, facts, fabric.strategy.precision)
        order = FilmOrder(films.counts(), config.seed, config.store_shares)
        if fabric.is_global_zero:
            warn_of_few_steps(config, len(films), facts["steps"])
        learn(
            model, tokenizer, optimizer, films, order, preprocess, config, fabric, log, checkpoints, facts,
            first, probe,
        )  # fmt: skip
        if fabric.is_global_zero:
            write_results(config, begun, model, films, preprocess, log, facts, before, start)
    fabric.barrier()
    return config.out / "encoder"


def stores_of(config: PretrainConfig) -> list[ImageStore]:
    """All of them open, and through the audit that was asked for, else compared by names of patients."""
    from evax.data.leaks import require_audit, warn_of_tested_patients
    from evax.data.store import open_store

    stores = [open_store(path) for path in config.stores]
    if config.audit:
        require_audit(config.audit, stores)
    else:
        warn_of_tested_patients(stores)
    return stores


def tokenizer_of(config: PretrainConfig, preprocess: Preprocess) -> Tokenizer:
    """Frozen, with the normalisation that was asked for."""
    from evax.deploy.tokenizer import open_tokenizer

    tokenizer = open_tokenizer(
        config.tokenizer,
        config.tokenizer_weights,
        image_size=config.image_size,
        layer=config.tokenizer_layer,
        view=config.tokenizer_view,
    )
    if config.tokenizer_norm == "store":
        tokenizer.normalise_by(preprocess.mean, preprocess.std)
    return tokenizer


def student_of(config: PretrainConfig, tokenizer: Tokenizer) -> MaskedImageModel:
    """The network that learns, with the weights it starts from."""
    from evax.models.masked import MaskedImageModel
    from evax.runs.device import seeded
    from evax.weights.encoders import create_encoder

    with seeded(config.seed):
        encoder = create_encoder(config.encoder, config.weights, img_size=config.image_size)
        model = MaskedImageModel(encoder, tokenizer.width)
    model.encoder.patch_gradient = PATCH_GRADIENT if config.stop_grad_conv1 else 1.0
    model.encoder.grad_checkpointing = config.grad_checkpointing
    return model


def precision_of_run(config: PretrainConfig) -> Precision:
    """As asked; a run that goes on keeps what it began with."""
    from evax.runs.device import decided_precision
    from evax.runs.log import read_events

    started = read_events(config.out / "log.jsonl", "start") if config.resume else []
    return decided_precision(config.precision, earlier=started[-1]["precision"] if started else None)


def probe_of(
    config: PretrainConfig, model: MaskedImageModel, preprocess: Preprocess, fabric: Fabric
) -> Callable[[], ProbeResult] | None:
    """What tells how good the features are; None without a labelled store."""
    from functools import partial

    from evax.pretraining.probe import open_probe_store, probe

    if config.probe_store is None:
        return None
    return partial(probe, model.encoder, open_probe_store(config.probe_store), preprocess, fabric)


def refuse_uneven_parts(config: PretrainConfig, processes: int) -> None:
    """Equal parts only: the gradient is the mean of the parts' means. Raises ConfigError."""
    if config.batch_size % (parts := processes * config.accumulate):
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be cut into {parts} equal parts ({processes} processes x "
            f"accumulate {config.accumulate}): make it a multiple of {parts}."
        )


def warn_of_few_steps(config: PretrainConfig, films: int, steps: int) -> None:
    """A batch of more films than there are goes round them more than once in one step."""
    if config.batch_size > films:
        logger.warning(
            "--batch-size %d is more than the %d films of an epoch: %g epochs are %d optimizer steps in all. "
            "A smaller batch makes more of them.", config.batch_size, films, config.epochs, steps,
        )  # fmt: skip


def preprocess_of(config: PretrainConfig, stores: list[ImageStore]) -> Preprocess:
    """The chain of the encoder bundle to start from, else one with the normalisation of published weights or
    the statistics of all stores.

    Raises DataError for stores of other sizes than each other's or the bundle's.
    """
    from evax.data.unlabelled import common_preprocess
    from evax.deploy.bundle import is_bundle, starting_preprocess
    from evax.weights.normalisation import own_normalisation

    common = common_preprocess(stores, config.image_size)
    if is_bundle(config.weights):
        chain = starting_preprocess(config.encoder, config.weights, stores[0], config.image_size)
        return replace(chain, bits=common.bits) if any(store.bits for store in stores) else chain
    own = own_normalisation(config.encoder, config.weights)
    return common if own is None else replace(common, mean=own[0], std=own[1])

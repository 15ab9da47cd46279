"""Pre-training of an encoder without labels, from open stores to its bundle (paper, Methods)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from evax.config import command_line
from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore
from evax.data.unlabelled import common_preprocess, images_outside_tests
from evax.deploy.bundle import (
    Card,
    Seen,
    earlier_training,
    is_bundle,
    read_seen,
    save_bundle,
    save_seen,
    seen_in,
    starting_preprocess,
    training_so_far,
)
from evax.deploy.tokenizer import open_tokenizer
from evax.errors import ConfigError
from evax.models.masked import MaskedImageModel
from evax.models.tokenizers import Tokenizer
from evax.options.pretraining import EPOCHS, PretrainConfig
from evax.pages.drawing import save_figure
from evax.pages.figures import run_curves
from evax.pages.run import write_run_page
from evax.pretraining.loop import Pretraining, learn
from evax.pretraining.probe import ProbeResult, open_probe_store, probe_features
from evax.pretraining.resume import check_same_options, identity_of, is_finished, precision_of_run
from evax.pretraining.watch import images_per_s, log_final_probe, training_summary
from evax.runs.checkpoint import load_newest_checkpoint
from evax.runs.device import on_first_process, seeded, start_shared_fabric
from evax.runs.files import write_report
from evax.runs.log import QuietLog, start_run
from evax.runs.optimizer import create_optimizer
from evax.runs.trackers import open_trackers
from evax.weights.encoders import EncoderWeights

logger = logging.getLogger("evax")
PATCH_GRADIENT = 0.1  # with stop_grad_conv1, as in the EVA-02 code


def run_pretraining(
    config: PretrainConfig, begun: PretrainConfig, stores: list[ImageStore], start: float
) -> Path:
    """Returns the folder of the encoder bundle. A finished run is left as it is.

    begun: the options that the run was begun with. start: of this part, by time.perf_counter.
    """
    check_same_options(config, begun)
    trackers = open_trackers(config.track)
    images = images_outside_tests(stores)
    before = earlier_training(config.weights)
    weights = EncoderWeights(config.encoder, config.weights)
    preprocess = preprocess_of(config, stores, weights)
    tokenizer = tokenizer_of(config, preprocess)
    identity = identity_of(config, stores, len(images), tokenizer.identity(), weights.digest())
    if is_finished(config, identity):
        return config.out / "encoder"
    model = student_of(config, tokenizer, weights)
    optimizer = create_optimizer(model, config.optimizer, depth=len(model.encoder.blocks))
    fabric = start_shared_fabric(precision_of_run(config))
    probe = probe_of(config, model, preprocess, fabric)
    check_equal_parts(config, fabric.world_size)
    log = (
        on_first_process(fabric, lambda: start_run(config.out, config, config.resume, trackers)) or QuietLog()
    )
    with log:
        run = Pretraining(config, model, tokenizer, optimizer, images, preprocess, fabric, identity, log)
        first = load_newest_checkpoint(run.checkpoints, model, optimizer, identity, fabric.strategy.precision)
        if fabric.is_global_zero:
            warn_if_few_steps(config, len(images), run.steps)
        learn(run, first, probe)
        if fabric.is_global_zero:
            save_results(run, begun, before, start)
    fabric.barrier()
    return config.out / "encoder"


def preprocess_of(config: PretrainConfig, stores: list[ImageStore], weights: EncoderWeights) -> Preprocess:
    """The chain of the encoder bundle to start from, else one with the normalisation of published weights or
    the statistics of all stores.

    Raises DataError for stores of other sizes than each other's or the bundle's.
    """
    common = common_preprocess(stores, config.image_size)
    if is_bundle(config.weights):
        chain = starting_preprocess(config.encoder, config.weights, stores[0], config.image_size)
        return replace(chain, bits=common.bits) if any(store.bits for store in stores) else chain
    own = weights.normalisation()
    return common if own is None else replace(common, mean=own[0], std=own[1])


def tokenizer_of(config: PretrainConfig, preprocess: Preprocess) -> Tokenizer:
    """Frozen, with the normalisation that was asked for."""
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


def student_of(config: PretrainConfig, tokenizer: Tokenizer, weights: EncoderWeights) -> MaskedImageModel:
    """The network that learns, with the weights it starts from."""
    with seeded(config.seed):
        encoder = weights.build(img_size=config.image_size)
        model = MaskedImageModel(encoder, tokenizer.width)
    model.encoder.patch_gradient = PATCH_GRADIENT if config.stop_grad_conv1 else 1.0
    model.encoder.grad_checkpointing = config.grad_checkpointing
    return model


def probe_of(
    config: PretrainConfig, model: MaskedImageModel, preprocess: Preprocess, fabric: Fabric
) -> Callable[[], ProbeResult] | None:
    """Measures the features of the encoder as it is; None without a labelled store."""
    if config.probe_store is None:
        return None
    return partial(probe_features, model.encoder, open_probe_store(config.probe_store), preprocess, fabric)


def check_equal_parts(config: PretrainConfig, processes: int) -> None:
    """Raises ConfigError unless all parts of a batch are equal: the gradient is the mean of their means."""
    if config.batch_size % (parts := processes * config.accumulate):
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be cut into {parts} equal parts ({processes} processes x "
            f"accumulate {config.accumulate}): make it a multiple of {parts}."
        )


def warn_if_few_steps(config: PretrainConfig, images: int, steps: int) -> None:
    """Warns of a batch that is larger than the stores."""
    if config.batch_size > images:
        logger.warning(
            "--batch-size %d is more than the %d images of an epoch: %g epochs are %d optimizer steps in "
            "all. A smaller batch makes more of them.", config.batch_size, images, config.epochs or EPOCHS,
            steps,
        )  # fmt: skip


def save_results(
    run: Pretraining, begun: PretrainConfig, before: dict[str, Any] | None, start: float
) -> None:
    """Writes encoder bundle, curves, report and page.

    before: the training of the weights it started from. begun, start: see run_pretraining.
    """
    config, log = run.config, run.log
    # the images a tokenizer was trained on are the student's, too
    seen = reduce(Seen.also, [seen_in(*part) for part in run.images.parts()], read_seen(config.weights))
    seen = seen.also(read_seen(Path(config.tokenizer)))
    views = run.steps * config.batch_size
    # no speed: equal runs leave equal bundles
    training = run.identity | training_summary(log) | training_so_far(before, views, len(seen.films))
    card = Card(kind="encoder", encoder=config.encoder, preprocess=run.preprocess, training=training)
    save_seen(config.out / "encoder", seen)
    save_bundle(config.out / "encoder", card, run.model.encoder)
    save_figure(run_curves(log.events("step"), log.events("probe")), config.out / "curves")
    made = {
        "images_per_s": images_per_s(log),
        "command": command_line("pretrain", begun),
        "seconds": round(log.seconds_before() + time.perf_counter() - start, 1),
        "resumed": len(log.events("start")) - 1,  # a part that failed before its first step has no start
    }
    # the report comes last: a run folder that has one is finished
    write_report({"kind": "pretrain", **training, **made}, config.out / "report.json")
    write_run_page(config.out)
    log_final_probe(log.events("probe"), config.out / "report.html")

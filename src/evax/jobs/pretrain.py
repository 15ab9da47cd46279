"""evax pretrain: unlabelled stores -> an encoder, by masked image modelling against a frozen tokenizer."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from evax.config import build, changed_options, command_line, read_recipe, to_plain
from evax.errors import ConfigError
from evax.training.masked_options import MaskedImageConfig
from evax.training.options import Precision, Tracker

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from evax.data.loader import Films
    from evax.data.preprocess import Preprocess
    from evax.data.store import ImageStore
    from evax.models.masked import MaskedImageModel
    from evax.models.tokenizers import Tokenizer
    from evax.training.probes import ProbeResult
    from evax.training.tracking import RunLog

logger = logging.getLogger("evax")
MAY_CHANGE = {  # when a run goes on: how fast, and what is watched; nothing that is learned
    "out", "resume", "precision", "compile", "workers", "accumulate", "grad_checkpointing",
    "checkpoint_every", "probe_every", "track", "audit",
    "probe_store",  # by its path; its films and labels are those of before: refuse_other_probe_store
}  # fmt: skip
PATCH_GRADIENT = 0.1  # with stop_grad_conv1; facts 2.1


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(MaskedImageConfig):
    """Pre-train an encoder without labels, on every film of the stores that is not in their test split."""

    stores: tyro.conf.Positional[tuple[Path, ...]]
    """Stores made by `evax prepare`."""
    store_shares: tuple[float, ...] = ()
    """How often each store is shown relative to the others; without it, every film once per epoch."""
    out: Path
    """Run folder; the encoder is written to OUT/encoder."""
    encoder: str = "eva_x_tiny_patch16_224"
    """Encoder by name."""
    weights: Path | None = None
    """Encoder bundle, weight file or published weight to start from; random weights without it."""
    tokenizer: str = "efficientnet_lite0"
    """Frozen network whose features are predicted: a name, timm:NAME, transformers:FOLDER, or a bundle."""
    tokenizer_weights: Path | None = None
    """Weight file of a named or timm tokenizer, where no package brings it."""
    tokenizer_layer: str = "auto"
    """auto (docs/how-to/pretrain.md), last, projected, the number of a block or stage, from 0, or 3+4."""
    tokenizer_view: int | None = None
    """Side in pixels of the crop as the tokenizer sees it, may be above image_size; default: for one grid."""
    tokenizer_norm: Literal["own", "store"] = "own"
    """Mean and standard deviation of the tokenizer's input: those it was trained with, or the encoder's."""
    probe_store: Path | None = None
    """Labelled store for kNN and linear-probe AUC and RankMe during the run, from its train films to its
    validation films.
    """
    track: tuple[Tracker, ...] = ()
    """Show the log's numbers in TensorBoard (OUT/tensorboard) or at an MLflow server, too."""
    audit: Path | None = None
    """audit.json of `evax audit`: stores that it does not know or that failed it are refused."""
    resume: bool = False
    """Continue the run in OUT from its newest checkpoint."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("pretrain needs at least one store: evax pretrain STORE... --out RUN.")
        shares = self.store_shares
        if shares and (len(shares) != len(self.stores) or min(shares) < 0 or not sum(shares) > 0):
            raise ConfigError(
                f"store_shares are {len(self.stores)} numbers, one per store, not all 0, got {shares}."
            )
        if self.tokenizer_view is not None and not 32 <= self.tokenizer_view <= 2048:
            raise ConfigError(
                f"tokenizer_view must lie between 32 and 2048 pixels, got {self.tokenizer_view}."
            )
        super().__post_init__()


def pretrain(config: PretrainConfig) -> Path:
    """Runs the pre-training; returns the folder of the encoder bundle. Of a finished run nothing is written.

    Under torchrun all processes share the work, and the first one writes.
    Raises ConfigError for a run folder that exists, DataError for stores that cannot be used and for a run
    that diverged, WeightsError for a checkpoint of another run, Interrupted (after saving) when Ctrl-C or
    SIGTERM stopped it.
    """
    from evax.training.tracking import QuietLog, refuse_used_folder, start_run

    start = time.perf_counter()
    refuse_used_folder(config.out, config, config.resume)  # before torch, as far as this can be known
    begun = begun_with(config)
    stores = stores_of(config)
    refuse_other_probe_store(config)
    from evax.data.order import FilmOrder
    from evax.data.unlabelled import films_outside_tests
    from evax.deploy.lineage import earlier_training
    from evax.training.checkpoint import load_newest_checkpoint
    from evax.training.loop import learn
    from evax.training.mirrors import open_mirrors
    from evax.training.optim import create_optimizer
    from evax.training.runtime import on_first_process, start_shared_fabric

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


def begun_with(config: PretrainConfig) -> PretrainConfig:
    """The options that the run was begun with. Raises ConfigError when its config.yaml cannot be used."""
    if not config.resume:
        return config
    path = config.out / "config.yaml"
    return build(PretrainConfig, read_recipe(path, PretrainConfig), str(path))


def refuse_other_options(config: PretrainConfig, begun: PretrainConfig) -> None:
    """A run that goes on before its first checkpoint: only config.yaml says what it is.

    A checkpoint knows it better (identity_of_run): files may have been moved since. Raises ConfigError.
    """
    from evax.training.checkpoint import checkpoint_paths

    if not config.resume or checkpoint_paths(config.out / "checkpoints"):
        return
    was, now = (
        {name: value for name, value in to_plain(each).items() if name not in MAY_CHANGE}
        for each in (begun, config)
    )
    if changes := changed_options(was, now, but=()):
        raise ConfigError(
            f"{config.out} was begun with other options: {changes}. It has no checkpoint yet: give the "
            "options of before, or delete it and start anew."
        )


def refuse_other_probe_store(config: PretrainConfig) -> None:
    """The probes of a run are one curve, so of one store; they may begin or end when the run goes on.

    Raises ConfigError.
    """
    from evax.data.store import open_store
    from evax.training.tracking import read_events

    if not config.resume or config.probe_store is None:
        return
    probes = read_events(config.out / "log.jsonl", "probe")
    before = [line["probe_store"] for line in probes if "probe_store" in line]
    now = open_store(config.probe_store).fingerprint
    if before and before[-1] != now:
        raise ConfigError(
            f"{config.out} was probed on another store than {config.probe_store} (fingerprint "
            f"{before[-1][:12]}, not {now[:12]}), and its curve is of one. Give --probe-store of before, or "
            "leave it out."
        )


def is_finished(config: PretrainConfig, facts: dict[str, Any]) -> bool:
    """Whether a run that shall go on has its report and all of its steps; it is said, and nothing is written.

    facts: see identity_of_run. Raises WeightsError for a run with other options.
    """
    from evax.training.checkpoint import all_done

    page = config.out / "report.html"
    if not (config.resume and page.with_suffix(".json").is_file()):
        return False
    if done := all_done(config.out / "checkpoints", facts):
        logger.info(
            "%s is finished: all of its %d steps are done. Page: %s", config.out, facts["steps"], page
        )
    return done


def stores_of(config: PretrainConfig) -> list[ImageStore]:
    """All of them open, and through the audit that was asked for."""
    from evax.data.leaks import require_audit
    from evax.data.store import open_store

    stores = [open_store(path) for path in config.stores]
    if config.audit:
        require_audit(config.audit, stores)
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
    from evax.training.runtime import seeded
    from evax.weights.encoders import create_encoder

    with seeded(config.seed):
        encoder = create_encoder(config.encoder, config.weights, img_size=config.image_size)
        model = MaskedImageModel(encoder, tokenizer.width)
    model.encoder.patch_gradient = PATCH_GRADIENT if config.stop_grad_conv1 else 1.0
    model.encoder.grad_checkpointing = config.grad_checkpointing
    return model


def precision_of_run(config: PretrainConfig) -> Precision:
    """As asked; a run that goes on keeps what it began with."""
    from evax.training.runtime import decided_precision
    from evax.training.tracking import read_events

    started = read_events(config.out / "log.jsonl", "start") if config.resume else []
    return decided_precision(config.precision, earlier=started[-1]["precision"] if started else None)


def probe_of(
    config: PretrainConfig, model: MaskedImageModel, preprocess: Preprocess, fabric: Fabric
) -> Callable[[], ProbeResult] | None:
    """What tells how good the features are; None without a labelled store."""
    from functools import partial

    from evax.training.probes import open_probe_store, probe

    if config.probe_store is None:
        return None
    return partial(probe, model.encoder, open_probe_store(config.probe_store), preprocess, fabric)


def write_results(
    config: PretrainConfig,
    begun: PretrainConfig,
    model: MaskedImageModel,
    films: Films,
    preprocess: Preprocess,
    log: RunLog,
    facts: dict[str, Any],
    before: dict[str, Any] | None,
    start: float,
) -> None:
    """Encoder bundle, curves, report and page.

    begun: see begun_with. before: the training of the weights it started from. start: of this part, by
    time.perf_counter.
    """
    import numpy as np

    from evax.deploy.bundle import Card, read_films, save_bundle, save_films
    from evax.deploy.lineage import films_seen, training_so_far
    from evax.files import write_json
    from evax.reporting.drawing import save_figure
    from evax.reporting.run_curves import run_curves
    from evax.reporting.run_page import write_run_page
    from evax.training.watching import summary_of

    # a teacher's films are the student's, too: it learned from what the teacher learned from them
    seen = films_seen(config.weights, np.union1d(films.digests(), read_films(Path(config.tokenizer))))
    images = facts["steps"] * config.batch_size
    training = facts | summary_of(log) | training_so_far(before, images, len(seen))
    card = Card(kind="encoder", encoder=config.encoder, preprocess=preprocess, training=training)
    save_films(config.out / "encoder", seen)
    save_bundle(config.out / "encoder", card, model.encoder)
    save_figure(run_curves(log.events("step"), log.events("probe")), config.out / "curves")
    made = {
        "command": command_line("pretrain", begun),
        "seconds": round(log.seconds_before() + time.perf_counter() - start, 1),
        "resumed": len(log.events("start")) - 1,  # a part that was refused or broke off before has no start
    }
    # the report comes last: a run folder that has one is finished
    write_json({"kind": "pretrain", **training, **made}, config.out / "report.json")
    write_run_page(config.out)
    tell_probe(log.events("probe"), config.out / "report.html")


def tell_probe(probes: Sequence[dict[str, Any]], page: Path) -> None:
    """The last words on the terminal: how good the features are at the end, and where the page is."""
    scores = ""
    if probes:
        named = {"kNN AUC": "knn_auc", "linear probe": "linear_auc", "RankMe": "rankme"}
        last = {name: probes[-1].get(key) for name, key in named.items()}
        said = ", ".join(f"{name} {value:.3f}" for name, value in last.items() if value is not None)
        scores = f"After step {probes[-1]['step']}: {said}. "
    logger.info("%sPage: %s", scores, page)


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
        return starting_preprocess(config.encoder, config.weights, stores[0], config.image_size)
    own = own_normalisation(config.encoder, config.weights)
    return common if own is None else replace(common, mean=own[0], std=own[1])


def identity_of_run(
    config: PretrainConfig, stores: list[ImageStore], films: int, tokenizer: Tokenizer
) -> dict[str, Any]:
    """What a resumed run must share with the one that wrote the checkpoint."""
    return {
        "encoder": config.encoder,
        "weights": digest_of_weights(config),
        "tokenizer": tokenizer.identity(),
        "stores": [store.fingerprint for store in stores],
        "store_shares": list(config.store_shares),
        "steps": math.ceil(config.epochs * films / config.batch_size),
        "batch_size": config.batch_size,
        "image_size": config.image_size,
        "mask_ratio": config.mask_ratio,
        "mask": config.mask,
        "tokenizer_norm": config.tokenizer_norm,
        "stop_grad_conv1": config.stop_grad_conv1,
        "seed": config.seed,
        "crop": to_plain(config.crop),
        "optimizer": to_plain(config.optimizer),
    }


def digest_of_weights(config: PretrainConfig) -> str | None:
    """Of the tensors of the file it starts from, wherever that lies; None for random ones."""
    from evax.training.checkpoint import digest_of
    from evax.weights.download import weights_path
    from evax.weights.files import read_state_dict

    if config.weights is None:
        return None
    return digest_of(read_state_dict(weights_path(config.encoder, config.weights)))[:16]

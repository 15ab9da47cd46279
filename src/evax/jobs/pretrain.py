"""evax pretrain: unlabelled stores -> an encoder, by masked image modelling against a frozen tokenizer."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from evax.config import command_line, to_plain
from evax.data.augment import CropConfig
from evax.errors import ConfigError, DataError, Interrupted
from evax.training.masking import hidden_count
from evax.training.options import Compile, MaskPattern, OptimizerConfig, Precision

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

    from evax.data.loader import Films
    from evax.data.preprocess import Preprocess
    from evax.data.store import ImageStore
    from evax.models.masked import MaskedImageModel
    from evax.models.tokenizers import Tokenizer
    from evax.training.tracking import RunLog

PATCH_GRADIENT = 0.1  # with stop_grad_conv1; facts 2.1


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
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
    image_size: int = 224
    """Side of a crop in pixels, a multiple of 16."""
    mask_ratio: float = 0.3
    """Share of patches hidden from the encoder, in (0, 1)."""
    mask: MaskPattern = "uniform"
    """uniform: single patches; block: rectangles, as in BEiT."""
    epochs: float = 10.0
    """Passes over the films; fractions are allowed."""
    batch_size: int = 128
    """Crops per step, of all processes together."""
    accumulate: int = 1
    """Parts into which each process cuts its share of a batch, to need less memory."""
    crop: CropConfig = field(default_factory=CropConfig)
    """How crops are cut."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW and its schedule."""
    stop_grad_conv1: bool = False
    """Let a tenth of the gradient reach the patch embedding."""
    seed: int = 0
    """Of weights, order, crops and masks."""
    precision: Precision = "auto"
    """auto: bf16 autocast where this machine is measured to be faster with it. fp16 scales the loss."""
    grad_checkpointing: bool = False
    """Keep no activations within blocks and compute them again: less memory, a third more work."""
    compile: Compile = "auto"
    """torch.compile; auto: when the run is long enough to earn the compilation back."""
    probe_store: Path | None = None
    """Labelled store for kNN and linear-probe AUC and RankMe during the run, from its train films to its
    validation films.
    """
    probe_every: float = 1.0
    """Epochs between probes; the start and the end are always probed."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    workers: int = 2
    """Threads that cut crops, in each process."""
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
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}.")
        if self.image_size < 32 or self.image_size % 16:
            raise ConfigError(f"image_size must be a multiple of 16 from 32 on, got {self.image_size}.")
        patches = (self.image_size // 16) ** 2
        if not 0 < (hidden := hidden_count(patches, self.mask_ratio)) < patches:
            raise ConfigError(
                f"mask_ratio {self.mask_ratio} hides {hidden} of {patches} patches at image_size "
                f"{self.image_size}: some must be hidden and some seen."
            )
        if self.tokenizer_view is not None and not 32 <= self.tokenizer_view <= 2048:
            raise ConfigError(
                f"tokenizer_view must lie between 32 and 2048 pixels, got {self.tokenizer_view}."
            )
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}.")
        for name in ("epochs", "batch_size", "probe_every", "checkpoint_every", "workers", "accumulate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}.")


def pretrain(config: PretrainConfig) -> Path:
    """Runs the pre-training; returns the folder of the encoder bundle.

    Under torchrun all processes share the work, and the first one writes.
    Raises ConfigError for a run folder that exists, DataError for stores that cannot be used and for a run
    that diverged, WeightsError for a checkpoint of another run, Interrupted (after saving) when Ctrl-C or
    SIGTERM stopped it.
    """
    from evax.data.leaks import require_audit
    from evax.data.store import open_store
    from evax.data.unlabelled import films_outside_tests
    from evax.deploy.bundle import Card, read_films, save_bundle, save_films
    from evax.deploy.lineage import earlier_training, films_seen, training_so_far
    from evax.deploy.tokenizer import open_tokenizer
    from evax.files import write_json
    from evax.models.masked import MaskedImageModel
    from evax.reporting.drawing import save_figure
    from evax.reporting.run_curves import run_curves
    from evax.reporting.run_page import write_run_page
    from evax.training.checkpoint import load_newest_checkpoint
    from evax.training.optim import create_optimizer
    from evax.training.probes import open_probe_store
    from evax.training.runtime import decided_precision, on_first_process, seeded, start_shared_fabric
    from evax.training.tracking import QuietLog, read_events, start_run
    from evax.training.watching import summary_of
    from evax.weights.encoders import create_encoder

    start = time.perf_counter()
    stores = [open_store(path) for path in config.stores]
    if config.audit:
        require_audit(config.audit, stores)
    films = films_outside_tests(stores)
    before = earlier_training(config.weights)
    preprocess = preprocess_of(config, stores)
    steps = math.ceil(config.epochs * len(films) / config.batch_size)
    tokenizer = open_tokenizer(
        config.tokenizer,
        config.tokenizer_weights,
        image_size=config.image_size,
        layer=config.tokenizer_layer,
        view=config.tokenizer_view,
    )
    if config.tokenizer_norm == "store":
        tokenizer.normalise_by(preprocess.mean, preprocess.std)
    with seeded(config.seed):
        encoder = create_encoder(config.encoder, config.weights, img_size=config.image_size)
        model = MaskedImageModel(encoder, tokenizer.width)
    model.encoder.patch_gradient = PATCH_GRADIENT if config.stop_grad_conv1 else 1.0
    model.encoder.grad_checkpointing = config.grad_checkpointing
    optimizer = create_optimizer(model, config.optimizer, depth=len(model.encoder.blocks))
    probe_store = open_probe_store(config.probe_store) if config.probe_store else None

    started = read_events(config.out / "log.jsonl", "start") if config.resume else []
    precision = decided_precision(config.precision, earlier=started[-1]["precision"] if started else None)
    fabric = start_shared_fabric(precision)
    refuse_uneven_parts(config, fabric.world_size)
    log = on_first_process(fabric, lambda: start_run(config.out, config, config.resume)) or QuietLog()
    facts = identity_of_run(config, stores, steps, tokenizer)
    first = load_newest_checkpoint(
        config.out / "checkpoints", model, optimizer, facts, fabric.strategy.precision
    )
    learn(model, tokenizer, optimizer, films, probe_store, preprocess, config, fabric, log, facts, first)

    encoder_folder = config.out / "encoder"
    if fabric.is_global_zero:
        # a teacher's films are the student's, too: it learned from what the teacher learned from them
        seen = films_seen(config.weights, np.union1d(films.digests(), read_films(Path(config.tokenizer))))
        training = facts | summary_of(log) | training_so_far(before, steps * config.batch_size, len(seen))
        card = Card(kind="encoder", encoder=config.encoder, preprocess=preprocess, training=training)
        save_films(encoder_folder, seen)
        save_bundle(encoder_folder, card, model.encoder)
        save_figure(run_curves(log.events("step"), log.events("probe")), config.out / "curves")
        made = {"command": command_line("pretrain", config), "seconds": round(time.perf_counter() - start, 1)}
        write_json({"kind": "pretrain", **training, **made}, config.out / "report.json")
        write_run_page(config.out)
    fabric.barrier()
    return encoder_folder  # the report came last: a run folder that has one is finished


def learn(
    model: MaskedImageModel,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    films: Films,
    probe_store: ImageStore | None,
    preprocess: Preprocess,
    config: PretrainConfig,
    fabric: Fabric,
    log: RunLog,
    facts: dict[str, Any],
    first: int,
) -> None:
    """The steps from `first` on, with checkpoints, probes and the log; leaves the weights in the model."""
    from evax.data.loader import training_batches
    from evax.data.order import FilmOrder
    from evax.training.checkpoint import last_good, save_checkpoint
    from evax.training.optim import lr_at_step
    from evax.training.probes import probe
    from evax.training.runtime import is_compiled, maybe_compile, precision_of, seeded, stop_requests
    from evax.training.steps import Diverged, masked_image_step
    from evax.training.tracking import progress_bar
    from evax.training.watching import start_watch

    steps, here = facts["steps"], fabric.is_global_zero
    checkpoints = config.out / "checkpoints"
    watch = start_watch(
        model,
        log,
        fabric,
        image_size=config.image_size,
        hidden=hidden_count((config.image_size // 16) ** 2, config.mask_ratio),
        steps=steps,
        first=first,
    )
    tokens = (steps - first) * config.batch_size * (config.image_size // 16) ** 2 // fabric.world_size
    student, optimizer = fabric.setup(maybe_compile(model, config.compile, tokens, fabric.device), optimizer)
    teacher = maybe_compile(fabric.to_device(tokenizer), config.compile, tokens, fabric.device)
    log.write(
        "start", step=first, steps=steps, films=len(films), compiled=is_compiled(teacher),
        precision=precision_of(fabric), processes=fabric.world_size, device=fabric.device.type,
    )  # fmt: skip

    def look(step: int) -> None:
        if probe_store is not None and here:  # the other processes wait for the first at their next step
            watch.probe(step, step * config.batch_size, probe(model.encoder, probe_store, preprocess, fabric))

    probe_steps = {math.ceil(k * config.probe_every * len(films) / config.batch_size) for k in range(steps)}
    batches = training_batches(
        films,
        batch_size=config.batch_size,
        size=max(config.image_size, tokenizer.view),  # what the tokenizer may see, the crop must have
        crop=config.crop,
        seed=config.seed,
        steps=range(first, steps),
        workers=config.workers,
        order=FilmOrder(films.counts(), config.seed, config.store_shares),
        rank=fabric.global_rank,
        processes=fabric.world_size,
    )
    with progress_bar("pre-training", steps, first, shown=here) as advance, stop_requests() as stop:
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
            advance(f"cosine {measured['cosine']:.3f}, {measured['images_per_s']:.0f} films/s")
    look(steps)


def refuse_uneven_parts(config: PretrainConfig, processes: int) -> None:
    """Equal parts only: the gradient is the mean of the parts' means. Raises ConfigError."""
    if config.batch_size % (parts := processes * config.accumulate):
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be cut into {parts} equal parts ({processes} processes x "
            f"accumulate {config.accumulate}): make it a multiple of {parts}."
        )


def preprocess_of(config: PretrainConfig, stores: list[ImageStore]) -> Preprocess:
    """The chain of the encoder bundle to start from, else one with the statistics of all stores.

    Raises DataError for stores of other sizes than each other's or the bundle's.
    """
    from evax.data.unlabelled import common_preprocess
    from evax.deploy.bundle import is_bundle, starting_preprocess

    common = common_preprocess(stores, config.image_size)
    if is_bundle(config.weights):
        return starting_preprocess(config.encoder, config.weights, stores[0], config.image_size)
    return common


def identity_of_run(
    config: PretrainConfig, stores: list[ImageStore], steps: int, tokenizer: Tokenizer
) -> dict[str, Any]:
    """What a resumed run must share with the one that wrote the checkpoint."""
    return {
        "encoder": config.encoder,
        "weights": None if config.weights is None else str(config.weights),
        "tokenizer": tokenizer.identity(),
        "stores": [store.fingerprint for store in stores],
        "store_shares": list(config.store_shares),
        "steps": steps,
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

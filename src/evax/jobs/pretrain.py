"""evax pretrain: unlabelled stores -> an encoder, by masked image modelling against a frozen tokenizer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from evax.config import to_plain
from evax.data.augment import CropConfig
from evax.errors import ConfigError, DataError, Interrupted
from evax.training.masking import hidden_count
from evax.training.options import Compile, OptimizerConfig, Precision

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt64
    from lightning_fabric import Fabric

    from evax.data.loader import Films
    from evax.data.preprocess import Preprocess
    from evax.data.store import ImageStore
    from evax.models.encoders import EvaX
    from evax.training.tracking import RunLog


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-train an encoder without labels, on every film of the stores that is not in their test split."""

    stores: tyro.conf.Positional[tuple[Path, ...]]
    """Stores made by `evax prepare`."""
    out: Path
    """Run folder; the encoder is written to OUT/encoder."""
    encoder: str = "eva_x_tiny_patch16_224"
    """Encoder by name."""
    weights: Path | None = None
    """Encoder bundle, weight file or published weight to start from; random weights without it."""
    tokenizer: str = "efficientnet_lite0"
    """Frozen network whose patch features are predicted."""
    image_size: int = 224
    """Side of a crop in pixels, a multiple of 16."""
    mask_ratio: float = 0.3
    """Share of patches hidden from the encoder, in (0, 1)."""
    epochs: float = 10.0
    """Passes over the films; fractions are allowed."""
    batch_size: int = 128
    """Crops per step."""
    crop: CropConfig = field(default_factory=CropConfig)
    """How crops are cut."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW and its schedule."""
    seed: int = 0
    """Of weights, order, crops and masks."""
    precision: Precision = "auto"
    """auto: bf16 autocast where this machine is measured to be faster with it."""
    compile: Compile = "auto"
    """torch.compile; auto: when the run is long enough to earn the compilation back."""
    probe_store: Path | None = None
    """Labelled store for kNN AUC and RankMe during the run; its train films vote on its validation films."""
    probe_every: float = 1.0
    """Epochs between probes; the start and the end are always probed."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    workers: int = 2
    """Threads that cut crops."""
    resume: bool = False
    """Continue the run in OUT from its newest checkpoint."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("pretrain needs at least one store: evax pretrain STORE... --out RUN.")
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
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}.")
        for name in ("epochs", "batch_size", "probe_every", "checkpoint_every", "workers"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}.")


def pretrain(config: PretrainConfig) -> Path:
    """Runs the pre-training; returns the folder of the encoder bundle.

    Raises ConfigError for a run folder that exists, DataError for stores that cannot be used, WeightsError
    for a checkpoint of another run, Interrupted (after saving) when Ctrl-C or SIGTERM stopped it.
    """
    from evax.data.loader import training_batches
    from evax.data.store import open_store
    from evax.data.unlabelled import films_outside_tests
    from evax.deploy.bundle import Card, save_bundle, save_films
    from evax.files import write_json
    from evax.models.masked import MaskedImageModel
    from evax.training.checkpoint import load_newest_checkpoint, save_checkpoint
    from evax.training.optim import create_optimizer, lr_at_step
    from evax.training.runtime import is_compiled, maybe_compile, seeded, start_fabric, stop_requests
    from evax.training.steps import masked_image_step
    from evax.training.tracking import progress_bar, start_run
    from evax.weights.encoders import create_encoder
    from evax.weights.tokenizers import create_tokenizer

    stores = [open_store(path) for path in config.stores]
    films = films_outside_tests(stores)
    before = earlier_training(config.weights)
    preprocess = preprocess_of(config, stores)
    steps = math.ceil(config.epochs * len(films) / config.batch_size)
    tokenizer = create_tokenizer(config.tokenizer)
    with seeded(config.seed):
        encoder = create_encoder(config.encoder, config.weights, img_size=config.image_size)
        model = MaskedImageModel(encoder, tokenizer.width)
    optimizer = create_optimizer(model, config.optimizer, depth=len(model.encoder.blocks))

    probe_store = open_probe_store(config.probe_store) if config.probe_store else None
    log = start_run(config.out, config, config.resume)
    fabric = start_fabric(config.precision)
    facts = identity_of_run(config, stores, steps)
    first = load_newest_checkpoint(config.out / "checkpoints", model, optimizer, facts)
    tokens = (steps - first) * config.batch_size * (config.image_size // 16) ** 2
    student, optimizer = fabric.setup(maybe_compile(model, config.compile, tokens, fabric.device), optimizer)
    teacher = maybe_compile(fabric.to_device(tokenizer), config.compile, tokens, fabric.device)
    log.write("start", step=first, steps=steps, films=len(films), compiled=is_compiled(teacher))

    online = OnlineProbe(probe_store, model.encoder, preprocess, fabric, log)
    probe_steps = {math.ceil(k * config.probe_every * len(films) / config.batch_size) for k in range(steps)}
    batches = training_batches(
        films,
        batch_size=config.batch_size,
        size=config.image_size,
        crop=config.crop,
        seed=config.seed,
        steps=range(first, steps),
        workers=config.workers,
    )
    with progress_bar("pre-training", steps, first) as advance, stop_requests() as stop:
        for batch in batches:
            if batch.step in probe_steps:
                online.run(batch.step, batch.step * config.batch_size)
            with seeded(config.seed, batch.step):
                measured = masked_image_step(
                    student,
                    teacher,
                    optimizer,
                    fabric,
                    batch,
                    preprocess=preprocess,
                    mask_ratio=config.mask_ratio,
                    seed=config.seed,
                    lr=lr_at_step(batch.step, steps, config.optimizer),
                    clip_norm=config.optimizer.clip_norm,
                )
            done = batch.step + 1
            log.write(
                "step", step=done, epoch=int(batch.epochs[0]), images=done * config.batch_size, **measured
            )
            if done % config.checkpoint_every == 0 or done == steps or stop:
                save_checkpoint(config.out / "checkpoints", done, model, optimizer, facts)
            if stop:
                raise Interrupted(
                    f"stopped after step {done} of {steps}; it is saved, --resume goes on.",
                    stop.signal_number,
                )
            advance(f"cosine {measured['cosine']:.3f}, {measured['images_per_s']:.0f} films/s")
    online.run(steps, steps * config.batch_size)

    seen = films_seen(config.weights, films)
    training = facts | summary_of(log) | training_so_far(before, steps * config.batch_size, len(seen))
    card = Card(kind="encoder", encoder=config.encoder, preprocess=preprocess, training=training)
    save_films(config.out / "encoder", seen)
    bundle = save_bundle(config.out / "encoder", card, model.encoder)
    write_json({"kind": "pretrain", **training}, config.out / "report.json")
    return bundle  # the report came last: a run folder that has one is finished


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


def earlier_training(weights: Path | None) -> dict[str, Any] | None:
    """What the weights to start from say about their own training; None for random ones.

    Raises ConfigError for a classifier: which films its labels came from is not kept with it.
    """
    from evax.deploy.bundle import is_bundle, read_card

    if weights is None:
        return None
    if not is_bundle(weights):
        return {"weights": weights.name}
    card = read_card(weights)
    if card.kind != "encoder":
        raise ConfigError(
            f"{weights} is a {card.kind}; pre-training starts from an encoder. Give the encoder it was "
            "fine-tuned from."
        )
    return card.training


def films_seen(weights: Path | None, films: Films) -> UInt64[np.ndarray, " films"]:
    """Digests of the films of this run and of the runs before it, each once."""
    import numpy as np

    from evax.deploy.bundle import read_films

    earlier = [read_films(weights)] if weights is not None else []
    return np.unique(np.concatenate([films.digests(), *earlier]))


def training_so_far(before: dict[str, Any] | None, images: int, films: int) -> dict[str, Any]:
    """Crops of this run and of all runs, and different films of all runs, with what came before.

    images_total is None when the run began from weights that do not tell theirs.
    """
    earlier = 0 if before is None else before.get("images_total")
    return {
        "images": images,
        "images_total": None if earlier is None else earlier + images,
        "films_total": films,
        "before": before,
    }


def open_probe_store(path: Path) -> ImageStore:
    """A store whose train films can vote on its validation films."""
    from evax.data.store import open_store

    store = open_store(path)
    if not store.manifest.findings:
        raise DataError(f"The probe store {path} has no labels; nothing can be probed with it.")
    for split in ("train", "val"):
        if not len(store.rows(split)):
            raise DataError(
                f"The probe store {path} has no {split} films: prepare it with --validation above 0."
            )
    return store


def identity_of_run(config: PretrainConfig, stores: list[ImageStore], steps: int) -> dict[str, Any]:
    """What a resumed run must share with the one that wrote the checkpoint."""
    return {
        "encoder": config.encoder,
        "weights": None if config.weights is None else str(config.weights),
        "tokenizer": config.tokenizer,
        "stores": [store.fingerprint for store in stores],
        "steps": steps,
        "batch_size": config.batch_size,
        "image_size": config.image_size,
        "mask_ratio": config.mask_ratio,
        "seed": config.seed,
        "crop": to_plain(config.crop),
        "optimizer": to_plain(config.optimizer),
    }


def summary_of(log: RunLog) -> dict[str, Any]:
    """Final cosine and speed (means of the last 20 steps and of all but the first), first and last probe."""
    steps, probes = log.events("step"), log.events("probe")
    last = steps[-20:]
    rates = [line["images_per_s"] for line in steps[1:]] or [steps[0]["images_per_s"]]
    return {
        "final_cosine": sum(line["cosine"] for line in last) / len(last),
        "images_per_s": len(rates) / sum(1 / rate for rate in rates),
        "knn_auc_first": probes[0]["knn_auc"] if probes else None,
        "knn_auc_last": probes[-1]["knn_auc"] if probes else None,
        "rankme_last": probes[-1]["rankme"] if probes else None,
    }


class OnlineProbe:
    """kNN AUC and RankMe of the encoder as it stands, for the log; does nothing without a probe store."""

    def __init__(
        self, store: ImageStore | None, encoder: EvaX, preprocess: Preprocess, fabric: Fabric, log: RunLog
    ) -> None:
        self._store, self._encoder, self._preprocess, self._fabric, self._log = (
            store,
            encoder,
            preprocess,
            fabric,
            log,
        )

    def run(self, step: int, images: int) -> None:
        """step, images: how far the run is."""
        from evax.training.probes import probe

        if self._store is not None:
            result = probe(self._encoder, self._store, self._preprocess, self._fabric)
            self._log.write("probe", step=step, images=images, **result.to_json())

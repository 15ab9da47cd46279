"""Options of learning by masked image modelling. No torch here: the command line reads them before it loads
anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from evax.config import validated
from evax.data.augment import CropConfig
from evax.errors import ConfigError
from evax.options.training import Compile, MaskPattern, OptimizerConfig, Precision, Tracker


@dataclass(frozen=True, kw_only=True)
class MaskedImageConfig:
    """How an encoder learns, whatever it starts from and whatever it is shown."""

    image_size: int = 224
    """Side of a crop in pixels, a multiple of 16."""
    mask_ratio: float = 0.3
    """Share of patches hidden from the encoder, in (0, 1)."""
    mask: MaskPattern = "uniform"
    """uniform: single patches; block: rectangles, as in BEiT."""
    epochs: float = 10.0
    """Passes over the images; fractions are allowed."""
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
    probe_every: float = 1.0
    """Epochs between probes; the start and the end are always probed."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    workers: int = 2
    """Threads that cut crops, in each process."""

    def __post_init__(self) -> None:
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
        for name in ("epochs", "batch_size", "probe_every", "checkpoint_every", "workers", "accumulate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}.")

    @property
    def patches(self) -> int:
        """Of a crop."""
        return (self.image_size // 16) ** 2

    @property
    def hidden(self) -> int:
        """Patches of a crop that are hidden."""
        return hidden_count(self.patches, self.mask_ratio)


@validated
@dataclass(frozen=True, kw_only=True)
class PretrainConfig(MaskedImageConfig):
    """Pre-train an encoder without labels, on every image of the stores that is not in their test split."""

    stores: tyro.conf.Positional[tuple[Path, ...]]
    """Stores made by `evax prepare`."""
    store_shares: tuple[float, ...] = ()
    """How often each store is shown relative to the others; without it, every image once per epoch."""
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
    """Labelled store for kNN and linear-probe AUC and RankMe during the run, from its train images to its
    validation images.
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


def hidden_count(patches: int, ratio: float) -> int:
    """How many patches are hidden in every film: 59 of 196 at the paper's ratio 0.3 (58.8, rounded)."""
    return round(ratio * patches)

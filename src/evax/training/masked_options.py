"""Options of learning by masked image modelling. No torch here: the command line reads them before it loads
anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from evax.data.augment import CropConfig
from evax.errors import ConfigError
from evax.training.masking import hidden_count
from evax.training.options import Compile, MaskPattern, OptimizerConfig, Precision


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

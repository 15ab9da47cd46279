"""Options that several jobs share. No torch here: the command line reads them before it loads anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evax.config import validated
from evax.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
MaskPattern = Literal["uniform", "block"]
Compile = Literal["auto", "on", "off"]
Tracker = Literal["tensorboard", "mlflow"]
# Options that say where things lie: images, labels and weights are identified by digests instead.
PLACES = frozenset({"out", "store", "split", "weights", "table", "sources"})


@validated
@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up, then cosine or linear decay or a constant rate, per step."""

    lr: float = 1.5e-3
    """Peak learning rate, > 0."""
    final_lr: float = 1e-5
    """Learning rate at the last step of the cosine and linear schedules, >= 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What follows the warm-up."""
    warmup: float = 0.1
    """Share of the steps with linearly rising learning rate, in [0, 1)."""
    weight_decay: float = 0.05
    """Decay of matrices; biases, norms, position table and class token are exempt."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's moment decays."""
    eps: float = 1e-6
    """AdamW's denominator floor."""
    clip_norm: float = 3.0
    """Largest norm of the whole gradient; 0 switches clipping off."""

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.final_lr < 0:
            raise ConfigError(
                f"lr must be above 0 and final_lr at least 0, got {self.lr} and {self.final_lr}."
            )
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is a share of the steps in [0, 1), got {self.warmup}.")
        if self.clip_norm < 0 or self.weight_decay < 0:
            raise ConfigError("clip_norm and weight_decay must be at least 0.")

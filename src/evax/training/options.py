"""Options that several jobs share. No torch here: the command line reads them before it loads anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from evax.config import validated
from evax.data.labels import Blank, SplitBy, Uncertain
from evax.errors import ConfigError
from evax.evaluation.thresholds import ThresholdRule

Precision = Literal["auto", "fp32", "bf16", "fp16"]
MaskPattern = Literal["uniform", "block"]
Compile = Literal["auto", "on", "off"]
Tracker = Literal["tensorboard", "mlflow"]


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


@dataclass(frozen=True, kw_only=True)
class AdaptingConfig:
    """What every job asks that learns from a store's labels or masks with an encoder."""

    store: tyro.conf.Positional[Path]
    """Store made by `evax prepare`, with labels; for `evax segment` with masks."""
    out: Path
    """Run folder."""
    encoder: str = "eva_x_tiny_patch16_224"
    """Encoder by name."""
    weights: Path | None = None
    """Bundle, weight file or published name to start from, or imagenet; random weights without it."""
    image_size: int = 224
    """Side of the network's input in pixels, a multiple of the encoder's patch."""
    findings: tuple[str, ...] = ()
    """Findings to learn, in this order; without it all of the store."""
    label_fraction: float = 1.0
    """Share of the training patients whose labels are used, in (0, 1]."""
    label_count: int | None = None
    """So many training patients instead of a share."""
    split: Path | None = None
    """CSV table with the columns image and split (train, val, test) in place of the store's own split."""
    split_by: SplitBy = "patient"
    """film: the table may put a patient's films into several splits, a leak that every report then says."""
    resamples: int = 2000
    """Bootstrap resamples of the test patients."""
    seed: int = 0
    """Of everything that is drawn: new weights, order, crops, the choice of patients, the bootstrap."""
    precision: Precision = "auto"
    """auto: bf16 autocast where this machine is measured to be faster with it; fp16: with loss scaling."""

    def __post_init__(self) -> None:
        if self.image_size < 32 or (self.image_size % 16 and self.image_size % 14):
            raise ConfigError(f"image_size must be a multiple of 16 or 14 from 32 on, got {self.image_size}.")
        if not 0 < self.label_fraction <= 1:
            raise ConfigError(f"label_fraction must lie in (0, 1], got {self.label_fraction}.")
        if self.label_count is not None and self.label_count <= 0:
            raise ConfigError(f"label_count must be above 0, got {self.label_count}.")
        if self.label_count is not None and self.label_fraction != 1:
            raise ConfigError(
                f"Give label_count, {self.label_count}, or label_fraction, {self.label_fraction}, not both."
            )
        if self.split_by == "film" and self.split is None:
            raise ConfigError("split_by film needs a split: the store's own keeps patients together.")
        if self.resamples <= 0:
            raise ConfigError(f"resamples must be above 0, got {self.resamples}.")


@dataclass(frozen=True, kw_only=True)
class LabelledConfig(AdaptingConfig):
    """What every job asks that learns from labels of whole films."""

    stratified: bool = False
    """Draw these patients so that each finding keeps its share of them; else by chance alone."""
    uncertain: Uncertain = "ignore"
    """What a label -1 counts as."""
    uncertain_ones: tuple[str, ...] = ()
    """Findings whose -1 counts as 1, whatever uncertain says of the others."""
    blank: Blank | None = None
    """What an empty label counts as; without it absent in CheXpert and MIMIC-CXR, unknown elsewhere."""
    thresholds: str = "youden"
    """How validation chooses each finding's threshold: youden, f1, or the least sensitivity or specificity it
    must have there, as in sensitivity:0.95. Of exclusive classes the most probable one is predicted."""
    sources: Path | None = None
    """CSV table with the columns image or patient, and source (a hospital, a device): test films are scored
    by source, too, as they are by sex, age and view."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ThresholdRule.of(self.thresholds)  # says what is wrong with it

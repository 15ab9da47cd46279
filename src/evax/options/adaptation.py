"""Options of the commands that learn from labels or masks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import tyro

from evax.boxed import DEFAULTS
from evax.config import validated
from evax.data.augment import Augmentation, CropConfig
from evax.data.labels import Blank, SplitBy, TrainingUncertain, Uncertain
from evax.errors import ConfigError
from evax.evaluation.thresholds import ThresholdRule
from evax.options.training import Compile, OptimizerConfig, Precision
from evax.rounding import exact

AUTO, NONE = Path("auto"), Path("none")  # words for --weights
STEPS = 500  # where neither steps nor epochs are given


Subset = Literal["fixed", "redrawn"]


PAPER_THRESHOLD = 0.3  # mmsegmentation's, where nobody chooses one (paper-facts.md 5.3)


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
    """What to start from: bundle, weight file, published name (evax zoo list), imagenet, or none for random
    weights. auto: for EVA-X-Ti evax_tiny_open, which comes with evax; other encoders need a name or none."""
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
    """film: the table may put a patient's images into several splits, a leak that every report then says."""
    resamples: int = 2000
    """Bootstrap resamples of the test patients."""
    seed: int = 0
    """Of everything that is drawn: new weights, order, crops, the choice of patients, the bootstrap."""
    precision: Precision = "auto"
    """auto: bf16 autocast where this machine is measured to be faster with it; fp16: with loss scaling."""

    command_line_defaults = MappingProxyType({"weights": AUTO})  # no option itself, so without a type

    def __post_init__(self) -> None:
        if self.weights == AUTO and self.encoder not in DEFAULTS:
            raise ConfigError(
                f"No weights for {self.encoder} come with evax. Give --weights NAME (evax zoo list), a file or "
                "a bundle, or --weights none for random weights."
            )
        if self.weights in (AUTO, NONE):  # frozen, so set the way dataclasses set
            object.__setattr__(
                self, "weights", Path(DEFAULTS[self.encoder]) if self.weights == AUTO else None
            )
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
    """What every job asks that learns from labels of whole images."""

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
    """CSV table with the columns image or patient, and source (a hospital, a device): test images are scored
    by source, too, as they are by sex, age and view."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ThresholdRule.of(self.thresholds)  # says what is wrong with it


@dataclass(frozen=True, kw_only=True)
class StepsConfig:
    """How long and how fast a network learns from images whose answers are known."""

    steps: int | None = None
    """Optimizer steps; 500 without steps and epochs. 0 with head probe: the probe itself is the classifier."""
    epochs: float | None = None
    """Passes over all training images of the store, instead of steps, whatever label_fraction."""
    warmup_epochs: float | None = None
    """Passes with rising learning rate, instead of optimizer.warmup; needs epochs."""
    batch_size: int = 32
    """Images per step."""
    validate_every: int = 50
    """Steps between looks at the validation images; each look costs their number of forward passes."""
    crop: CropConfig = field(default_factory=lambda: CropConfig(area=(0.5, 1.0)))
    """How training crops are cut; validation and test see whole images."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, clip_norm=0.0)
    )
    """AdamW and its schedule."""
    layer_decay: float = 0.75
    """Learning rate of each layer over that of the next one, in (0, 1]; a CNN has one rate."""
    drop_path: float = 0.1
    """Chance of skipping a block in training, rising linearly to this value, in [0, 1)."""
    compile: Compile = "auto"
    """torch.compile; auto: when the run is long enough to earn the compilation back."""
    workers: int = 2
    """Threads that cut crops."""

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay must lie in (0, 1], got {self.layer_decay}.")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path must lie in [0, 1), got {self.drop_path}.")
        if self.steps is not None and self.steps < self.least_steps:
            raise ConfigError(f"steps must be above {self.least_steps - 1}, got {self.steps}.")
        for name in ("batch_size", "validate_every", "workers", "epochs"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"{name} must be above 0, got {value}.")
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(
                f"Give steps, {self.steps}, or epochs, {self.epochs:g}, not both (--epochs None "
                "--warmup-epochs None where a recipe sets them)."
            )
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs < (self.epochs or 0):
            raise ConfigError(
                f"warmup_epochs must lie in [0, epochs), got {self.warmup_epochs} of {self.epochs} epochs."
            )

    @property
    def least_steps(self) -> int:
        """Where the head is fitted beforehand, no step is needed."""
        return 0 if getattr(self, "head", "zero") == "probe" else 1

    def in_steps(self, films: int) -> tuple[int, OptimizerConfig]:
        """How many steps, and the optimizer with its warm-up as a share of them. films: of an epoch."""
        if self.epochs is None:
            return STEPS if self.steps is None else self.steps, self.optimizer
        share = self.optimizer.warmup if self.warmup_epochs is None else self.warmup_epochs / self.epochs
        steps = math.ceil(exact(self.epochs) * films / self.batch_size)
        return steps, replace(self.optimizer, warmup=share)


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(StepsConfig, LabelledConfig):
    """How a classifier learns, whatever it starts from."""

    protocol: Literal["clean", "paper"] = "clean"
    """paper: the test images choose the checkpoint, as in the released code; not to be compared with clean."""
    augmentation: Augmentation = "crop"
    """What training does to films: nothing; random crops; crops and timm's RandAugment m6-mstd0.5-inc1."""
    head: Literal["zero", "probe"] = "zero"
    """What the head starts from: nearly zero, as in the paper; or a linear probe of the training images."""

    def __post_init__(self) -> None:
        LabelledConfig.__post_init__(self)
        StepsConfig.__post_init__(self)
        if self.head == "probe" and self.protocol == "paper":
            raise ConfigError("head probe is no part of the paper's protocol: leave one of them out.")


@validated
@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(SupervisedConfig):
    """Fine-tune an encoder with labels: validation chooses the checkpoint and the thresholds, test is scored
    once. `evax recipes` lists the paper's experiments.
    """

    out: Path
    """Run folder; the classifier is written to OUT/bundle."""
    train_uncertain: TrainingUncertain | None = None
    """What -1 counts as in training, for uncertain and uncertain_ones; mixed and smooth go by finding."""
    validation_cap: int | None = None
    """At most so many validation images choose the checkpoint; all of them choose the thresholds."""
    resize_size: int | None = None
    """Validation, test and deployment see the central image_size square of images of this side (the paper: 256
    for 224); without it whole images."""
    fc_norm: Literal["pretrained", "new"] = "pretrained"
    """Final norm: the one of the weights, or a new one, as the released loader has it."""
    position_antialias: bool = True
    """Resample the position table of another image size with antialias; the released loader does not."""
    freeze_patch_embed: bool = False
    """Leave the patch embedding as it is (stop_grad_conv1 of the released code)."""
    subset: Subset = "fixed"
    """Of the labels, where not all are used. fixed: one draw of patients; redrawn: another at each epoch."""
    seeds: tuple[int, ...] = ()
    """One run per seed, as 0-4, in OUT/runs, and mean, sd and interval over them in OUT/seeds.json."""
    resume: bool = False
    """Continue the runs of seeds in OUT: finished ones are not repeated."""
    minutes: float | None = None
    """Train as long as fits into this time, instead of steps and epochs; config.yaml gets the steps."""
    dry_run: bool = False
    """Print speed, time and memory for several image sizes and encoders, and stop. Nothing is written."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_cap is not None and self.validation_cap <= 0:
            raise ConfigError(f"validation_cap must be above 0, got {self.validation_cap}.")
        if self.resize_size is not None and self.resize_size < self.image_size:
            raise ConfigError(
                f"resize_size must be at least image_size, {self.image_size}, got {self.resize_size}."
            )
        if self.minutes is not None and self.minutes <= 0:
            raise ConfigError(f"minutes must be above 0, got {self.minutes}.")
        if self.minutes is not None and (self.steps is not None or self.epochs is not None):
            raise ConfigError(
                f"Give minutes, {self.minutes:g}, or the length in steps or epochs, not both (--steps None "
                "--epochs None --warmup-epochs None where a recipe sets them)."
            )
        if self.minutes is not None and self.seeds:
            raise ConfigError("minutes are for a single run: give steps or epochs with seeds.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds must be different values, got {self.seeds}.")
        if self.seeds and self.seed != 0:
            raise ConfigError(
                f"seeds take the place of seed, which is {self.seed}: leave one of them out (--seed 0 where "
                "a recipe sets it)."
            )


@validated
@dataclass(frozen=True, kw_only=True)
class SegmentConfig(StepsConfig, AdaptingConfig):
    """Learn to draw masks: validation chooses the checkpoint and the thresholds, test is scored once.
    `evax recipes` lists the paper's experiments.
    """

    protocol: Literal["clean", "paper"] = "clean"
    """paper: the last checkpoint at the threshold 0.3, without validation; not to be compared with clean."""
    absent: Literal["outside", "unused"] = "outside"
    """Images labelled not to have a finding. outside: none of their pixels has it; unused: as in the paper,
    which trains and tests on images with the finding only."""
    distort: bool = False
    """Training images change in brightness and contrast, too, as in the paper."""
    decoder_width: int = 256
    """Channels of a transformer's decoder (UPerNet); on a CPU 64 are much faster."""
    validation_cap: int | None = None
    """At most so many validation images choose the checkpoint; all of them choose the thresholds."""
    pictures: int = 12
    """Test images that the report shows, from the best Dice to the worst."""

    def __post_init__(self) -> None:
        AdaptingConfig.__post_init__(self)
        StepsConfig.__post_init__(self)
        if self.batch_size < 2:
            raise ConfigError(
                "batch_size must be at least 2: the decoders normalise over the images of a step."
            )
        if self.decoder_width < 1 or self.pictures < 0:
            raise ConfigError("decoder_width must be above 0 and pictures at least 0.")
        if self.validation_cap is not None and self.validation_cap <= 0:
            raise ConfigError(f"validation_cap must be above 0, got {self.validation_cap}.")

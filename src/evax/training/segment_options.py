"""Options of evax segment. No torch here: the command line reads them before it loads anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evax.config import validated
from evax.errors import ConfigError
from evax.training.options import AdaptingConfig
from evax.training.supervised_options import StepsConfig

PAPER_THRESHOLD = 0.3  # mmsegmentation's, where nobody chooses one (facts 5.3)


@validated
@dataclass(frozen=True, kw_only=True)
class SegmentConfig(StepsConfig, AdaptingConfig):
    """Learn to draw masks: validation chooses the checkpoint and the thresholds, test is scored once.
    `evax recipes` lists the paper's experiments.
    """

    protocol: Literal["clean", "paper"] = "clean"
    """paper: the last checkpoint at the threshold 0.3, without validation; not to be compared with clean."""
    absent: Literal["outside", "unused"] = "outside"
    """Films labelled not to have a finding. outside: none of their pixels has it; unused: as in the paper,
    which trains and tests on films with the finding only."""
    distort: bool = False
    """Training films change in brightness and contrast, too, as in the paper."""
    decoder_width: int = 256
    """Channels of a transformer's decoder (UPerNet); on a CPU 64 are much faster."""
    validation_cap: int | None = None
    """At most so many validation films choose the checkpoint; all of them choose the thresholds."""
    pictures: int = 12
    """Test films that the report shows, from the best Dice to the worst."""

    def __post_init__(self) -> None:
        AdaptingConfig.__post_init__(self)
        StepsConfig.__post_init__(self)
        if self.batch_size < 2:
            raise ConfigError(
                "batch_size must be at least 2: the decoders normalise over the films of a step."
            )
        if self.decoder_width < 1 or self.pictures < 0:
            raise ConfigError("decoder_width must be above 0 and pictures at least 0.")
        if self.validation_cap is not None and self.validation_cap <= 0:
            raise ConfigError(f"validation_cap must be above 0, got {self.validation_cap}.")

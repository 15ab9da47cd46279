"""How a decision threshold is chosen; NumPy only, so that options can read a rule at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evax.errors import ConfigError

SIDES = ("sensitivity", "specificity")
RULES = "youden, f1, sensitivity:0.95 or specificity:0.9"


@dataclass(frozen=True)
class ThresholdRule:
    """A name of RULES, and the value that sensitivity or specificity must reach."""

    name: str
    target: float = math.nan

    @classmethod
    def of(cls, text: str) -> ThresholdRule:
        """The rule as a recipe writes it. Raises ConfigError for anything that is not one of RULES."""
        name, colon, value = text.partition(":")
        if text in ("youden", "f1"):
            return cls(text)
        try:
            target = float(value) if colon and name in SIDES else math.nan
        except ValueError:
            target = math.nan
        if not 0 < target <= 1:
            raise ConfigError(f"'{text}' chooses no threshold; give {RULES} (a value in (0, 1]).")
        return cls(name, target)

    def in_words(self) -> str:
        """For reports: what validation was asked for."""
        names = {"youden": "Youden", "f1": "largest F1"}
        return names.get(self.name) or f"{self.name} of at least {self.target:g}"

    def place(self, above: NDArray[np.int64], false_above: NDArray[np.int64]) -> int:
        """Which distinct score is the lowest that is called positive; -1 when none may be.

        above, false_above: (T,), positives and negatives at or above each score; both groups are not empty.
        Of several equally good ones it is the highest, which calls the fewest images positive, except for a
        specificity, where the lowest keeps the most sensitivity.
        """
        n_positive, n_negative = int(above[-1]), int(false_above[-1])
        gain: NDArray[Any]
        if self.name == "sensitivity":
            return int(np.argmax(above / n_positive >= self.target))
        if self.name == "specificity":
            return int(np.sum((n_negative - false_above) / n_negative >= self.target)) - 1
        if self.name == "f1":
            gain = 2 * above / (above + false_above + n_positive)
        else:
            gain = above * n_negative - false_above * n_positive  # whole numbers: equal is equal
        return int(np.argmax(gain))


YOUDEN = ThresholdRule("youden")

"""Policies for uncertain and blank labels; applied when loading, never on disk."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

Uncertain = Literal["ones", "zeros", "ignore"]
Blank = Literal["zeros", "ignore"]


def resolve_labels(
    labels: Float[np.ndarray, "S K"], uncertain: Uncertain, blank: Blank
) -> Float[np.ndarray, "S K"]:
    """1 present, 0 absent, NaN left out of loss and metrics.

    labels: 1, 0, -1 (uncertain as the source wrote it) or NaN (blank).
    """
    resolved = labels.copy()
    resolved[np.isnan(labels)] = 0.0 if blank == "zeros" else np.nan
    resolved[labels == -1] = {"ones": 1.0, "zeros": 0.0, "ignore": np.nan}[uncertain]
    return resolved

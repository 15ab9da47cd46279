"""Which patches are hidden."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from evax.data.augment import MASK, film_chance


def hidden_count(patches: int, ratio: float) -> int:
    """How many patches are hidden in every film: 59 of 196 at the paper's ratio 0.3 (58.8, rounded)."""
    return round(ratio * patches)


def hidden_positions(
    films: Int64[np.ndarray, " B"],
    epochs: Int64[np.ndarray, " B"],
    *,
    patches: int,
    ratio: float,
    seed: int,
) -> Int64[np.ndarray, "B M"]:
    """Uniformly random positions per film, without repetition, the same count in each.

    ratio: share of patches hidden, in (0, 1). Source: "randomly select a proportion r" (facts 2.1).
    """
    count = hidden_count(patches, ratio)
    return np.stack(
        [
            film_chance(seed, int(epoch), int(film), MASK).permutation(patches)[:count]
            for film, epoch in zip(films, epochs, strict=True)
        ]
    )

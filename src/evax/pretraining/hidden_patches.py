"""Which patches are hidden."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int64

from evax.data.augment import MASK, image_chance
from evax.options.pretraining import hidden_count
from evax.options.training import MaskPattern

SMALLEST_BLOCK, WIDEST = 16, 1 / 0.3  # patches; width : height, and its inverse; paper-facts.md 2.1


def hidden_positions(
    films: Int64[np.ndarray, " B"],
    epochs: Int64[np.ndarray, " B"],
    *,
    patches: int,
    ratio: float,
    seed: int,
    pattern: MaskPattern = "uniform",
) -> Int64[np.ndarray, "B M"]:
    """Random positions per image, without repetition, the same count in each.

    patches: of a square grid. ratio: share of patches hidden, in (0, 1). Source: "randomly select a
    proportion r" (uniform) and the EVA-02 code (block); paper-facts.md 2.1.
    """
    count = hidden_count(patches, ratio)
    return np.stack(
        [
            PATTERNS[pattern](patches, count, image_chance(seed, int(epoch), int(film), MASK))
            for film, epoch in zip(films, epochs, strict=True)
        ]
    )


def uniform_positions(patches: int, count: int, chance: np.random.Generator) -> Int64[np.ndarray, " M"]:
    """Every set of `count` patches is as likely as any other."""
    return chance.permutation(patches)[:count]


def block_positions(patches: int, count: int, chance: np.random.Generator) -> Int64[np.ndarray, " M"]:
    """The union of random rectangles of SMALLEST_BLOCK patches or more, up to exactly `count`.

    A rectangle has a uniform area, at most what is still to be hidden, a log-uniform aspect and a uniform
    place. Of the last one only as many patches are taken, row by row, as are missing.
    Source: BEiT (Bao et al. 2022), which stops short of the count or at it.
    """
    side = math.isqrt(patches)
    hidden = np.zeros((side, side), dtype=bool)
    while missing := count - int(hidden.sum()):
        area = chance.uniform(min(SMALLEST_BLOCK, missing), missing)
        aspect = math.exp(chance.uniform(-math.log(WIDEST), math.log(WIDEST)))
        height = min(side, max(1, round(math.sqrt(area / aspect))))
        width = min(side, max(1, round(math.sqrt(area * aspect))))
        top, left = chance.integers(side - height + 1), chance.integers(side - width + 1)
        block = np.zeros_like(hidden)
        block[top : top + height, left : left + width] = True
        hidden.flat[np.flatnonzero(block & ~hidden)[:missing]] = True
    return np.flatnonzero(hidden)


PATTERNS = {"uniform": uniform_positions, "block": block_positions}

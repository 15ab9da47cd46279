"""How alike are two films once one is laid on the other? For films that were resized, inverted or cropped.

Only scale and shift along each axis are searched: that is what resizing, cropping and a store's change of
aspect do. Two exposures of one patient differ in breath and posture and do not come to lie on each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter

COARSE, FINE = 48, 96  # sides of the films that are compared, in pixels; a rib is 3 to 4 fine pixels wide
COARSE_BLUR, FINE_BLUR = 3.0, 2.0  # pixels; wide details find the place, narrow ones tell films apart
FLAT = 0.02  # contrast of a film in [0, 1] below which an area counts as empty
# Side, steps, and correlation below which a pair is given up. Copies of phantoms and of hannover-covid19 with
# up to 6 % cut off at each edge stayed above 0.79 and 0.87; 95 % of different hannover films below 0.73.
LEVELS = ((24, 8, 0.75), (COARSE, 4, 0.8), (FINE, 4, 0.0))
LARGEST = 0.25  # change of scale and shift of the centre, in halves of the side
BATCH = 64  # pairs at once; their arrays stay in a processor's cache


def film_details(film: UInt8[np.ndarray, "S S"], side: int, trim: float = 0.0) -> Float32[np.ndarray, "s s"]:
    """A stored film at COARSE or FINE pixels without its slow changes of grey, see `details`.

    trim: share of the film's side that is cut off at each edge first.
    """
    cut = trim * len(film)
    box = (cut, cut, len(film) - cut, len(film) - cut)
    picture = Image.fromarray(film).resize((side, side), Image.Resampling.BOX, box=box)
    blur = COARSE_BLUR if side == COARSE else FINE_BLUR
    return details(np.asarray(picture, np.float32) / 255, blur)


def details(film: Float32[np.ndarray, "s s"], blur: float) -> Float32[np.ndarray, "s s"]:
    """A film without what is wider than `blur` pixels, each place divided by the contrast around it.

    Exposure and window disappear, and the negative of a film gives the negative of its details.
    """
    detail = film - gaussian_filter(film, blur)
    contrast = np.sqrt(gaussian_filter(detail**2, blur))
    result: Float32[np.ndarray, "s s"] = detail / (contrast + FLAT)
    return result


def pooled(films: Float32[np.ndarray, "n s s"], side: int) -> Float32[np.ndarray, "n t t"]:
    """Means over equal blocks, `side` of them along each axis."""
    n, fine, _ = films.shape
    blocks = films.reshape(n, side, fine // side, side, fine // side)
    result: Float32[np.ndarray, "n t t"] = blocks.mean(axis=(2, 4))
    return result


def aligned_correlations(
    inner: Sequence[UInt8[np.ndarray, "_ _"]],
    outer: Sequence[UInt8[np.ndarray, "_ _"]],
    trims: Float32[np.ndarray, " n"],
) -> Float32[np.ndarray, " n"]:
    """Correlation of the fine details of each pair after registration, in [-1, 1]; negative: one is inverted.

    inner, outer: stored films; inner may be a part of outer. trims: of outer, where the search starts.
    NaN for a pair that is given up because it does not come near.
    Source: Gauss-Newton steps of Lucas and Kanade 1981 on the difference between outer and gain x inner, with
    the gain solved for at each step.
    """
    values = [
        _of_batch(inner[start : start + BATCH], outer[start : start + BATCH], trims[start : start + BATCH])
        for start in range(0, len(inner), BATCH)
    ]
    return np.concatenate([np.zeros(0, np.float32), *values])


def _of_batch(
    inner: Sequence[UInt8[np.ndarray, "_ _"]],
    outer: Sequence[UInt8[np.ndarray, "_ _"]],
    trims: Float32[np.ndarray, " n"],
) -> Float32[np.ndarray, " n"]:
    result = np.full(len(inner), np.nan, np.float32)
    alive = np.arange(len(inner))
    place = np.zeros((len(inner), 4), np.float32)  # change of scale and shift, along x and along y
    place[:, [0, 2]] = -2 * trims[:, None]
    for side, steps, enough in LEVELS:
        kept = COARSE if side <= COARSE else FINE
        first, second = (
            pooled(np.stack([film_details(films[int(n)], kept) for n in alive]), side)
            for films in (inner, outer)
        )
        place = _registered(first, second, place, steps)
        correlations = _correlation(first, second, place)
        near = np.abs(correlations) >= enough
        alive, place = alive[near], place[near]
        if not len(alive):
            return result
    result[alive] = correlations
    return result


def _registered(
    first: Float32[np.ndarray, "n t t"],
    second: Float32[np.ndarray, "n t t"],
    place: Float32[np.ndarray, "n 4"],
    steps: int,
) -> Float32[np.ndarray, "n 4"]:
    n, side, _ = first.shape
    axis = _axis(side)
    for _ in range(steps):
        moved, inside = _moved(second, place)
        fixed, moved = first * inside, moved * inside
        gain = (fixed * moved).sum((1, 2)) / np.maximum((fixed**2).sum((1, 2)), 1e-6)
        down, across = np.gradient(moved, 2 / side, axis=(1, 2))
        slopes = np.stack([across * axis, across, down * axis[:, None], down], axis=1) * inside[:, None]
        slopes = slopes.reshape(n, 4, -1)  # how each pixel changes with each number of the place
        products = slopes @ slopes.transpose(0, 2, 1)
        products += 1e-3 * np.trace(products, axis1=1, axis2=2)[:, None, None] * np.eye(4) + 1e-6 * np.eye(4)
        difference = (gain[:, None, None] * fixed - moved).reshape(n, -1, 1)
        step = np.linalg.solve(products, slopes @ difference)[:, :, 0]
        place = np.clip(place + step, -LARGEST, LARGEST).astype(np.float32)
    return place


def _correlation(
    first: Float32[np.ndarray, "n t t"],
    second: Float32[np.ndarray, "n t t"],
    place: Float32[np.ndarray, "n 4"],
) -> Float32[np.ndarray, " n"]:
    """Where the two overlap; 0 for a film without details."""
    moved, inside = _moved(second, place)
    pixels = np.maximum(inside.sum((1, 2)), 1)[:, None, None]
    first, moved = (
        (film - (film * inside).sum((1, 2), keepdims=True) / pixels) * inside for film in (first, moved)
    )
    norms = np.sqrt((first**2).sum((1, 2)) * (moved**2).sum((1, 2)))
    return ((first * moved).sum((1, 2)) / np.maximum(norms, 1e-6)).astype(np.float32)


def _moved(
    films: Float32[np.ndarray, "n t t"], place: Float32[np.ndarray, "n 4"]
) -> tuple[Float32[np.ndarray, "n t t"], Bool[np.ndarray, "n t t"]]:
    """Films resampled bilinearly at their places, and where they have pixels there."""
    side = films.shape[1]
    axis = _axis(side)
    across, in_x = _interpolation(axis * (1 + place[:, :1]) + place[:, 1:2])
    down, in_y = _interpolation(axis * (1 + place[:, 2:3]) + place[:, 3:])
    return down @ films @ across.transpose(0, 2, 1), in_y[:, :, None] & in_x[:, None, :]


def _interpolation(
    at: Float32[np.ndarray, "n t"],
) -> tuple[Float32[np.ndarray, "n t t"], Bool[np.ndarray, "n t"]]:
    """Weights of the pixels of one axis at these places in [-1, 1], and which places lie between pixels."""
    side = at.shape[1]
    position = (at + 1) / 2 * side - 0.5
    weights = np.clip(1 - np.abs(position[:, :, None] - np.arange(side, dtype=np.float32)), 0, None)
    return weights, (position >= 0) & (position <= side - 1)


def _axis(side: int) -> Float32[np.ndarray, " t"]:
    """Centres of the pixels of one axis, from -1 to 1."""
    return (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1

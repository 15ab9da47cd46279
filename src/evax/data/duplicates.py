"""Images that show the same exposure: the very same stored pixels, or pixels that were resized, re-encoded,
inverted or cropped by a few percent in between.

Three sieves, each for fewer pairs than the one before: digests of the pixels; nearest neighbours of 16 x 16
pixels of local contrast; and for those the correlation of fine details once one image lies on the other. The
thresholds were fixed on phantoms and on one public data set (docs/results/audit.md). Mirror images are not
looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter

from evax.data.store import ImageStore
from evax.errors import DataError

COARSE, FINE = 48, 96  # sides of the images that are compared, in pixels; a rib is 3 to 4 fine pixels wide
COARSE_BLUR, FINE_BLUR = 3.0, 2.0  # pixels; wide details find the place, narrow ones tell images apart
FLAT = 0.02  # contrast of an image in [0, 1] below which an area counts as empty
# Side, steps, and correlation below which a pair is given up. Copies of phantoms and of hannover-covid19 with
# up to 6 % cut off at each edge stayed above 0.79 and 0.87; 95 % of different hannover images below 0.73.
LEVELS = ((24, 8, 0.75), (COARSE, 4, 0.8), (FINE, 4, 0.0))
LARGEST = 0.25  # change of scale and shift of the centre, in halves of the side
BATCH = 64  # pairs at once; their arrays stay in a processor's cache


def image_details(film: UInt8[np.ndarray, "S S"], side: int, trim: float = 0.0) -> Float32[np.ndarray, "s s"]:
    """A stored image at COARSE or FINE pixels without its slow changes of grey, see `pixel_details`.

    trim: share of the image's side that is cut off at each edge first.
    """
    cut = trim * len(film)
    box = (cut, cut, len(film) - cut, len(film) - cut)
    picture = Image.fromarray(film).resize((side, side), Image.Resampling.BOX, box=box)
    blur = COARSE_BLUR if side == COARSE else FINE_BLUR
    return pixel_details(np.asarray(picture, np.float32) / 255, blur)


def pixel_details(film: Float32[np.ndarray, "s s"], blur: float) -> Float32[np.ndarray, "s s"]:
    """An image without what is wider than `blur` pixels, each place divided by the contrast around it.

    Exposure and window disappear, and the negative of an image gives the negative of its pixel_details.
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

    inner, outer: stored images; inner may be a part of outer. trims: of outer, where the search starts.
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
            pooled(np.stack([image_details(films[int(n)], kept) for n in alive]), side)
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
    """Where the two overlap; 0 for an image without details."""
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
    """Images resampled bilinearly at their places, and where they have pixels there."""
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


SAME = 0.85  # correlation of fine details from which two images are one exposure
SKETCH = 16  # side of what neighbours are searched by
TRIMS = (0.0, 0.025, 0.05)  # each image is also looked for as if it had been cropped by so much at each edge
NEIGHBOURS = 8  # per image; those of an image that is stored many times find each other in a chain
LIKELY = 0.5  # correlation of sketches below which a neighbour is not looked at
BLOCK = 1024  # images per search
Progress = Callable[[int, int, str], None]


class Place(NamedTuple):
    """A film: which store of a list, and its row there."""

    store: int
    row: int


class DuplicatePair(NamedTuple):
    """Two images of one exposure."""

    first: Place
    second: Place
    kind: Literal["exact", "near"]
    similarity: float
    """Correlation of fine details in [SAME, 1]; 1 for exact ones."""
    inverted: bool


class Comparison(NamedTuple):
    """What a search found."""

    pairs: list[DuplicatePair]
    """Exact ones first; of k identical images the k - 1 pairs with the first of them."""
    candidates: int
    """Pairs of neighbours that were laid on each other."""
    similarities: Float32[np.ndarray, " compared"]
    """In [0, 1], of those candidates that came near, the different ones included."""


def compare_images(
    stores: Sequence[ImageStore], on_progress: Progress = lambda done, total, note: None
) -> Comparison:
    """Every image with every other, within and between stores.

    on_progress(done, total, note). The time of the search for neighbours grows with the square of the images,
    its memory by 1 kB per image.
    Raises DataError for a store whose images are too small to be compared.
    """
    check_large_enough(stores)
    places = [Place(number, row) for number, store in enumerate(stores) for row in range(len(store))]
    digests = np.concatenate([store.digests(np.arange(len(store))) for store in stores])
    _, first, number_of = np.unique(digests, return_index=True, return_inverse=True)
    pairs = [
        DuplicatePair(places[first[number]], place, "exact", 1.0, False)
        for position, (place, number) in enumerate(zip(places, number_of, strict=True))
        if position != first[number]
    ]
    different = [places[position] for position in np.sort(first)]

    def film(number: int | np.integer) -> UInt8[np.ndarray, "S S"]:
        place = different[int(number)]
        return stores[place.store].pixels(place.row)

    likely = _neighbours(film, len(different), on_progress)
    similarities = _similarities(film, likely, on_progress)
    for (inner, outer, _), value in zip(likely, similarities, strict=True):
        if abs(value) >= SAME:
            one, other = sorted((different[inner], different[outer]))
            pairs.append(DuplicatePair(one, other, "near", float(abs(value)), bool(value < 0)))
    return Comparison(pairs, len(likely), np.abs(similarities[np.isfinite(similarities)]))


def check_large_enough(stores: Sequence[ImageStore]) -> None:
    """DataError for a store whose images are too small to be compared."""
    for store in stores:
        if store.size < FINE:
            raise DataError(
                f"{store.path} keeps images at {store.size} pixels; images are told apart by details that need "
                f"{FINE}: prepare it with --size {FINE} or more."
            )


class Likely(NamedTuple):
    """Two images that may be one."""

    inner: int
    outer: int
    trim: float
    """Of outer, with which it looks most like inner."""


FilmOf = Callable[[int | np.integer], UInt8[np.ndarray, "S S"]]


def sketches(films: Sequence[UInt8[np.ndarray, "_ _"]], trim: float = 0.0) -> Float32[np.ndarray, "n d"]:
    """Images as unit vectors whose products are correlations; zeros for an image without details."""
    coarse = pooled(np.stack([image_details(film, COARSE, trim) for film in films]), SKETCH)
    flat = coarse.reshape(len(films), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    unit: Float32[np.ndarray, "n d"] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return unit


def _neighbours(film: FilmOf, total: int, on_progress: Progress) -> list[Likely]:
    """Of each image the images that look most like it, or like its negative, at any of the trims."""
    from sklearn.neighbors import NearestNeighbors

    blocks = [range(start, min(start + BLOCK, total)) for start in range(0, total, BLOCK)]
    known = np.concatenate([sketches([film(n) for n in block]) for block in blocks])
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS + 1, total), algorithm="brute").fit(known)
    best: dict[tuple[int, int], tuple[float, Likely]] = {}
    for block in blocks:
        found: list[tuple[Int64[np.ndarray, "b k"], Float32[np.ndarray, "b k"], float]] = []
        for trim in TRIMS:
            asked = known[block.start : block.stop] if trim == 0 else sketches([film(n) for n in block], trim)
            for sign in (1, -1):
                distances, neighbours = search.kneighbors(sign * asked)
                found.append((neighbours, 1 - distances**2 / 2, trim))  # unit vectors
        neighbours, alike = (np.concatenate([part[k] for part in found], axis=1) for k in (0, 1))
        trims = np.repeat([trim for *_, trim in found], found[0][0].shape[1])
        for position, outer in enumerate(block):
            chosen: set[int] = set()
            for column in np.argsort(-alike[position], kind="stable"):
                inner, likeness = int(neighbours[position, column]), float(alike[position, column])
                if likeness < LIKELY or len(chosen) == NEIGHBOURS:
                    break
                if inner == outer or inner in chosen:
                    continue
                chosen.add(inner)
                key = (min(inner, outer), max(inner, outer))
                if key not in best or best[key][0] < likeness:
                    best[key] = (likeness, Likely(inner, outer, float(trims[column])))
        on_progress(block.stop, total, "searching")
    return [likely for _, likely in (best[key] for key in sorted(best))]


def _similarities(
    film: FilmOf, likely: list[Likely], on_progress: Progress
) -> Float32[np.ndarray, " candidates"]:
    """Correlation of each pair after registration; negative: one is inverted; NaN: they do not come near."""
    values = [np.zeros(0, np.float32)]
    for start in range(0, len(likely), BLOCK):
        part = likely[start : start + BLOCK]
        inner, outer = [film(pair.inner) for pair in part], [film(pair.outer) for pair in part]
        trims = np.array([pair.trim for pair in part], np.float32)
        values.append(aligned_correlations(inner, outer, trims))
        on_progress(start + len(part), len(likely), "laying images on each other")
    return np.concatenate(values)

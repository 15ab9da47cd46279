"""Films that show the same exposure: the very same stored pixels, or pixels that were resized, re-encoded,
inverted or cropped by a few percent in between.

Three sieves, each for fewer pairs than the one before: digests of the pixels; nearest neighbours of 16 x 16
pixels of local contrast; and for those the correlation of fine details once one film lies on the other. The
thresholds were fixed on phantoms and on one public data set (docs/results/audit.md). Mirror images are not
looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from evax.data.alignment import COARSE, FINE, aligned_correlations, film_details, pooled
from evax.data.store import ImageStore
from evax.errors import DataError

SAME = 0.85  # correlation of fine details from which two films are one exposure
SKETCH = 16  # side of what neighbours are searched by
TRIMS = (0.0, 0.025, 0.05)  # each film is also looked for as if it had been cropped by so much at each edge
NEIGHBOURS = 8  # per film; those of a film that is stored many times find each other in a chain
LIKELY = 0.5  # correlation of sketches below which a neighbour is not looked at
BLOCK = 1024  # films per search
Progress = Callable[[int, int, str], None]


class Place(NamedTuple):
    """A film: which store of a list, and its row there."""

    store: int
    row: int


class Pair(NamedTuple):
    """Two films of one exposure."""

    first: Place
    second: Place
    kind: Literal["exact", "near"]
    similarity: float
    """Correlation of fine details in [SAME, 1]; 1 for exact ones."""
    inverted: bool


class Comparison(NamedTuple):
    """What a search found."""

    pairs: list[Pair]
    """Exact ones first; of k identical films the k - 1 pairs with the first of them."""
    candidates: int
    """Pairs of neighbours that were laid on each other."""
    similarities: Float32[np.ndarray, " compared"]
    """In [0, 1], of those candidates that came near, the different ones included."""


def compare_films(
    stores: Sequence[ImageStore], on_progress: Progress = lambda done, total, note: None
) -> Comparison:
    """Every film with every other, within and between stores.

    on_progress(done, total, note). The time of the search for neighbours grows with the square of the films,
    its memory by 1 kB per film.
    Raises DataError for a store whose films are too small to be compared.
    """
    refuse_small(stores)
    places = [Place(number, row) for number, store in enumerate(stores) for row in range(len(store))]
    digests = np.concatenate([store.digests(np.arange(len(store))) for store in stores])
    _, first, number_of = np.unique(digests, return_index=True, return_inverse=True)
    pairs = [
        Pair(places[first[number]], place, "exact", 1.0, False)
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
            pairs.append(Pair(one, other, "near", float(abs(value)), bool(value < 0)))
    return Comparison(pairs, len(likely), np.abs(similarities[np.isfinite(similarities)]))


def refuse_small(stores: Sequence[ImageStore]) -> None:
    """DataError for a store whose films are too small to be compared."""
    for store in stores:
        if store.size < FINE:
            raise DataError(
                f"{store.path} keeps films at {store.size} pixels; films are told apart by details that need "
                f"{FINE}: prepare it with --size {FINE} or more."
            )


class Likely(NamedTuple):
    """Two films that may be one."""

    inner: int
    outer: int
    trim: float
    """Of outer, with which it looks most like inner."""


FilmOf = Callable[[int | np.integer], UInt8[np.ndarray, "S S"]]


def sketches(films: Sequence[UInt8[np.ndarray, "_ _"]], trim: float = 0.0) -> Float32[np.ndarray, "n d"]:
    """Films as unit vectors whose products are correlations; zeros for a film without details."""
    coarse = pooled(np.stack([film_details(film, COARSE, trim) for film in films]), SKETCH)
    flat = coarse.reshape(len(films), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    unit: Float32[np.ndarray, "n d"] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return unit


def _neighbours(film: FilmOf, total: int, on_progress: Progress) -> list[Likely]:
    """Of each film the films that look most like it, or like its negative, at any of the trims."""
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
        on_progress(start + len(part), len(likely), "laying films on each other")
    return np.concatenate(values)

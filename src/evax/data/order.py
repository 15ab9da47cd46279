"""In which order films are shown, from epoch to epoch, without an end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from evax.data.augment import ORDER, film_chance

Numbers = Int64[np.ndarray, " films"]


class FilmOrder:
    """Every epoch shows every film once in an order of its own, or each store as often as its share says.

    counts: films of each store, numbered one store after the other. shares: one number per store, >= 0, whose
    relation counts; an epoch has as many films as without. A store then goes round its films in an order that
    is new each time, whatever the epochs, so none is shown again before all others were.
    """

    def __init__(self, counts: Sequence[int], seed: int, shares: Sequence[float] = ()) -> None:
        self._counts, self._seed, self._shares = counts, seed, shares
        self._epochs: dict[int, tuple[Numbers, Numbers]] = {}

    def place(self, position: int) -> tuple[int, int]:
        """(how many times it was shown before, film) at a position of the endless stream."""
        epoch, offset = divmod(position, sum(self._counts))
        if epoch not in self._epochs:
            self._epochs.pop(epoch - 2, None)
            self._epochs[epoch] = self._shared(epoch) if self._shares else self._plain(epoch)
        visits, films = self._epochs[epoch]
        return int(visits[offset]), int(films[offset])

    def _plain(self, epoch: int) -> tuple[Numbers, Numbers]:
        films = film_chance(self._seed, epoch, 0, ORDER).permutation(sum(self._counts))
        return np.full(len(films), epoch), films

    def _shared(self, epoch: int) -> tuple[Numbers, Numbers]:
        visits, films, first = [], [], 0
        for store, (count, take) in enumerate(zip(self._counts, self._takes(), strict=True)):
            visit, offset = np.divmod(np.arange(epoch * take, (epoch + 1) * take), count)
            for each in np.unique(visit):
                order = film_chance(self._seed, int(each), store, ORDER).permutation(count)
                films.append(first + order[offset[visit == each]])
            visits.append(visit)
            first += count
        mixed = film_chance(self._seed, epoch, len(self._counts), ORDER).permutation(first)
        return np.concatenate(visits)[mixed], np.concatenate(films)[mixed]

    def _takes(self) -> list[int]:
        """Films of each store in an epoch; together as many as there are films."""
        ends = np.round(np.cumsum(self._shares) / np.sum(self._shares) * sum(self._counts)).astype(int)
        return [int(take) for take in np.diff(ends, prepend=0)]


class DrawnOrder:
    """Every epoch shows films of its own, in an order of its own.

    epochs: the films of each, enough of them for all positions that are asked for.
    """

    def __init__(self, epochs: Sequence[Int64[np.ndarray, " _"]], seed: int) -> None:
        self._drawn, self._seed = epochs, seed
        self._starts = np.cumsum([0, *map(len, epochs)])
        self._orders: dict[int, Numbers] = {}

    def place(self, position: int) -> tuple[int, int]:
        """(how many times it was shown before, film) at a position of the endless stream."""
        epoch = int(np.searchsorted(self._starts, position, side="right")) - 1
        if epoch not in self._orders:
            self._orders.pop(epoch - 2, None)
            chance = film_chance(self._seed, epoch, 0, ORDER)
            self._orders[epoch] = chance.permutation(self._drawn[epoch])
        return epoch, int(self._orders[epoch][position - self._starts[epoch]])


Order = FilmOrder | DrawnOrder

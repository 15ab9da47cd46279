"""Stores -> batches of crops, made ahead of time by a few threads (Pillow resizes outside Python's lock)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from evax.data.augment import ORDER, CropConfig, TrainingView, image_chance, random_crops
from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore

Numbers = Int64[np.ndarray, " films"]


class ImageOrder:
    """Every epoch shows every image once in an order of its own, or each store as often as its share says.

    counts: images of each store, numbered one store after the other. shares: one number per store, >= 0, whose
    relation counts; an epoch has as many images as without. A store then goes round its images in an order that
    is new each time, whatever the epochs, so none is shown again before all others were.
    """

    def __init__(self, counts: Sequence[int], seed: int, shares: Sequence[float] = ()) -> None:
        self._counts, self._seed, self._shares = counts, seed, shares
        self._epochs: dict[int, tuple[Numbers, Numbers]] = {}

    def place(self, position: int) -> tuple[int, int]:
        """(how many times it was shown before, image) at a position of the endless stream."""
        epoch, offset = divmod(position, sum(self._counts))
        if epoch not in self._epochs:
            self._epochs.pop(epoch - 2, None)
            self._epochs[epoch] = self._shared(epoch) if self._shares else self._plain(epoch)
        visits, films = self._epochs[epoch]
        return int(visits[offset]), int(films[offset])

    def _plain(self, epoch: int) -> tuple[Numbers, Numbers]:
        films = image_chance(self._seed, epoch, 0, ORDER).permutation(sum(self._counts))
        return np.full(len(films), epoch), films

    def _shared(self, epoch: int) -> tuple[Numbers, Numbers]:
        visits, films, first = [], [], 0
        for store, (count, take) in enumerate(zip(self._counts, self._takes(), strict=True)):
            visit, offset = np.divmod(np.arange(epoch * take, (epoch + 1) * take), count)
            for each in np.unique(visit):
                order = image_chance(self._seed, int(each), store, ORDER).permutation(count)
                films.append(first + order[offset[visit == each]])
            visits.append(visit)
            first += count
        mixed = image_chance(self._seed, epoch, len(self._counts), ORDER).permutation(first)
        return np.concatenate(visits)[mixed], np.concatenate(films)[mixed]

    def _takes(self) -> list[int]:
        """Images of each store in an epoch; together as many as there are images."""
        ends = np.round(np.cumsum(self._shares) / np.sum(self._shares) * sum(self._counts)).astype(int)
        return [int(take) for take in np.diff(ends, prepend=0)]


class DrawnOrder:
    """Every epoch shows images of its own, in an order of its own.

    epochs: the images of each, enough of them for all positions that are asked for.
    """

    def __init__(self, epochs: Sequence[Int64[np.ndarray, " _"]], seed: int) -> None:
        self._drawn, self._seed = epochs, seed
        self._starts = np.cumsum([0, *map(len, epochs)])
        self._orders: dict[int, Numbers] = {}

    def place(self, position: int) -> tuple[int, int]:
        """(how many times it was shown before, image) at a position of the endless stream."""
        epoch = int(np.searchsorted(self._starts, position, side="right")) - 1
        if epoch not in self._orders:
            self._orders.pop(epoch - 2, None)
            chance = image_chance(self._seed, epoch, 0, ORDER)
            self._orders[epoch] = chance.permutation(self._drawn[epoch])
        return epoch, int(self._orders[epoch][position - self._starts[epoch]])


Order = ImageOrder | DrawnOrder


BATCHES_AHEAD = 3
CROPS_PER_TASK = 16  # a task of one crop would cost a tenth of the crop


class Films:
    """Chosen rows of one or several stores as one numbered list."""

    def __init__(self, parts: Sequence[tuple[ImageStore, Int64[np.ndarray, " _"]]]) -> None:
        self._stores = [store for store, _ in parts]
        self._store_of = np.concatenate([np.full(len(rows), i) for i, (_, rows) in enumerate(parts)])
        self._row_of = np.concatenate([rows for _, rows in parts])

    def __len__(self) -> int:
        return len(self._row_of)

    def counts(self) -> list[int]:
        """Images of each store."""
        return np.bincount(self._store_of, minlength=len(self._stores)).tolist()

    def parts(self) -> list[tuple[ImageStore, Int64[np.ndarray, " _"]]]:
        """Each store with the rows that were chosen of it."""
        return [(store, self._row_of[self._store_of == i]) for i, store in enumerate(self._stores)]

    def pixels(self, film: int) -> UInt8[np.ndarray, "S S"]:
        """Stored 8-bit pixels, a view."""
        return self._stores[self._store_of[film]].pixels(int(self._row_of[film]))


@dataclass(frozen=True, eq=False)
class Batch:
    """Crops of one training step, or the slice of one process."""

    step: int
    epochs: Int64[np.ndarray, " B"]
    """How many times each image was shown before: the epoch, unless stores have shares of their own."""
    films: Int64[np.ndarray, " B"]
    images: UInt8[np.ndarray, "B C s s"]
    """One channel, the image; the masks of some findings behind it where the view gives them."""


def training_batches(
    films: Films,
    *,
    batch_size: int,
    size: int,
    crop: CropConfig | TrainingView,
    seed: int,
    steps: range,
    workers: int,
    order: Order | None = None,
    channels: int = 1,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """Batches of the given steps; every epoch shows every image once in an order of its own.

    crop: how random crops are cut, or what else is shown of an image, in so many channels. order: another one.
    batch_size: of all processes together, a multiple of their number; process `rank` gets its slice.
    The stream of images runs on from epoch to epoch, so no image is dropped and small sets work with any batch
    size.
    What a step holds depends on (seed, step) alone: a resumed run sees what the uninterrupted one would have
    seen.
    """
    view = random_crops(size, crop, seed) if isinstance(crop, CropConfig) else crop
    order = order or ImageOrder(films.counts(), seed)

    def cut(items: list[tuple[int, int]], images: UInt8[np.ndarray, "n C s s"]) -> None:
        for (epoch, film), image in zip(items, images, strict=True):
            image[:] = view(films.pixels(film), epoch, film)

    share = batch_size // processes

    with ThreadPoolExecutor(workers) as pool:

        def start(step: int) -> tuple[Batch, list[Future[None]]]:
            first = step * batch_size + rank * share
            items = [order.place(position) for position in range(first, first + share)]
            batch = Batch(
                step=step,
                epochs=np.array([epoch for epoch, _ in items]),
                films=np.array([film for _, film in items]),
                images=np.empty((share, channels, size, size), np.uint8),
            )
            parts = (slice(at, at + CROPS_PER_TASK) for at in range(0, share, CROPS_PER_TASK))
            return batch, [pool.submit(cut, items[part], batch.images[part]) for part in parts]

        ahead: deque[tuple[Batch, list[Future[None]]]] = deque()
        upcoming = iter(steps)
        try:
            while True:
                while len(ahead) < BATCHES_AHEAD and (step := next(upcoming, None)) is not None:
                    ahead.append(start(step))
                if not ahead:
                    return
                batch, tasks = ahead.popleft()
                for task in tasks:
                    task.result()
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


def whole_batches(
    pixels: Callable[[int], UInt8[np.ndarray, "S S"]],
    films: Int64[np.ndarray, " films"],
    *,
    batch_size: int,
    preprocess: Preprocess,
) -> Iterator[UInt8[np.ndarray, "B 1 s s"]]:
    """The images themselves in order, without chance, as evaluation and deployment see them."""
    for start in range(0, len(films), batch_size):
        chosen = films[start : start + batch_size]
        yield np.stack([preprocess.view(pixels(int(film))) for film in chosen])[:, None]

"""Processes that turn files into stored films, in order; a decoder that crashes or hangs takes one film."""

from __future__ import annotations

import math
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from evax.data.masks import Piece, check_aspect, stored_masks
from evax.data.pictures import read_image
from evax.data.preprocess import Preprocess
from evax.errors import DataError

IN_FLIGHT_PER_WORKER = 8
T = TypeVar("T")
R = TypeVar("R")
MAX_SECONDS = 30.0  # processor time for one film; the largest detector's film takes about one


@dataclass(frozen=True)
class FilmFiles:
    """What a stored film is made of."""

    film: Path
    root: Path
    """Folder of the mask files."""
    pieces: Sequence[Piece] = ()
    mask_value: tuple[int, ...] = ()
    """What is inside in the mask files, as for read_mask."""
    drawn_on: tuple[float, float] | None = None
    """Width and height of the picture that its boxes were drawn on; None where there are none, or unknown."""


@dataclass(frozen=True)
class StoredFilm:
    """A film as a shard keeps it."""

    pixels: bytes
    masks: dict[str, bytes] = field(default_factory=dict)
    """Finding -> bits."""
    issues: str = ""
    """Those of the Radiograph, with blanks between."""
    height: int = 0
    width: int = 0
    """Of the film as it was read, in pixels."""
    spacing_mm: float = math.nan
    """Of a pixel of that film, mean of both directions; NaN where unknown."""


class FilmReaders:
    """A pool of processes that read films, a bounded number at a time; a context manager."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._workers, mp_context=get_context("spawn"), initializer=_end_with_parent
        )

    def __enter__(self) -> FilmReaders:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(self, films: Iterable[FilmFiles], preprocess: Preprocess) -> Iterator[StoredFilm | str]:
        """The stored film, or the reason why there is none, for every entry in order."""
        return self.each(partial(read_film, preprocess=preprocess), films)

    def each(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R | str]:
        """What the task gives for every item in order; for one that takes the decoder or its process down,
        the reason.
        """
        ahead: deque[tuple[T, Future[R]]] = deque()
        upcoming = iter(items)
        while True:
            while (
                len(ahead) < self._workers * IN_FLIGHT_PER_WORKER
                and (following := next(upcoming, None)) is not None
            ):
                ahead.append((following, self._submit(task, following)))
            if not ahead:
                return
            item, future = ahead.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:  # a decoder crashed: one of the films in flight; each is tried alone
                waiting = [item, *(other for other, _ in ahead)]
                ahead.clear()
                for other in waiting:
                    yield self._alone(task, other)

    def _submit(self, task: Callable[[T], R], item: T) -> Future[R]:
        try:
            return self._pool.submit(_within_limit, task, item)
        except BrokenProcessPool:  # a worker ended since the last film, killed for its memory for example
            self._pool = self._new_pool()
            return self._pool.submit(_within_limit, task, item)

    def _alone(self, task: Callable[[T], R], item: T) -> R | str:
        self._pool.shutdown(cancel_futures=True)
        self._pool = self._new_pool()
        try:
            return self._submit(task, item).result()
        except BrokenProcessPool:
            self._pool = self._new_pool()
            return f"The decoder crashed on this file, or needed more than {MAX_SECONDS:g} s for it."


def _end_with_parent() -> None:
    """A killed build leaves no processes behind; they would wait for ever. Ctrl-C is for the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        if parent := parent_process():
            parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Ends the process when the block takes more processor time: a decoder in C cannot be stopped otherwise.

    Processor time, because on a busy machine a good film may wait long. Without SIGPROF (Windows) no limit.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF, unhandled, ends the process
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _within_limit(task: Callable[[Any], Any], item: Any) -> Any:
    with _time_limit(MAX_SECONDS):
        return task(item)


def read_film(files: FilmFiles, preprocess: Preprocess) -> StoredFilm | str:
    """The film as a shard keeps it, or why there is none."""
    try:
        film = read_image(files.film, preprocess.bits)
        height, width = film.pixels.shape
        if files.drawn_on:
            check_aspect("The boxes are drawn on", files.drawn_on, (width, height))
        masks = stored_masks(
            files.pieces, files.root, film.pixels.shape, preprocess.store_size, files.mask_value
        )
    except DataError as error:
        return str(error)
    spacing = math.nan if film.spacing_mm is None else sum(film.spacing_mm) / 2
    pixels = preprocess.to_store(film.pixels).tobytes()
    return StoredFilm(pixels, masks, " ".join(film.issues), height, width, spacing)

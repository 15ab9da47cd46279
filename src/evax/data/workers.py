"""Processes that turn files into stored films, in order; a decoder that crashes or hangs takes one film."""

from __future__ import annotations

import math
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from evax.data.masks import Piece, stored_masks
from evax.data.pictures import read_image
from evax.data.preprocess import Preprocess
from evax.errors import DataError

IN_FLIGHT_PER_WORKER = 8
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
    """A pool of processes that reads films, a bounded number at a time; a context manager."""

    def __init__(self, workers: int, preprocess: Preprocess) -> None:
        self._workers, self._preprocess = workers, preprocess
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._workers, mp_context=get_context("spawn"), initializer=_end_with_parent
        )

    def __enter__(self) -> FilmReaders:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(self, films: list[FilmFiles]) -> Iterator[StoredFilm | str]:
        """The stored film, or the reason why there is none, for every entry in order."""
        ahead: deque[tuple[FilmFiles, Future[StoredFilm | str]]] = deque()
        upcoming = iter(films)
        while True:
            while (
                len(ahead) < self._workers * IN_FLIGHT_PER_WORKER
                and (film := next(upcoming, None)) is not None
            ):
                ahead.append((film, self._submit(film)))
            if not ahead:
                return
            film, future = ahead.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:  # a decoder crashed: one of the films in flight; each is tried alone
                waiting = [film, *(other for other, _ in ahead)]
                ahead.clear()
                for other in waiting:
                    yield self._read_alone(other)

    def _submit(self, film: FilmFiles) -> Future[StoredFilm | str]:
        try:
            return self._pool.submit(_stored_film, film, self._preprocess)
        except BrokenProcessPool:  # a worker ended since the last film, killed for its memory for example
            self._pool = self._new_pool()
            return self._pool.submit(_stored_film, film, self._preprocess)

    def _read_alone(self, film: FilmFiles) -> StoredFilm | str:
        self._pool.shutdown(cancel_futures=True)
        self._pool = self._new_pool()
        try:
            return self._submit(film).result()
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


def _stored_film(files: FilmFiles, preprocess: Preprocess) -> StoredFilm | str:
    with _time_limit(MAX_SECONDS):
        return _read_film(files, preprocess)


def _read_film(files: FilmFiles, preprocess: Preprocess) -> StoredFilm | str:
    try:
        film = read_image(files.film)
        masks = stored_masks(
            files.pieces, files.root, film.pixels.shape, preprocess.store_size, files.mask_value
        )
    except DataError as error:
        return str(error)
    height, width = film.pixels.shape
    spacing = math.nan if film.spacing_mm is None else sum(film.spacing_mm) / 2
    pixels = preprocess.to_store(film.pixels).tobytes()
    return StoredFilm(pixels, masks, " ".join(film.issues), height, width, spacing)

"""Processes that turn files into stored images, in order; a decoder that crashes or hangs takes one image."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from evax.data.masks import Piece, check_aspect, stored_masks
from evax.data.pictures import read_image
from evax.data.preprocess import Preprocess
from evax.data.processes import Crashed, Processes
from evax.errors import DataError

T = TypeVar("T")
R = TypeVar("R")
MAX_SECONDS = 30.0  # processor time for one image; the largest detector's image takes about one


@dataclass(frozen=True)
class ImageFiles:
    """What a stored image is made of."""

    film: Path
    root: Path
    """Folder of the mask files."""
    pieces: Sequence[Piece] = ()
    mask_value: tuple[int, ...] = ()
    """What is inside in the mask files, as for read_mask."""
    drawn_on: tuple[float, float] | None = None
    """Width and height of the picture that its boxes were drawn on; None where there are none, or unknown."""


@dataclass(frozen=True)
class StoredImage:
    """An image as a shard keeps it."""

    pixels: bytes
    masks: dict[str, bytes] = field(default_factory=dict)
    """Finding -> bits."""
    issues: str = ""
    """Those of the Radiograph, with blanks between."""
    height: int = 0
    width: int = 0
    """Of the image as it was read, in pixels."""
    spacing_mm: float = math.nan
    """Of a pixel of that image, mean of both directions; NaN where unknown."""


class ImageReaders:
    """Processes that read images, a bounded number at a time; a context manager."""

    def __init__(self, workers: int) -> None:
        self._processes = Processes(workers)

    def __enter__(self) -> ImageReaders:
        return self

    def __exit__(self, *error: object) -> None:
        self._processes.__exit__(*error)

    def read(self, films: Iterable[ImageFiles], preprocess: Preprocess) -> Iterator[StoredImage | str]:
        """The stored image, or the reason why there is none, for every entry in order."""
        return self.each(partial(read_one_image, preprocess=preprocess), films)

    def each(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R | str]:
        """What the task gives for every item in order; for one that takes the decoder or its process down,
        the reason.
        """
        for call in self._processes.calls(_within_limit, ((task, item) for item in items)):
            try:
                yield call.result()
            except Crashed:
                yield f"The decoder crashed on this file, or needed more than {MAX_SECONDS:g} s for it."


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Ends the process when the block takes more processor time: a decoder in C cannot be stopped otherwise.

    Processor time, because on a busy machine a good image may wait long. Without SIGPROF (Windows) no limit.
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


def read_one_image(files: ImageFiles, preprocess: Preprocess) -> StoredImage | str:
    """The image as a shard keeps it, or why there is none."""
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
    return StoredImage(pixels, masks, " ".join(film.issues), height, width, spacing)

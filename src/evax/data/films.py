"""Films as they lie in files and folders, found in a fixed order, read in constant memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from evax.data.dicom import is_dicom, read_header
from evax.data.pictures import read_image
from evax.data.radiograph import FILM_SUFFIXES, Radiograph
from evax.errors import DataError
from evax.files import name_of
from evax.findings import names_nobody

F = TypeVar("F")


def find_films(places: tuple[Path, ...]) -> Iterator[Path]:
    """Files as named; of folders, in a fixed order, what has a film's suffix or is a DICOM by its content."""
    for place in places:
        if place.is_dir():
            for path in files_below(place):
                if not path.name.startswith(".") and looks_like_a_film(path):
                    yield path
        elif place.exists():
            yield place
        else:
            raise DataError(f"There is no file or folder {place}.")


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted by name_of; those of linked folders, too, but of no folder twice."""
    files: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort(key=name_of)
        if (real := os.path.realpath(place)) in seen:  # a link to a folder above would lead round for ever
            folders.clear()
            continue
        seen.add(real)
        files += (path for name in names if (path := Path(place, name)).is_file())
    return sorted(files, key=lambda file: name_of(file).split(os.sep))


def looks_like_a_film(path: Path) -> bool:
    """Archives name DICOM files by their UID, whose last number is no suffix: the content decides."""
    if path.suffix.lower() in FILM_SUFFIXES:
        return True
    try:
        return path.name != "DICOMDIR" and is_dicom(path)
    except DataError:
        return False


def films_and_others(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below a folder, relative to it and sorted: films, and whatever else lies there. Hidden files
    and those of __MACOSX are neither.
    """
    films: list[Path] = []
    others: list[Path] = []
    for path in files_below(folder):
        inside = path.relative_to(folder)
        if not any(part.startswith((".", "__MACOSX")) for part in inside.parts):
            (films if looks_like_a_film(path) else others).append(inside)
    return films, others


def header_patients(folder: Path, films: Sequence[Path]) -> dict[Path, str]:
    """The Patient ID in the header of each film, relative to the folder, that is a DICOM; "" where it names
    none or cannot be read. An ID is an identifier: it tells people apart and goes into no store and no log.
    """
    patients: dict[Path, str] = {}
    for film in films:
        try:
            if is_dicom(folder / film):
                patients[film] = ""
                patient = read_header(folder / film).patient_id
                patients[film] = "" if names_nobody(patient) else patient
        except DataError:  # it is refused with its reason when the store is built
            continue
    return patients


def count_films(places: tuple[Path, ...]) -> int:
    """How many there are. Raises DataError when there is none, or a named place does not exist."""
    total = sum(1 for _ in find_films(places))
    if not total:
        raise DataError(
            f"No film found in {', '.join(map(str, places))} "
            f"(looked for {', '.join(FILM_SUFFIXES)}, and for DICOM files of any name)."
        )
    return total


def batches_of(films: Iterable[F], size: int) -> Iterator[list[F]]:
    """Lists of at most `size` films."""
    films = iter(films)
    while batch := list(islice(films, size)):
        yield batch


def read_or_reason(path: Path, bits: int | None) -> Radiograph | str:
    """The film, or why it cannot be read. bits: as read_image."""
    try:
        return read_image(path, bits)
    except DataError as error:
        return str(error)

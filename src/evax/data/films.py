"""Images as they lie in files and folders, found in a fixed order, read in constant memory."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from evax.data.dicom import is_dicom, read_header
from evax.data.dicom.header import known_name, opened_dicom, read_dataset
from evax.data.pictures import read_image
from evax.data.radiograph import FILM_SUFFIXES, Radiograph, opened
from evax.errors import DataError
from evax.files import name_of
from evax.findings import names_nobody

F = TypeVar("F")
# of files that often lie beside images; any other ending may be a part of a name
OTHER_SUFFIXES = (
    ".bmp", ".gif", ".webp", ".jp2", ".heic", ".nii", ".npy", ".npz", ".mha", ".mhd", ".nrrd", ".pdf", ".txt",
    ".csv", ".tsv", ".json", ".xml", ".html", ".htm", ".md", ".doc", ".docx", ".xls", ".xlsx", ".ini", ".log",
    ".zip", ".gz", ".tar", ".7z", ".rar", ".exe", ".inf", ".db", ".py", ".yaml", ".yml",
)  # fmt: skip

logger = logging.getLogger("evax")


def find_images(places: tuple[Path, ...]) -> Iterator[Path]:
    """Files as named; of folders, in a fixed order, what has an image's suffix or is a DICOM by its content."""
    return (path for path, is_film in _files(places) if is_film)


def _files(places: tuple[Path, ...]) -> Iterator[tuple[Path, bool]]:
    """Files as named and those of folders that are not hidden, and whether they are taken for images."""
    for place in places:
        if place.is_dir():
            for path in files_below(place):
                if not path.name.startswith("."):
                    yield path, looks_like_an_image(path)
        elif place.exists():
            yield place, True
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


def looks_like_an_image(path: Path) -> bool:
    """Archives name DICOM files by their UID, whose last number is no suffix: the content decides."""
    if path.suffix.lower() in FILM_SUFFIXES:
        return True
    try:
        return path.name != "DICOMDIR" and is_dicom(path)
    except DataError:
        return False


def kind_of_other(path: Path) -> str:
    """What a file is that is no image, in words that tell nothing of a patient, as a name or a UID might."""
    if path.name == "DICOMDIR":
        return "DICOMDIR"
    try:
        with opened_dicom(path) as file:
            class_uid = read_dataset(file, path, specific_tags=["SOPClassUID"]).get("SOPClassUID")
            return known_name(class_uid) or "DICOM without pixels"
    except DataError:
        pass
    with contextlib.suppress(DataError), opened(path) as file:
        if file.read(5) == b"%PDF-":
            return "PDF"
    suffix = path.suffix.lower()
    return "no suffix" if not suffix else suffix if suffix in (*FILM_SUFFIXES, *OTHER_SUFFIXES) else "unknown"


def counts_of(kinds: Iterable[str]) -> str:
    """How many there are of each kind, as "2 PDF, 1 .txt"."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).most_common())


def images_and_others(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below a folder, relative to it and sorted: images, and whatever else lies there. Hidden files
    and those of __MACOSX are neither.
    """
    films: list[Path] = []
    others: list[Path] = []
    for path in files_below(folder):
        inside = path.relative_to(folder)
        if not any(part.startswith((".", "__MACOSX")) for part in inside.parts):
            (films if looks_like_an_image(path) else others).append(inside)
    return films, others


def header_patients(folder: Path, films: Sequence[Path]) -> dict[Path, str]:
    """The Patient ID in the header of each image, relative to the folder, that is a DICOM; "" where it names
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


def count_images(places: tuple[Path, ...]) -> int:
    """How many there are; a warning counts what else lies in folders.

    Raises DataError when there is none, or a named place does not exist.
    """
    total, kinds = 0, []
    for path, is_film in _files(places):
        if is_film:
            total += 1
        else:
            kinds.append(kind_of_other(path))
    where = ", ".join(map(str, places))
    if kinds:
        logger.warning(
            "%s: %d files are no images and are passed over: %s.", where, len(kinds), counts_of(kinds)
        )
    if not total:
        raise DataError(
            f"No image found in {where} (looked for {', '.join(FILM_SUFFIXES)}, and for DICOM files of any "
            "name)."
        )
    return total


def in_batches(films: Iterable[F], size: int) -> Iterator[list[F]]:
    """Lists of at most `size` images."""
    films = iter(films)
    while batch := list(islice(films, size)):
        yield batch


def as_radiograph(film: Radiograph | str | os.PathLike[str], bits: int | None) -> Radiograph:
    """The image as it is, or read from its path. bits: as read_image."""
    return film if isinstance(film, Radiograph) else read_image(film, bits)


def read_or_reason(path: Path, bits: int | None) -> Radiograph | str:
    """The image, or why it cannot be read. bits: as read_image."""
    try:
        return read_image(path, bits)
    except DataError as error:
        return str(error)

"""A release's tables against the disk: what is there, what is missing or no whole image, and what is extra."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pandas as pd

from evax.data.dicom.header import is_dicom, opened_dicom, read_dataset
from evax.data.manifest import Manifest
from evax.data.radiograph import FILM_SUFFIXES
from evax.data.sources import is_release, public_set
from evax.errors import DataError
from evax.files import name_of, path_of

NAMED = 5  # files of each kind that a message names
ENDING = 1024  # bytes at the end of a file in which its format's last mark is looked for
# format's first bytes: its last mark; a file that lacks it was cut off. TIFF has none
MARKS = {
    b"\x89PNG\r\n\x1a\n": b"IEND", b"\xff\xd8\xff": b"\xff\xd9", b"II*\0": b"", b"MM\0*": b"",
}  # fmt: skip
MASK_MARKS = MARKS | {b"BM": b""}  # annotation tools write BMP, too; images are not read from it
PIXELS = 0x7FE0  # group of a DICOM's pixels (PS3.5 section 8)
ITEM, UNDEFINED = 8, 0xFFFFFFFF  # bytes of a tag and its length; the length of encapsulated pixels

logger = logging.getLogger("evax")


def images_on_disk(manifest: Manifest) -> Manifest:
    """The images that are there; the others are left out and counted. DataError when there is none."""
    present = _present(manifest)
    absent = int((~present).sum())
    if absent == len(present):
        raise DataError(
            f"None of the {absent} images that {manifest.source} lists is in {manifest.root}: "
            f"there is no {_files(manifest).iloc[0]}, for example."
        )
    if not absent:
        return manifest
    logger.info(
        "%d of %d listed images are not in %s; they are left out.", absent, len(present), manifest.root
    )
    return manifest.select(present)


def check_disk(manifest: Manifest) -> list[str]:
    """Every difference between a release's tables, its published counts and the disk, as a sentence each.

    manifest: of everything the tables list. Nothing is decoded: a file counts as unreadable when it is empty,
    begins as no format of an image, lacks the last mark of its format or is shorter than its pixels. Images in
    the folders of the listed ones that no table names do no harm and are no fault (complete releases have
    some): a warning counts them.
    """
    faults = []
    if is_release(manifest.source):
        published, found = public_set(manifest.source), counted(manifest)
        faults += [
            f"{name}: the tables list {found[name]:,}, published are {number:,} ({published.counts_from})"
            for name, number in published.counts.items()
            if found[name] != number
        ]
    files, present = _files(manifest), _present(manifest)
    images = manifest.table[
        "image"
    ]  # an image whose file name may show the patient is named by its pseudonym
    masks = dict.fromkeys(file for file in manifest.masks["file"] if file)
    films = zip(images[present], files[present], strict=True)
    checked = [(name, file, MARKS) for name, file in films] + [(file, file, MASK_MARKS) for file in masks]
    unreadable = [
        f"{name} ({fault})"
        for name, file, marks in checked
        if (fault := _fault(manifest.root / path_of(file), marks))
    ]
    known = {*files, *masks, *manifest.left_out}
    walked = () if "file" in manifest.table else _found(manifest.root, files)
    if extra := sorted(file for file in walked if file not in known):
        logger.warning(
            "%s: %s that no table of %s names; they are not used.",
            manifest.root, _some(extra), manifest.source,
        )  # fmt: skip
    for kind, names in (("missing", list(images[~present])), ("unreadable", unreadable)):
        if names:
            faults.append(f"{kind}: {_some(names)}")
    return faults


def counted(manifest: Manifest) -> dict[str, int]:
    """Counts of a manifest before its patients are divided, named as in the records of public sets."""
    table = manifest.table
    named = table["split"].value_counts()
    positives = (manifest.labels() == 1).sum(axis=0).tolist()
    return {
        "films": len(table),
        "patients": table["patient"].nunique(),
        "images left out": len(manifest.left_out),
        "films listed": len(table) + len(manifest.left_out),
        "images without a split": int(named.get("", 0)),
        **{f"{split} films": int(named.get(split, 0)) for split in ("train", "val", "test")},
        "boxes": len(manifest.boxes),
        "images with boxes": manifest.boxes["image"].nunique(),
        "masks": len(manifest.masks),
        "images with masks": manifest.masks["image"].nunique(),
        **dict(zip(manifest.findings, positives, strict=True)),
    }


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{len(names):,} files: {', '.join(names[:NAMED])}{more}"


def _files(manifest: Manifest) -> pd.Series:
    return manifest.table["file" if "file" in manifest.table else "image"]


def _present(manifest: Manifest) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    root, files = f"{manifest.root}{os.sep}", _files(manifest)
    return np.fromiter((os.path.isfile(root + path_of(file)) for file in files), bool, len(files))


def _found(root: Path, files: pd.Series) -> Iterator[str]:
    """Images and masks on the disk, in the folders of RAW that hold the listed images."""
    for top in sorted(set(files.str.partition("/")[0])):
        for folder, _, names in os.walk(root / path_of(top)):
            place = Path(folder).relative_to(root).as_posix()
            yield from (
                name_of(f"{place}/{name}") for name in sorted(names) if name.lower().endswith(FILM_SUFFIXES)
            )


def _fault(path: Path, marks: dict[bytes, bytes]) -> str:
    """Why a file cannot be a whole image, or "".

    marks: first bytes of a format -> its last mark. Never names the patient.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - ENDING))
            ending = file.read()
        if not start:
            return "empty"
        for first, last in marks.items():
            if start.startswith(first):
                return "" if last in ending else "cut off"
        if not is_dicom(path):
            return "begins as no PNG, JPEG, TIFF or DICOM"
        with opened_dicom(path) as film:
            return _dicom_fault(film, path, size)
    except OSError as error:
        return str(error.strerror).lower()
    except DataError:
        return "damaged DICOM"


def _dicom_fault(file: BinaryIO, path: Path, size: int) -> str:
    """As _fault: the length that the pixels say against the size of the file; pixels are not read."""
    dataset = read_dataset(file, path, stop_before_pixels=True)
    if dataset.file_meta.get("TransferSyntaxUID") == "1.2.840.10008.1.2.1.99":
        return ""  # deflated: it was inflated whole, and a cut one is not readable
    implicit, little = dataset.original_encoding
    order: Literal["little", "big"] = "little" if little else "big"

    def number(count: int) -> int:
        return int.from_bytes(file.read(count), order)

    if file.tell() + 2 > size or number(2) != PIXELS:
        return "no pixels"
    file.seek(2, os.SEEK_CUR)  # element
    if not implicit:
        file.seek(4, os.SEEK_CUR)  # OB or OW, and two reserved bytes
    if (length := number(4)) != UNDEFINED:
        return "" if file.tell() + length <= size else "cut off"
    while file.tell() + ITEM <= size:  # encapsulated: items, then a delimiter (PS3.5 annex A.4)
        tag = file.read(4)
        length = number(4)
        if tag == b"\xfe\xff\xdd\xe0":
            return ""
        file.seek(length, os.SEEK_CUR)
    return "cut off"

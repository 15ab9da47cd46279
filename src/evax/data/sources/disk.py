"""A release's tables against the disk: what is there, and what is missing, extra or cut off."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import Manifest
from evax.data.radiograph import FILM_SUFFIXES
from evax.data.sources.counts import PUBLISHED, counted
from evax.errors import DataError

NAMED = 5  # files of each kind that a message names
ENDING = 1024  # bytes at the end of a file in which its format's last mark is looked for
# format's first bytes: its last mark; a file that lacks it was cut off
MARKS = {b"\x89PNG\r\n\x1a\n": b"IEND", b"\xff\xd8\xff": b"\xff\xd9"}

logger = logging.getLogger("evax")


def films_on_disk(manifest: Manifest) -> Manifest:
    """The films that are there; the others are left out and counted. DataError when there is none."""
    present = _present(manifest)
    absent = int((~present).sum())
    if absent == len(present):
        raise DataError(
            f"None of the {absent} films that {manifest.source} lists is in {manifest.root}: "
            f"there is no {_files(manifest).iloc[0]}, for example."
        )
    if not absent:
        return manifest
    logger.info(
        "%d of %d listed films are not in %s; they are left out.", absent, len(present), manifest.root
    )
    return manifest.select(present)


def check_disk(manifest: Manifest) -> list[str]:
    """Every difference between a release's tables, its published counts and the disk, as a sentence each.

    manifest: of everything the tables list. Nothing is decoded: a file counts as unreadable when it is empty,
    or lacks the last mark of its format. Extra are films in the folders of the listed ones that no table
    names.
    """
    faults = []
    if published := PUBLISHED.get(manifest.source):
        found = counted(manifest)
        faults += [
            f"{name}: the tables list {found[name]:,}, published are {number:,} ({published.source})"
            for name, number in published.counts.items()
            if found[name] != number
        ]
    files, present = _files(manifest), _present(manifest)
    images = manifest.table["image"]  # a film whose file name may show the patient is named by its pseudonym
    checked = dict(zip(images[present], files[present], strict=True))
    checked |= {file: file for file in manifest.masks["file"] if file}
    unreadable = [
        f"{name} ({fault})" for name, file in checked.items() if (fault := _fault(manifest.root / file))
    ]
    known = {*files, *manifest.masks["file"], *manifest.left_out}
    walked = () if "file" in manifest.table else _found(manifest.root, files)
    extra = [file for file in walked if file not in known]
    for kind, names in (("missing", list(images[~present])), ("extra", extra), ("unreadable", unreadable)):
        if names:
            more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
            faults.append(f"{kind}: {len(names):,} files: {', '.join(names[:NAMED])}{more}")
    return faults


def _files(manifest: Manifest) -> pd.Series:
    return manifest.table["file" if "file" in manifest.table else "image"]


def _present(manifest: Manifest) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    root, files = f"{manifest.root}{os.sep}", _files(manifest)
    return np.fromiter((os.path.isfile(root + file) for file in files), bool, len(files))


def _found(root: Path, files: pd.Series) -> Iterator[str]:
    """Films and masks on the disk, in the folders of RAW that hold the listed films."""
    for top in sorted(set(files.str.partition("/")[0])):
        for folder, _, names in os.walk(root / top):
            place = Path(folder).relative_to(root).as_posix()
            yield from (f"{place}/{name}" for name in sorted(names) if name.lower().endswith(FILM_SUFFIXES))


def _fault(path: Path) -> str:
    """Why a file cannot be a whole film, or ""."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - ENDING))
            ending = file.read()
    except OSError as error:
        return str(error.strerror).lower()
    if not start:
        return "empty"
    mark = next((mark for first, mark in MARKS.items() if start.startswith(first)), b"")
    return "" if mark in ending else "cut off"

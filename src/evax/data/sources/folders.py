"""One folder of images per class; a folder without class folders holds unlabelled images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import FILM_SUFFIXES, Manifest
from evax.errors import ConfigError, DataError
from evax.findings import canonical


def read_folders(raw: Path, *, patient_pattern: str = "") -> Manifest:
    """Films of RAW/CLASS/*, single-label; or of RAW/* without labels.

    patient_pattern: regular expression whose first group, found at the start of a file name, is the patient;
    without
    it every film is a patient of its own.
    """
    films = sorted(path.relative_to(raw) for path in raw.rglob("*") if path.suffix.lower() in FILM_SUFFIXES)
    if not films:
        raise DataError(f"There are no images in {raw} (looked for {', '.join(FILM_SUFFIXES)}).")
    loose = [film for film in films if len(film.parts) == 1]
    if loose and len(loose) < len(films):
        raise DataError(
            f"{raw} holds both images ({loose[0]}) and folders of images: "
            "move the loose images into a class folder."
        )
    classes = () if loose else tuple(sorted({canonical(film.parts[0]) for film in films}))
    table = pd.DataFrame({"image": [film.as_posix() for film in films]})
    table["patient"] = [patient_of(film, patient_pattern) for film in films]
    for name in ("study", "view", "sex", "split"):
        table[name] = ""
    table["age"] = np.nan
    for name in classes:
        table[name] = np.array([canonical(film.parts[0]) == name for film in films], dtype=np.float32)
    return Manifest(
        table=table, findings=classes, exclusive=bool(classes), source=f"folders:{raw.name}", root=raw
    )


def patient_of(film: Path, pattern: str) -> str:
    """The first group of the pattern at the start of the file name; without a pattern, the film itself."""
    if not pattern:
        return film.with_suffix("").as_posix()
    try:
        match = re.match(pattern, film.name)
    except re.error as error:
        raise ConfigError(f"patient_pattern {pattern!r} is not a regular expression: {error}.") from error
    if match is None or not match.groups() or not match[1]:
        raise DataError(
            f"patient_pattern {pattern!r} finds no patient at the start of {film.name}; it needs one group."
        )
    return match[1]

"""One folder of images per class, maybe below folders named train, val and test; or images alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.films import counts_of, header_patients, images_and_others, kind_of_other
from evax.data.manifest import SPLIT_KEY, Manifest
from evax.data.radiograph import FILM_SUFFIXES
from evax.data.sources import source_name
from evax.data.sources.tables import ALONE, warn_if_patients_doubtful
from evax.data.split import SPLIT_WORDS, without_suffix
from evax.errors import ConfigError, DataError
from evax.files import name_of, path_of
from evax.findings import is_blank, one_spelling

logger = logging.getLogger("evax")


def read_folders(raw: Path, *, patient_pattern: str = "") -> Manifest:
    """Images of RAW/CLASS/*, single-label; of RAW/train/CLASS/* and RAW/test/CLASS/*, which are then the
    splits; or of RAW/* without labels. Hidden files and those of __MACOSX are passed over, and with a warning
    what else is no image.

    patient_pattern: regular expression whose first group, found at the start of a file name, is the patient;
    without it DICOM images of one Patient ID are one patient, and every other image is one of its own.
    """
    films, others = images_and_others(raw)
    if not films:
        raise DataError(
            f"There are no images in {raw} (looked for {', '.join(FILM_SUFFIXES)}, and for DICOM files of "
            "any name)."
        )
    loose = [film for film in films if len(film.parts) == 1]
    if loose and len(loose) < len(films):
        raise DataError(
            f"{raw} holds both images ({loose[0]}) and folders of images: "
            "move the loose images into a class folder."
        )
    splits = [SPLIT_WORDS.get(film.parts[0].lower(), "") for film in films]
    has_splits = all(splits) and all(len(film.parts) > 2 for film in films)
    if any(splits) and not has_splits and not loose:
        named = next(film.parts[0] for film, split in zip(films, splits, strict=True) if split)
        raise DataError(
            f"{raw} holds a folder {named} beside class folders, or without class folders in it: give --raw "
            "one folder per class, or folders train, val and test with one folder per class in each."
        )
    if not loose:
        check_no_empty_class(raw, films, others, 1 + has_splits)
    warn_if_other_files(raw, others)
    words = [] if loose else [name_of(film.parts[has_splits]) for film in films]
    if blank := next(filter(is_blank, words), None):
        raise DataError(
            f"{raw} has a folder {blank}, as programs call a class that is blank: give it the name of its "
            "class, or move it away."
        )
    class_of = one_spelling(raw, words)
    names = [class_of[word] for word in words]
    classes = tuple(sorted(set(names)))
    table = pd.DataFrame({"image": [name_of(film.as_posix()) for film in films]})
    table["patient"], table[SPLIT_KEY] = patients_of(raw, table["image"].tolist(), patient_pattern)
    for name in ("study", "view", "sex"):
        table[name] = ""
    table["split"] = splits if has_splits else ""
    table["age"] = np.nan
    for name in classes:
        table[name] = np.array([given == name for given in names], dtype=np.float32)
    return Manifest(
        table=table, findings=classes, exclusive=bool(classes), source=source_name("folders", raw), root=raw
    )


def check_no_empty_class(raw: Path, films: Sequence[Path], others: Sequence[Path], depth: int) -> None:
    """DataError for a class folder, `depth` below raw, whose files are no images: a class would be missing."""
    full = {film.parts[:depth] for film in films}
    if empty := sorted({other.parts[:depth] for other in others if len(other.parts) > depth} - full):
        raise DataError(
            f"{raw.joinpath(*empty[0])} holds files, but no image (looked for {', '.join(FILM_SUFFIXES)}, and "
            "for DICOM files of any name): convert its images, or move the folder away."
        )


def warn_if_other_files(raw: Path, others: Sequence[Path], wanted: str = "images") -> None:
    """Says how many files of which kind are passed over. wanted: what they are not."""
    if not others:
        return
    kinds = counts_of(kind_of_other(raw / other) for other in others)
    logger.warning("%s: %d files are no %s and are passed over: %s.", raw, len(others), wanted, kinds)


def patients_of(raw: Path, images: Sequence[str], pattern: str) -> tuple[list[str], list[str]]:
    """Who each image, by its name in raw, is of: patient and split_key of a Manifest's table.

    See patient_of; without a pattern, images whose headers have one Patient ID are of one patient, called
    after the first of them, because an ID must not get into a store. The ID is the key of the split.
    """
    films = [Path(path_of(image)) for image in images]
    in_headers = header_patients(raw, films)
    if in_headers:
        logger.warning(
            "%s: a store keeps the names of files as they are: rename DICOM files that are called after "
            "people or numbers of patients, or prepare them with --source dicom, which gives pseudonyms.",
            raw,
        )
    patients = [patient_of(image, pattern) for image in images]
    if pattern:
        warn_if_patients_doubtful(raw, pd.Series(patients), ALONE)
        return patients, patients
    ids = [in_headers.get(film, "") for film in films]
    if not any(ids):
        logger.warning(
            "%s names no patients: every image counts as a patient of its own, and images of one person may be "
            "divided between training and test. --patient-pattern finds them in the file names.",
            raw,
        )
        return patients, patients
    logger.info(
        "%s: the headers of %d of %d images name a patient, %d patients in all; each is called after the "
        "first film.", raw, sum(map(bool, ids)), len(films), len(set(ids) - {""}),
    )  # fmt: skip
    warn_if_patients_doubtful(raw, pd.Series(ids), ALONE)
    first_of: dict[str, str] = {}
    named = list(zip(ids, patients, strict=True))
    called = [
        first_of.setdefault(identifier, patient) if identifier else patient for identifier, patient in named
    ]
    return called, [identifier or patient for identifier, patient in named]


def patient_of(image: str, pattern: str) -> str:
    """The first group of the pattern at the start of the file name; without a pattern, the image itself."""
    if not pattern:
        return without_suffix(image)
    name = image.rpartition("/")[2]
    try:
        match = re.match(pattern, name)
    except re.error as error:
        raise ConfigError(f"patient_pattern {pattern!r} is not a regular expression: {error}.") from error
    if match is None or not match.groups() or not match[1]:
        raise DataError(
            f"patient_pattern {pattern!r} finds no patient at the start of {name}; it needs one group."
        )
    return match[1]

"""People, not films, are split: a pure function of patient and seed, so adding data moves nobody."""

from __future__ import annotations

import gzip
import hashlib
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import Manifest
from evax.data.radiograph import FILM_SUFFIXES
from evax.errors import ConfigError, DataError

logger = logging.getLogger("evax")


def split_position(patient: str, seed: int) -> float:
    """A stable number in [0, 1) for this patient."""
    digest = hashlib.blake2b(f"{seed}:{patient}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def assign_splits(manifest: Manifest, validation: float, test: float, seed: int) -> Manifest:
    """The manifest with every film in "train", "val" or "test", all films of a patient together.

    validation, test: shares of the patients, together below or equal 1. What a release names is kept: where
    it names test films, no others are tested; where it names validation films, no others are validated on,
    and its train films stay, else they are divided too. A patient whose films have several names goes to the
    strictest of them, test before val before train; so nobody is in two splits.
    """
    if validation < 0 or test < 0 or validation + test > 1:
        raise ConfigError(f"validation and test are shares with a sum up to 1, got {validation} and {test}.")
    table = manifest.table.copy()
    named = {split: set(table.loc[table["split"] == split, "patient"]) for split in ("test", "val", "train")}
    test_share = 0.0 if named["test"] else test
    validation_share = 0.0 if named["val"] else validation
    if not named["val"]:
        del named["train"]

    def place(patient: str) -> str:
        for split, patients in named.items():
            if patient in patients:
                return split
        position = split_position(patient, seed)
        if position < test_share:
            return "test"
        return "val" if position < test_share + validation_share else "train"

    table["split"] = table["patient"].map({patient: place(patient) for patient in set(table["patient"])})
    before, after = manifest.table["split"], table["split"]
    placed = zip(table["patient"], after, strict=True)
    strictest = np.array([patient in named.get(split, ()) for patient, split in placed], dtype=bool)
    if moved := int(((before != "") & (before != after) & strictest).sum()):
        logger.warning(
            "%s names several splits for one patient: %d films were moved so that nobody is in two.",
            manifest.source, moved,
        )  # fmt: skip
    return replace(manifest, table=table)


def follow_lists(manifest: Manifest, folder: Path) -> Manifest:
    """The films that the lists of a published experiment name, each in the split of its list.

    folder: text files with "train", "val" or "test" in their names, maybe gzipped; the first word of a line
    is a film's path or, where it is the only one of that name, its file name, with or without the suffix (a
    line of the released ChestX-ray14 lists, or an id).
    Raises DataError for a folder without lists, a film in two lists, and lists that name no film at all.
    """
    split_of: dict[str, str] = {}
    for split in ("train", "val", "test"):
        for path in sorted(folder.glob(f"*{split}*.txt*")):
            for name in listed_names(path):
                if split_of.setdefault(name, split) != split:
                    raise DataError(
                        f"{name} is in a {split_of[name]} list and in a {split} list of {folder}."
                    )
    if not split_of:
        raise DataError(f"{folder} holds no lists of films: train*.txt, val*.txt or test*.txt.")
    images = manifest.table["image"]
    split_at = {row: split_of[name] for name, row in film_rows(images).items() if name in split_of}
    if not split_at:
        raise DataError(f"None of the {len(images)} films of {manifest.source} is in the lists of {folder}.")
    logger.info("%s: %d of %d listed films found.", folder, len(split_at), len(split_of))
    rows = sorted(split_at)
    listed = np.zeros(len(images), bool)
    listed[rows] = True
    chosen = manifest.select(listed)
    return replace(chosen, table=chosen.table.assign(split=[split_at[row] for row in rows]))


def film_rows(images: pd.Series) -> dict[str, int]:
    """What a list may call a film -> its row: its path, or its file name where no other film has that name.

    images: paths; names are without the suffix of a film. A path goes before a file name.
    """
    paths = [without_suffix(image) for image in images.tolist()]
    names = [path.rpartition("/")[2] for path in paths]
    films_of = Counter(names)  # CheXpert's films are all called view1_frontal.jpg
    rows = {name: row for row, name in enumerate(names) if films_of[name] == 1}
    return rows | {path: row for row, path in enumerate(paths)}


def listed_names(path: Path) -> list[str]:
    """The first word of every line of a list, maybe gzipped, without the suffix of a film."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt") as file:
            return [without_suffix(line.split()[0]) for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {path} cannot be read: {error}.") from error


def without_suffix(name: str) -> str:
    """A file name without the suffix of a film; other dots stay, because ids hold some."""
    stem, _, suffix = name.rpartition(".")
    return stem if f".{suffix.lower()}" in FILM_SUFFIXES else name

"""Patients, not images, are split: a pure function of patient, seed and shares, so new images move nobody.

Unless they are the first that name a test or val split: the share of that split is then 0.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import posixpath
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import SPLIT_KEY, Manifest
from evax.data.radiograph import FILM_SUFFIXES
from evax.errors import ConfigError, DataError
from evax.files import encoding_of

SPLIT_WORDS = {  # what folders and tables call a split, in lower case -> its name here
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
TRAIN_VAL = "train_val"  # a list of both, as ChestX-ray14's
LIST_SUFFIX = r"\.txt(\.gz)?$"  # of a name in lower case
LABEL_WORDS = ("0", "1", "-1", "0.0", "1.0", "-1.0")

logger = logging.getLogger("evax")


def split_position(patient: str, seed: int) -> float:
    """A stable number in [0, 1) for this patient."""
    digest = hashlib.blake2b(f"{seed}:{patient}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def assign_splits(manifest: Manifest, validation: float, test: float, seed: int) -> Manifest:
    """The manifest with every image in "train", "val" or "test", all images of a patient together.

    Of patients whom nothing names, the split is a pure function of who they are (the column split_key, else
    patient) and seed: it does not depend on pseudonyms, on other images, or on the size of the store.
    validation, test: shares of the patients, together below or equal 1. What a release names is kept: where
    it names test images, no others are tested; where it names validation images, no others are validated on,
    and its train images stay, else they are divided too. A patient whose images have several names goes to the
    strictest of them, test before val before train; so nobody is in two splits.
    """
    if validation < 0 or test < 0 or validation + test > 1:
        raise ConfigError(f"validation and test are shares with a sum up to 1, got {validation} and {test}.")
    table = manifest.table.copy()
    keys = table.get(SPLIT_KEY, table["patient"])
    named = {split: set(table.loc[table["split"] == split, "patient"]) for split in ("test", "val", "train")}
    test_share = 0.0 if named["test"] else test
    validation_share = 0.0 if named["val"] else validation
    if not named["val"]:
        del named["train"]

    def place(patient: str, key: str) -> str:
        for split, patients in named.items():
            if patient in patients:
                return split
        position = split_position(key, seed)
        if position < test_share:
            return "test"
        return "val" if position < test_share + validation_share else "train"

    places = {patient: place(patient, key) for patient, key in zip(table["patient"], keys, strict=True)}
    table["split"] = table["patient"].map(places)
    before, after = manifest.table["split"], table["split"]
    placed = zip(table["patient"], after, strict=True)
    strictest = np.array([patient in named.get(split, ()) for patient, split in placed], dtype=bool)
    if moved := int(((before != "") & (before != after) & strictest).sum()):
        logger.warning(
            "%s names several splits for one patient: %d images were moved so that nobody is in two.",
            manifest.root, moved,
        )  # fmt: skip
    return replace(manifest, table=table)


def follow_lists(manifest: Manifest, folder: Path) -> Manifest:
    """The images that the lists of a published experiment name, each in the split of its list.

    folder: text files with "train", "val" or "test" in their names, maybe gzipped, with an image in each line
    (see names_in): its path or, where it is the only one of that name, its file name. Images of a "train_val"
    list that no train or val list names are train images, of which the validation images are drawn.
    Raises DataError for a folder without lists, an image in two lists, and lists that name no image at all.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. --lists names the folder of an experiment's lists.")
    lists = {path: split for path in sorted(folder.iterdir()) if (split := _split_of_list(path))}
    if not lists:
        raise DataError(f"{folder} holds no lists of images: train*.txt, val*.txt or test*.txt.")
    images = manifest.table["image"]
    rows_of, split_at, listed_lines = image_rows(images), dict[int, str](), set[str]()
    for path in sorted(lists, key=lambda path: lists[path] == TRAIN_VAL):  # last: the others say more
        split = lists[path]
        for line in lines_of(path):
            listed_lines.add(line)
            name = next((name for name in names_in(line) if name in rows_of), None)
            if name is None:
                continue
            before = split_at.setdefault(rows_of[name], "train" if split == TRAIN_VAL else split)
            if before != split and (split != TRAIN_VAL or before == "test"):
                raise DataError(f"{name} is in a {before} list and in a {split} list of {folder}.")
    if not split_at:
        raise DataError(f"None of the {len(images)} images of {manifest.root} is in the lists of {folder}.")
    logger.log(
        logging.INFO if len(split_at) == len(listed_lines) else logging.WARNING,
        "%s: %d of %d listed images found.", folder, len(split_at), len(listed_lines),
    )  # fmt: skip
    rows = sorted(split_at)
    listed = np.zeros(len(images), bool)
    listed[rows] = True
    chosen = manifest.select(listed)
    return replace(chosen, table=chosen.table.assign(split=[split_at[row] for row in rows]))


def image_rows(images: pd.Series) -> dict[str, int]:
    """What a list may call an image -> its row: its path, or its file name where no other image has that name;
    and the same by file_key.

    images: paths; names are without the suffix of an image. A path goes before a file name.
    """
    paths = [without_suffix(image) for image in images.tolist()]
    names = [path.rpartition("/")[2] for path in paths]
    rows: dict[str, int] = {}
    for spellings in ([*map(file_key, names)], [*map(file_key, paths)], names):  # the last one goes first
        films_of = Counter(spellings)  # CheXpert's images are all called view1_frontal.jpg
        rows |= {spelling: row for row, spelling in enumerate(spellings) if films_of[spelling] == 1}
    return rows | {path: row for row, path in enumerate(paths)}


def file_key(name: str) -> str:
    """Equal for names of files that differ only in case, Unicode form (as macOS writes them), slashes (as
    Windows does), "./" and doubled slashes.
    """
    path = posixpath.normpath(name.replace("\\", "/"))
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _split_of_list(path: Path) -> str:
    """The split that the name of a list says, or "" for a file that is no list."""
    name = path.name.lower()
    if not path.is_file() or not re.search(LIST_SUFFIX, name):
        return ""
    both = re.sub(r"train[-_ ]?val", "", name)
    found = [TRAIN_VAL] * (both != name) + [split for split in ("train", "val", "test") if split in both]
    if len(found) > 1:
        raise DataError(f"The name of the list {path} says two splits: name it after one of them.")
    return found[0] if found else ""


def lines_of(path: Path) -> list[str]:
    """The lines of a list that are not blank; see all_lines."""
    return [line for line in all_lines(path) if line]


def all_lines(path: Path) -> list[str]:
    """The lines of a text, maybe gzipped, without blanks at their ends; its encoding is that of encoding_of.
    DataError where it is another.
    """
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rt", encoding=encoding_of(path)) as file:
            return [line.strip() for line in file]
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DataError(f"The list {path} cannot be read: {error}.") from error


def names_in(line: str) -> Iterator[str]:
    """What may be the image's name in a line of a list: see _written_names; and the same by file_key."""
    names = list(_written_names(line))
    yield from dict.fromkeys((*names, *map(file_key, names)))


def _written_names(line: str) -> Iterator[str]:
    """What may be the image's name in a line of a list, without the suffix of an image, the likeliest first.

    The whole line; then, where words end as images do, what ends there, because names may hold blanks and
    COVIDx's lines have the patient first ("3 a b.png normal rsna": "3 a b", "a b", "b"); else each word that
    is no label.
    """
    yield without_suffix(line)
    words = line.split()
    ends = [end for end, word in enumerate(words) if without_suffix(word) != word]
    for end in ends:
        yield from (without_suffix(" ".join(words[start : end + 1])) for start in range(end + 1))
    if not ends:
        yield from (word for word in words if word not in LABEL_WORDS)


def without_suffix(name: str) -> str:
    """A file name without the suffix of an image; other dots stay, because ids hold some."""
    stem, _, suffix = name.rpartition(".")
    return stem if f".{suffix.lower()}" in FILM_SUFFIXES else name

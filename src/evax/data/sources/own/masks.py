"""Images and their masks side by side: RAW/images and RAW/masks."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.films import images_and_others
from evax.data.manifest import MASK_COLUMNS, SPLIT_KEY, Manifest
from evax.data.radiograph import FILM_SUFFIXES
from evax.data.sources import source_name
from evax.data.sources.own.folders import patients_of, warn_if_other_files
from evax.data.split import file_key, without_suffix
from evax.errors import DataError
from evax.files import name_of
from evax.findings import one_spelling

MASK_SUFFIXES = (*FILM_SUFFIXES, ".bmp")

logger = logging.getLogger("evax")


def find_masks(
    raw: Path, folder: str, images: Iterable[str], unnamed: str, findings: tuple[str, ...] = ()
) -> pd.DataFrame:
    """The masks of RAW/folder, as MASK_COLUMNS; those of other images are left out and counted.

    A file is named as its image, maybe followed by _FINDING, or lies in FOLDER/FINDING/. unnamed: the finding
    of a file that names none (or "mask"). findings: of the table, for the spelling. Files of a kind that is
    not read are counted in a warning.
    Raises DataError when the folder holds only files of such a kind, no mask belongs to an image, or one
    belongs to two images of one name.
    """
    film_of: dict[str, str] = {}
    twins: dict[str, str] = {}
    for image in images:
        stem = without_suffix(Path(image).name)
        if film_of.setdefault(stem, image) != image:
            twins[film_of[stem]] = image
    films_of = Counter(map(file_key, film_of))
    film_of |= {file_key(stem): film for stem, film in film_of.items() if films_of[file_key(stem)] == 1}
    films, no_films = images_and_others(raw / folder)
    files = films + no_films
    masks = [raw / folder / file for file in files if file.suffix.lower() in MASK_SUFFIXES]
    others = [file for file in files if file.suffix.lower() not in MASK_SUFFIXES]
    if others and not masks:
        raise DataError(
            f"{raw / folder} holds files, but no mask (PNG, JPEG, TIFF and BMP are read): save the masks as "
            "PNG, or move the folder away."
        )
    warn_if_other_files(raw / folder, others, wanted="masks")
    rows, strays = [], []
    for path in sorted(masks, key=name_of):
        film, finding = _image_and_finding(name_of(path.stem), film_of)
        if film in twins:
            raise DataError(f"{film} and {twins[film]} have one name: of which of them is the mask {path}?")
        if not film:
            strays.append(path)
            continue
        within = name_of(path.relative_to(raw / folder)).split(os.sep)
        if finding.lower() in ("", "mask"):
            finding = within[0] if len(within) > 1 else unnamed
        rows.append((film, finding.strip(), name_of(path.relative_to(raw).as_posix()), ""))
    if strays and not rows:
        raise DataError(
            f"The mask {strays[0]} belongs to no image, and no other does: a mask is named as its image, maybe "
            "followed by _FINDING."
        )
    if strays:
        logger.info("%d masks belong to no listed image, %s for example.", len(strays), strays[0])
    table = pd.DataFrame(rows, columns=list(MASK_COLUMNS), dtype=str)
    table["finding"] = table["finding"].map(one_spelling(raw / folder, table["finding"], findings))
    return table


def _image_and_finding(name: str, film_of: dict[str, str]) -> tuple[str, str]:
    """The image with the longest name that a mask's name begins with, and the rest; "" without one."""
    stem, finding = name, ""
    while not (film := film_of.get(stem) or film_of.get(file_key(stem))):
        stem, separator, last = stem.rpartition("_")
        if not separator:
            return "", ""
        finding = f"{last}_{finding}" if finding else last
    return film, finding


def read_masks(
    raw: Path, *, region: str = "Region", patient_pattern: str = "", mask_value: tuple[int, ...] = ()
) -> Manifest:
    """Unlabelled images of RAW/images with the masks of RAW/masks.

    A mask is named as its image, maybe followed by _FINDING, or lies in masks/FINDING/. region: what a mask
    shows that names no finding. patient_pattern: as for folders. mask_value: as for data/masks.py::read_mask.
    """
    masks = sorted(path.name for path in raw.iterdir() if path.is_dir() and path.name.lower() == "masks")
    if not masks:
        raise DataError(f"There is no folder {raw / 'masks'}: it holds the masks of the images in images/.")
    table = films_of(raw, "images")
    images = table["image"].tolist()
    table["patient"], table[SPLIT_KEY] = patients_of(raw, images, patient_pattern)
    return Manifest(
        table=table,
        findings=(),
        exclusive=False,
        source=source_name("masks", raw),
        root=raw,
        masks=find_masks(raw, masks[-1], table["image"], region),
        mask_value=mask_value,
    )


def films_of(raw: Path, folder: str) -> pd.DataFrame:
    """A table of the images of a folder, without facts about them; each is a patient of its own."""
    films = [Path(folder) / film for film in images_and_others(raw / folder)[0]]
    if not films:
        raise DataError(f"There are no images in {raw / folder}.")
    table = pd.DataFrame({"image": [name_of(film.as_posix()) for film in films]})
    table["patient"] = table["image"].map(without_suffix)
    return table.assign(study="", view="", sex="", age=np.nan, split="")

"""Films and their masks side by side: RAW/images and RAW/masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.films import films_and_others
from evax.data.manifest import SPLIT_KEY, Manifest
from evax.data.public_sets import source_name
from evax.data.sources.folders import patients_of
from evax.data.sources.mask_files import find_masks
from evax.data.split import without_suffix
from evax.errors import DataError
from evax.files import name_of


def read_masks(
    raw: Path, *, region: str = "Region", patient_pattern: str = "", mask_value: tuple[int, ...] = ()
) -> Manifest:
    """Unlabelled films of RAW/images with the masks of RAW/masks.

    A mask is named as its film, maybe followed by _FINDING, or lies in masks/FINDING/. region: what a mask
    shows that names no finding. patient_pattern: as for folders. mask_value: as for data/masks.py::read_mask.
    """
    masks = sorted(path.name for path in raw.iterdir() if path.is_dir() and path.name.lower() == "masks")
    if not masks:
        raise DataError(f"There is no folder {raw / 'masks'}: it holds the masks of the films in images/.")
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
    """A table of the films of a folder, without facts about them; each is a patient of its own."""
    films = [Path(folder) / film for film in films_and_others(raw / folder)[0]]
    if not films:
        raise DataError(f"There are no films in {raw / folder}.")
    table = pd.DataFrame({"image": [name_of(film.as_posix()) for film in films]})
    table["patient"] = table["image"].map(without_suffix)
    return table.assign(study="", view="", sex="", age=np.nan, split="")

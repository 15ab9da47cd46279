"""Lung segmentation in the layout of Zhang's release: Train/ and Test/, each with Images/ and Masks/."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evax.data.manifest import Manifest
from evax.data.sources.own.masks import films_of, find_masks
from evax.data.sources.record import PublicSet

PUBLIC_SET = PublicSet(
    what="images with lung masks, as Zhang released them",
    terms="see the page",
    page="https://doi.org/10.5281/zenodo.7191406",
    layout="Train/Images/*.png  Train/Masks/*.png  Test/Images/*.png  Test/Masks/*.png",
    ask="download the record's archive from that page; no account is needed",
)


def read_lungs(raw: Path, *, mask_value: tuple[int, ...] = ()) -> Manifest:
    """Every image with its lung mask; Test/ is the test split. An image is a patient of its own.

    mask_value: as for data/masks.py::read_mask.
    """
    parts, masks = [], []
    for folder, split in (("Train", ""), ("Test", "test")):
        films = films_of(raw, f"{folder}/Images").assign(split=split)
        parts.append(films)
        masks.append(find_masks(raw, f"{folder}/Masks", films["image"], "Lung"))
    return Manifest(
        table=pd.concat(parts, ignore_index=True),
        findings=(),
        exclusive=False,
        source="lungs",
        root=raw,
        masks=pd.concat(masks, ignore_index=True),
        mask_value=mask_value,
    )

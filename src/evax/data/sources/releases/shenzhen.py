"""Shenzhen tuberculosis images with the abnormality masks of the U.S. National Library of Medicine."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import MASK_COLUMNS, Manifest, no_masks
from evax.data.sources.own.masks import films_of
from evax.data.sources.record import PublicSet, archive
from evax.data.sources.tables import ages
from evax.errors import DataError
from evax.files import name_of
from evax.findings import canonical

PUBLIC_SET = PublicSet(
    what="662 images, half of them with tuberculosis (Shenzhen, NLM)",
    terms="public for research; cite Jaeger et al. 2014",
    page="https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html#tuberculosis-image-data-sets",
    archives=(
        archive("ChinaSet_AllFiles.zip", "https://openi.nlm.nih.gov/imgs/collections/ChinaSet_AllFiles.zip"),
    ),
    top="ChinaSet_AllFiles",
    layout="CXR_png/*.png  ClinicalReadings/*.txt  Annotations/masks/*.png",
    ask="the masks (Annotations/masks/) are a download of their own on that page",
    counts={"films": 662, "Tuberculosis": 336},
    counts_from="Jaeger et al. 2014, the Shenzhen set",
)

TUBERCULOSIS = "Tuberculosis"
FILM = re.compile(r"(CHNCXR_\d+)_([01])")
MASK = re.compile(r"(CHNCXR_\d+_[01])_(.+?)(?:_\d+)?")  # image, abnormality, number of the region

logger = logging.getLogger("evax")


def read_shenzhen(raw: Path, *, mask_value: tuple[int, ...] = ()) -> Manifest:
    """Images of CXR_png/, labelled by the last digit of their names, with the masks of Annotations/masks/.

    Every mask is kept twice: under its abnormality ("Effusion", "Small Infiltrate (non-linear)") and united
    with the image's others as "Tuberculosis", the paper's target. Sex and age come from ClinicalReadings/,
    when it is there. The release names no split: patients are divided by seed.
    mask_value: as for data/masks.py::read_mask.
    """
    table = films_of(raw, "CXR_png")
    names = [FILM.fullmatch(Path(image).stem) for image in table["image"]]
    if None in names:
        odd = table["image"].iloc[names.index(None)]
        raise DataError(f"{raw / odd} is not named as the release does: CHNCXR_0001_0.png.")
    table["patient"] = [name[1] for name in names if name]
    readings = pd.Series([_reading(raw, Path(image).stem) for image in table["image"]]).str.lower()
    sex = readings.str.extract(r"\b(male|female)\b")[0]
    table["sex"] = sex.map({"male": "M", "female": "F"}).fillna("")
    found = readings.str.extract(r"(?<![-.\d])(?<!\d,)(\d+(?:\.\d+)?\s*(?:y|$))")  # as in male 39yrs
    table["age"] = ages(found[0].fillna(""))
    table[TUBERCULOSIS] = np.array([name[2] == "1" for name in names if name], dtype=np.float32)
    return Manifest(
        table=table,
        findings=(TUBERCULOSIS,),
        exclusive=False,
        source="shenzhen",
        root=raw,
        masks=_masks(raw, set(table["image"])),
        mask_value=mask_value,
    )


def _reading(raw: Path, stem: str) -> str:
    path = raw / "ClinicalReadings" / f"{stem}.txt"
    return path.read_bytes()[:1000].decode(errors="replace") if path.is_file() else ""


def _masks(raw: Path, images: set[str]) -> pd.DataFrame:
    rows, strays = [], []
    for path in sorted((raw / "Annotations" / "masks").glob("*.png")):
        name = MASK.fullmatch(path.stem)
        image = f"CXR_png/{name[1]}.png" if name else ""
        if name is None or image not in images:
            strays.append(path.name)
            continue
        file = name_of(path.relative_to(raw).as_posix())
        rows += [(image, canonical(name[2].replace("_", " ")), file, ""), (image, TUBERCULOSIS, file, "")]
    if strays:
        logger.info("%d masks of %s belong to no image, %s for one.", len(strays), raw, strays[0])
    return pd.DataFrame(rows, columns=list(MASK_COLUMNS), dtype=str) if rows else no_masks()

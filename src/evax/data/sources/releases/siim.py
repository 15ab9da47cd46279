"""SIIM-ACR pneumothorax: stage-2 DICOMs and train-rle.csv (facts sections 3.2 and 5.6)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import MASK_COLUMNS, Manifest
from evax.data.sources.record import PublicSet
from evax.data.sources.tables import read_text_table
from evax.files import name_of

PUBLIC_SET = PublicSet(
    what="12,047 images with masks of pneumothorax (SIIM-ACR, stage 2)",
    terms="the rules of the challenge",
    page="https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation",
    layout="train-rle.csv  dicom-images-train/STUDY/SERIES/IMAGE.dcm ...",
    ask="sign in at Kaggle and accept the rules on that page; the data are linked there",
    counts={"films": 12047, "Pneumothorax": 2669, "masks": 3576, "images with masks": 2669},
    counts_from="SIIM-ACR, stage 2, train-rle.csv",
)

FINDING = "Pneumothorax"
FOLDER = "dicom-images-train"
SIDE = 1024  # of every image of the release, and of its masks


def read_siim(raw: Path) -> Manifest:
    """Every image of train-rle.csv, with all its run lengths; -1 stands for no pneumothorax.

    The release divides no train images, so patients are divided by seed; `lists` follows the paper's lists. A
    image is a patient of its own: the release names none.
    """
    rows = read_text_table(raw / "train-rle.csv", ("ImageId", "EncodedPixels"))
    rle = rows["EncodedPixels"].str.strip()
    drawn = rle != "-1"
    positives = set(rows.loc[drawn, "ImageId"])
    films = rows["ImageId"].drop_duplicates().reset_index(drop=True)
    place = {
        name.removesuffix(".dcm"): name_of(Path(folder, name).relative_to(raw).as_posix())
        for folder, _, names in os.walk(raw / FOLDER)
        for name in names
        if name.endswith(".dcm")
    }

    def image(film: str) -> str:
        return place.get(film, f"{FOLDER}/{film}.dcm")

    table = pd.DataFrame({"image": films.map(image), "patient": films})
    table = table.assign(study="", view="", sex="", age=np.nan, split="")
    table[FINDING] = films.isin(positives).astype(np.float32)
    # its runs are gap and length in turn, down the columns: those of data/masks.py
    pieces = [(image(film), FINDING, "", f"{SIDE} {SIDE} {runs}") for film, runs in
              zip(rows.loc[drawn, "ImageId"], rle[drawn], strict=True)]  # fmt: skip
    return Manifest(
        table=table,
        findings=(FINDING,),
        exclusive=False,
        source="siim",
        root=raw,
        masks=pd.DataFrame(pieces, columns=list(MASK_COLUMNS), dtype=str),
    )

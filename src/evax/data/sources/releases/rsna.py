"""RSNA pneumonia challenge: stage-2 train DICOMs and boxes (facts sections 3.2 and 5.6)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import BOX_COLUMNS, MASK_COLUMNS, Manifest
from evax.data.masks import box_rle
from evax.data.sources.record import PublicSet
from evax.data.sources.tables import parse_numbers, read_text_table
from evax.errors import DataError

PUBLIC_SET = PublicSet(
    what="26,684 images with boxes of pneumonia (RSNA 2018, stage 2)",
    terms="the rules of the challenge",
    page="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
    layout="stage_2_train_labels.csv  stage_2_train_images/*.dcm",
    ask="sign in at Kaggle, accept the rules on that page, download all data",
    counts={"films": 26684, "Pneumonia": 6012, "boxes": 9555, "images with boxes": 6012},
    counts_from="RSNA 2018, stage_2_train_labels.csv",
)

FINDING = "Pneumonia"
SIDE = 1024  # of every image of the release
CORNERS = BOX_COLUMNS[2:]


def read_rsna(raw: Path) -> Manifest:
    """Every image of stage_2_train_labels.csv with all its boxes, which are also its mask (filled, united).

    The release divides no train images, so patients are divided by seed; `lists` follows the paper's lists. A
    image is a patient of its own: the release names none.
    """
    path = raw / "stage_2_train_labels.csv"
    rows = read_text_table(path, ("patientId", *CORNERS, "Target"))
    rows["image"] = "stage_2_train_images/" + rows["patientId"] + ".dcm"
    target = parse_numbers(path, rows["Target"], "Target is 1 (pneumonia) or 0.")
    films = rows.drop_duplicates("image").reset_index(drop=True)
    table = pd.DataFrame({"image": films["image"], "patient": films["patientId"]})
    table = table.assign(study="", view="", sex="", age=np.nan, split="")
    positives = set(rows.loc[target == 1, "image"])
    table[FINDING] = table["image"].isin(positives).astype(np.float32)
    boxed = rows[target == 1]
    box_px = pd.DataFrame(
        {name: parse_numbers(path, boxed[name], "Boxes are in pixels.") for name in CORNERS}
    )
    if (blank := box_px.isna().any(axis=1)).any():
        raise DataError(f"{path}: {boxed.loc[blank, 'patientId'].iloc[0]} has Target 1 and no complete box.")
    boxes = (box_px / SIDE).assign(image=boxed["image"], finding=FINDING)[list(BOX_COLUMNS)]
    masks = [
        (image, FINDING, "", box_rle(SIDE, SIDE, (x, y, width, height)))
        for image, x, y, width, height in zip(
            boxed["image"], *(box_px[name].round().astype(int) for name in CORNERS), strict=True
        )
    ]
    return Manifest(
        table=table,
        findings=(FINDING,),
        exclusive=False,
        source="rsna",
        root=raw,
        boxes=boxes.reset_index(drop=True),
        drawn_on=dict.fromkeys(boxes["image"], (SIDE, SIDE)),
        masks=pd.DataFrame(masks, columns=list(MASK_COLUMNS), dtype=str),
    )

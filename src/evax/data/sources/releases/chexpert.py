"""CheXpert in its official layout, full size or v1.0-small (facts section 3.2)."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from evax.data.manifest import Manifest
from evax.data.sources.record import PublicSet
from evax.data.sources.tables import ages, label_columns, read_text_table, require_columns
from evax.errors import DataError
from evax.findings import CHEXPERT

PUBLIC_SET = PublicSet(
    what="223,648 images with 14 findings (Stanford)",
    terms="Stanford University research use agreement: research only, no redistribution",
    page="https://aimi.stanford.edu/datasets/chexpert-chest-x-rays",
    layout="train.csv  valid.csv  train/patient00001/study1/view1_frontal.jpg ...  valid/...",
    ask="register on that page and accept the agreement; the address comes by mail",
    counts={
        "films": 191027 + 202,
        "images without a split": 191027,
        "test films": 202,
        "images left out": 32419,
    },
    counts_from="CheXpert-v1.0, frontal rows of train.csv and valid.csv",
)

FACTS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")

logger = logging.getLogger("evax")


def read_chexpert(raw: Path) -> Manifest:
    """Frontal images of train.csv and valid.csv, by the release's own column; 14 labels as written.

    The paths of the tables begin with the release's name (CheXpert-v1.0/ or CheXpert-v1.0-small/), which is
    RAW itself. valid.csv, labelled by radiologists, is the test split, as in the paper; without it the train
    images are divided. Patients are the patientNNNNN of the path.
    """
    tables = [_rows(raw / "train.csv").assign(split="")]
    if (raw / "valid.csv").is_file():
        tables.append(_rows(raw / "valid.csv").assign(split="test"))
    else:
        logger.info("%s has no valid.csv: test images are taken from the train ones.", raw)
    rows = pd.concat(tables, ignore_index=True)
    rows["image"] = rows["Path"].str.split("/", n=1).str[1]
    frontal = rows["Frontal/Lateral"] == "Frontal"
    left_out = dict.fromkeys(rows.loc[~frontal, "image"], "lateral view")
    rows = rows[frontal].reset_index(drop=True)
    place = rows["Path"].str.extract(r"((patient\d+)/study\d+)/")
    if (odd := place[1].isna()).any():
        raise DataError(f"{raw}: the path {rows.loc[odd, 'Path'].iloc[0]} names no patient and study.")
    table = pd.DataFrame(
        {
            "image": rows["image"],
            "patient": place[1],
            "study": place[0],
            "view": rows["AP/PA"].where(rows["AP/PA"].isin(["AP", "PA"]), ""),
            "sex": rows["Sex"].map({"Male": "M", "Female": "F"}).fillna(""),
            "age": ages(rows["Age"]),
            "split": rows["split"],
        }
    )
    return Manifest(
        table=pd.concat([table, rows[list(CHEXPERT)]], axis=1),
        findings=CHEXPERT,
        exclusive=False,
        source="chexpert",
        root=raw,
        left_out=left_out,
    )


def _rows(path: Path) -> pd.DataFrame:
    """FACTS as texts, and the labels."""
    rows = read_text_table(path)
    require_columns(path, rows, FACTS)
    return pd.concat([rows[list(FACTS)], label_columns(path, rows, CHEXPERT)], axis=1)

"""ChestX-ray14 in its official layout (facts section 3.2)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import Manifest, no_boxes
from evax.data.sources.csv import read_table
from evax.errors import DataError
from evax.findings import CHESTXRAY14, canonical

BOX_SIDE = 1024  # boxes are in pixels of the 1024-pixel release, whatever size the files have now
FLAT_FOLDERS = ("images", "images_*/images")

logger = logging.getLogger("evax")


def read_chestxray14(raw: Path) -> Manifest:
    """Films listed in Data_Entry_2017.csv and found in images/ or images_001/images/ ...; 14 findings.

    The films of test_list.txt are the test split; the others are divided by assign_splits.
    """
    rows = read_table(raw / "Data_Entry_2017.csv")
    needed = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
    if missing := [name for name in needed if name not in rows.columns]:
        raise DataError(f"{raw / 'Data_Entry_2017.csv'} lacks the columns {', '.join(missing)}.")
    places = {
        path.name: path.relative_to(raw).as_posix()
        for folder in FLAT_FOLDERS
        for path in raw.glob(f"{folder}/*.png")
    }
    present = rows["Image Index"].isin(places)
    if not present.any():
        raise DataError(
            f"None of the {len(rows)} listed films is in {raw}/images or {raw}/images_001/images."
        )
    if absent := int((~present).sum()):
        logger.info("%d of %d listed films are not in %s; they are left out.", absent, len(rows), raw)
    rows = rows[present].reset_index(drop=True)
    tested = _lines(raw / "test_list.txt")
    listed = tested | _lines(raw / "train_val_list.txt")
    if stray := set(rows["Image Index"]) - listed:
        raise DataError(f"{sorted(stray)[0]} is in neither test_list.txt nor train_val_list.txt of {raw}.")
    age = pd.to_numeric(rows["Patient Age"].str.extract(r"(\d+)")[0], errors="coerce").astype(float)
    table = pd.DataFrame(
        {
            "image": rows["Image Index"].map(places),
            "patient": rows["Patient ID"],
            "study": "",
            "view": rows["View Position"].str.upper(),
            "sex": rows["Patient Gender"].str.upper(),
            "age": age.where(age <= 120),  # the release has ages such as 411
            "split": np.where(rows["Image Index"].isin(tested), "test", ""),
        }
    )
    labels = rows["Finding Labels"].map(lambda text: {canonical(name) for name in text.split("|")})
    if strange := set().union(*labels) - {*CHESTXRAY14, "No Finding"}:
        raise DataError(
            f"{raw / 'Data_Entry_2017.csv'} has the finding '{sorted(strange)[0]}', unknown in this release."
        )
    for finding in CHESTXRAY14:
        table[finding] = labels.map(lambda names, finding=finding: float(finding in names)).astype(np.float32)
    return Manifest(
        table=table,
        findings=CHESTXRAY14,
        exclusive=False,
        source="chestxray14",
        root=raw,
        boxes=_boxes(raw, places),
    )


def _lines(path: Path) -> set[str]:
    if not path.is_file():
        raise DataError(f"{path} is missing: the official release has train_val_list.txt and test_list.txt.")
    return set(path.read_text().split())


def _boxes(raw: Path, places: dict[str, str]) -> pd.DataFrame:
    path = raw / "BBox_List_2017.csv"
    if not path.is_file():
        return no_boxes()
    rows = read_table(path)
    rows = rows[rows["Image Index"].isin(places)]
    # the headers are, literally: Image Index, Finding Label, Bbox [x, y, w, h]
    numbers = rows.iloc[:, 2:6].astype(float) / BOX_SIDE
    return pd.DataFrame(
        {
            "image": rows["Image Index"].map(places),
            "finding": rows["Finding Label"].map(canonical),
            **{name: numbers.iloc[:, column] for column, name in enumerate(("x", "y", "width", "height"))},
        }
    ).reset_index(drop=True)

"""ChestX-ray14 in its official layout (facts section 3.2)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import Manifest, no_boxes
from evax.data.sources.tables import ages, first_file, missing_file, parse_numbers, read_text_table
from evax.data.split import lines_of
from evax.errors import DataError
from evax.files import name_of, path_of
from evax.findings import CHESTXRAY14, canonical

BOX_SIDE = 1024  # boxes are in pixels of the 1024-pixel release, whatever size the files have now
FLAT_FOLDERS = ("images", "images_*/images")
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")


def read_chestxray14(raw: Path) -> Manifest:
    """Films of Data_Entry_2017.csv, looked for in images/ and images_001/images/ ...; 14 findings.

    The table may be called Data_Entry_2017_v2020.csv, as it is at the NIH since 2020.
    The films of test_list.txt are the test split; the others are divided by assign_splits.
    """
    entries = first_file(raw, "Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")  # one table, two names
    rows = read_text_table(entries, COLUMNS)
    places = _places(raw)
    image = rows["Image Index"].map(lambda name: places.get(name, f"images/{name}"))
    tested = _lines(raw / "test_list.txt")
    listed = tested | _lines(raw / "train_val_list.txt")
    if stray := set(rows["Image Index"]) - listed:
        raise DataError(f"{sorted(stray)[0]} is in neither test_list.txt nor train_val_list.txt of {raw}.")
    table = pd.DataFrame(
        {
            "image": image,
            "patient": rows["Patient ID"],
            "study": "",
            "view": rows["View Position"].str.upper(),
            "sex": rows["Patient Gender"].str.upper(),
            "age": ages(rows["Patient Age"]),
            "split": ["test" if name in tested else "" for name in rows["Image Index"]],
        }
    )
    labels = rows["Finding Labels"].map(lambda text: {canonical(name) for name in text.split("|")})
    if strange := set().union(*labels) - {*CHESTXRAY14, "No Finding"}:
        raise DataError(f"{entries} has the finding '{sorted(strange)[0]}', unknown in this release.")
    for finding in CHESTXRAY14:
        table[finding] = labels.map(lambda names, finding=finding: float(finding in names)).astype(np.float32)
    boxes = _boxes(raw, dict(zip(rows["Image Index"], image, strict=True)))
    return Manifest(
        table=table,
        findings=CHESTXRAY14,
        exclusive=False,
        source="chestxray14",
        root=raw,
        boxes=boxes,
        drawn_on=dict.fromkeys(boxes["image"], (BOX_SIDE, BOX_SIDE)),
    )


def _places(raw: Path) -> dict[str, str]:
    """File name -> path under raw; the release is twelve archives, each with a folder of its own."""
    folders = [
        name_of(folder.relative_to(raw).as_posix())
        for pattern in FLAT_FOLDERS
        for folder in raw.glob(pattern)
    ]
    return {
        name: f"{folder}/{name}"
        for folder in sorted(folders)
        for name in map(name_of, os.listdir(raw / path_of(folder)))
    }


def _lines(path: Path) -> set[str]:
    if not path.is_file():
        raise missing_file(path, "list", "The official release has train_val_list.txt and test_list.txt.")
    return set(lines_of(path))


def _boxes(raw: Path, image_of: dict[str, str]) -> pd.DataFrame:
    path = raw / "BBox_List_2017.csv"
    if not path.is_file():
        return no_boxes()
    rows = read_text_table(path)
    if list(rows.columns[:2]) != ["Image Index", "Finding Label"] or len(rows.columns) < 6:
        raise DataError(
            f"{path} does not begin with the columns Image Index, Finding Label, Bbox [x, y, w, h]."
        )
    # the headers of the numbers are, literally: Bbox [x, y, w, h]
    sides = [
        parse_numbers(path, rows.iloc[:, column], "Boxes are in pixels.") / BOX_SIDE for column in range(2, 6)
    ]
    boxes = pd.DataFrame(
        {
            "image": rows["Image Index"].map(image_of),
            "finding": rows["Finding Label"].map(canonical),
            **dict(zip(("x", "y", "width", "height"), sides, strict=True)),
        }
    )
    return boxes[boxes["image"].notna()].reset_index(drop=True)

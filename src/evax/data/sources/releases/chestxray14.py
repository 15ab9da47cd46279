"""ChestX-ray14 in its official layout (facts section 3.2)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import Manifest, no_boxes
from evax.data.sources.record import PublicSet, archive
from evax.data.sources.tables import ages, first_file, missing_file, parse_numbers, read_text_table
from evax.data.split import lines_of
from evax.errors import DataError
from evax.files import name_of, path_of
from evax.findings import CHESTXRAY14, canonical

# ChestX-ray14's archives 1 to 12 on the NIH's file share
_BOX = (
    "vfk49d74nhbxq3nqjg0900w5nvkorp5c", "i28rlmbvmfjbl8p2n3ril0pptcmcu9d1",
    "f1t00wrtdk94satdfb9olcolqx20z2jp", "0aowwzs5lhjrceb3qp67ahp0rd1l1etg",
    "v5e3goj22zr6h8tzualxfsqlqaygfbsn", "asi7ikud9jwnkrnkj99jnpfkjdes7l6l",
    "jn1b4mw4n6lnh74ovmcjb8y48h8xj07n", "tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j",
    "upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj", "l6nilvfa9cg3s28tqv1qc1olm3gnz54p",
    "hhq8fkdgvcari67vfhs7ppg2w6ni4jze", "ioqwiy20ihqwyr8pf4c24eazhh281pbu",
)  # fmt: skip
# official totals: train + val + test of the released lists (facts section 3.2)
_CHESTXRAY14_POSITIVES = (
    11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227,
)  # fmt: skip
PUBLIC_SET = PublicSet(
    what="112,120 images with 14 findings (NIH Clinical Center), in twelve archives",
    terms="unrestricted; acknowledge the NIH Clinical Center, cite Wang et al. 2017",
    page="https://nihcc.app.box.com/v/ChestXray-NIHCC",
    archives=tuple(
        archive(f"images_{number:03d}.tar.gz", f"https://nihcc.box.com/shared/static/{name}.gz")
        for number, name in enumerate(_BOX, 1)
    ),
    layout="images/*.png  Data_Entry_2017.csv  BBox_List_2017.csv  train_val_list.txt  test_list.txt",
    ask="the two tables and two lists are downloads of their own on that page",
    counts={"films": 112120, "patients": 30805, "test films": 25596, "boxes": 984, "images with boxes": 880}
    | dict(zip(CHESTXRAY14, _CHESTXRAY14_POSITIVES, strict=True)),
    counts_from="NIH Clinical Center, Data_Entry_2017.csv, test_list.txt and BBox_List_2017.csv",
)

BOX_SIDE = 1024  # boxes are in pixels of the 1024-pixel release, whatever size the files have now
FLAT_FOLDERS = ("images", "images_*/images")
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")


def read_chestxray14(raw: Path) -> Manifest:
    """Images of Data_Entry_2017.csv, looked for in images/ and images_001/images/ ...; 14 findings.

    The table may be called Data_Entry_2017_v2020.csv, as it is at the NIH since 2020.
    The images of test_list.txt are the test split; the others are divided by assign_splits.
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

"""COVIDx V9A, which the paper calls CovidX-CXR-3: lists of images in train/ and test/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from evax.data.manifest import Manifest
from evax.data.sources.record import PublicSet
from evax.data.sources.tables import missing_file
from evax.data.split import all_lines
from evax.errors import DataError
from evax.findings import spelling_key

PUBLIC_SET = PublicSet(
    what="30,530 images: normal, pneumonia, COVID-19 (COVIDx V9A, the paper's CovidX-CXR-3)",
    terms="those of the sources it was put together from; read them on the page",
    page="https://www.kaggle.com/datasets/andyczhao/covidx-cxr2",
    layout="train_COVIDx9A.txt  test_COVIDx9A.txt  train/  test/",
    ask="sign in at Kaggle and choose version 5 on that page",
    counts={"train films": 30130, "test films": 400, "Normal": 8185, "Pneumonia": 5655, "COVID-19": 16690},
    counts_from="train_COVIDx9A.txt and test_COVIDx9A.txt",
)

LISTS = (
    ("train_COVIDx9A.txt", "train"),
    ("test_COVIDx9A.txt", "test"),
)  # file; its folder and split
# class in the lists: finding; in the order of the paper's outputs
CLASSES = {"normal": "Normal", "pneumonia": "Pneumonia", "COVID-19": "COVID-19"}
# V9A as it first came: its images of the source sirm are "positive"; the published counts hold them
FIRST = {"positive": "COVID-19"}


def read_covidx9a(raw: Path) -> Manifest:
    """Three classes; validation images come out of train."""
    return read_lists(raw, "covidx9a", LISTS, CLASSES, FIRST)


def read_lists(
    raw: Path,
    source: str,
    lists: tuple[tuple[str, str], ...],
    classes: dict[str, str],
    also: Mapping[str, str] = MappingProxyType({}),
) -> Manifest:
    """A release of COVIDx. also: classes of other versions of its lists."""
    known = {spelling_key(word): finding for word, finding in (classes | dict(also)).items()}
    table = pd.concat([_list(raw / name, split, known) for name, split in lists], ignore_index=True)
    for finding in classes.values():
        table[finding] = (table["class"] == finding).astype(np.float32)
    return Manifest(
        table=table.drop(columns="class"),
        findings=tuple(classes.values()),
        exclusive=True,
        source=source,
        root=raw,
    )


def _list(path: Path, split: str, classes: dict[str, str]) -> pd.DataFrame:
    """Lines `patient filename class source`; only the file name may hold blanks."""
    if not path.is_file():
        raise missing_file(path, "list", f"--raw names the folder that holds it and {split}/.")
    rows = []
    for number, line in enumerate(all_lines(path), 1):
        if not line:
            continue
        patient, _, rest = line.partition(" ")
        name, *ending = rest.rsplit(maxsplit=2) or ("",)
        if len(ending) != 2 or spelling_key(ending[0]) not in classes:
            got = f"the class is '{ending[0]}'" if len(ending) == 2 else "it has fewer words"
            raise DataError(
                f"{path}, line {number}: expected 'patient filename class source' with a class of "
                f"{', '.join(classes)}, but {got}. Lists of other versions belong to other sources: "
                "--source covidx9a reads those of V9A, covidx_cxr4 those of CXR-4. Mend or delete the line."
            )
        # one patient's images may come from several sources, so the source is no part of the patient's name
        rows.append((f"{split}/{name.strip()}", patient, classes[spelling_key(ending[0])]))
    table = pd.DataFrame(rows, columns=["image", "patient", "class"])
    return table.assign(study="", view="", sex="", age=np.nan, split=split)

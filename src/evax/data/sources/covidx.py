"""COVIDx V9A and CXR-4: lists of films in train/, val/ and test/ (facts section 3.2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import Manifest
from evax.data.sources.tables import missing_file
from evax.data.split import all_lines
from evax.errors import DataError
from evax.findings import spelling_key

# file of the list, folder of its films and split
V9A = (("train_COVIDx9A.txt", "train"), ("test_COVIDx9A.txt", "test"))
CXR4 = (("train.txt", "train"), ("val.txt", "val"), ("test.txt", "test"))
# class in the lists: finding; in the order of the paper's outputs
CLASSES_V9A = {"normal": "Normal", "pneumonia": "Pneumonia", "COVID-19": "COVID-19"}
CLASSES_CXR4 = {"negative": "Negative", "positive": "COVID-19"}
# V9A as it first came: its films of the source sirm are "positive"; the published counts hold them
FIRST_V9A = {"positive": "COVID-19"}


def read_covidx9a(raw: Path) -> Manifest:
    """COVIDx V9A, which the paper calls CovidX-CXR-3: three classes; validation films come out of train."""
    return _read(raw, "covidx9a", V9A, CLASSES_V9A, FIRST_V9A)


def read_covidx_cxr4(raw: Path) -> Manifest:
    """COVIDx CXR-4: with and without COVID-19, in the release's three splits."""
    return _read(raw, "covidx_cxr4", CXR4, CLASSES_CXR4, {})


def _read(
    raw: Path,
    source: str,
    lists: tuple[tuple[str, str], ...],
    classes: dict[str, str],
    also: dict[str, str],
) -> Manifest:
    """also: classes of other versions of the lists."""
    known = {spelling_key(word): finding for word, finding in (classes | also).items()}
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
        # one patient's films may come from several sources, so the source is no part of the patient's name
        rows.append((f"{split}/{name.strip()}", patient, classes[spelling_key(ending[0])]))
    table = pd.DataFrame(rows, columns=["image", "patient", "class"])
    return table.assign(study="", view="", sex="", age=np.nan, split=split)

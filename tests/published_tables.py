"""The complete tables of public releases, without their films: from the torchxrayvision package, which is
looked into and not imported, and from the released lists.
"""

from __future__ import annotations

import gzip
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

MIMIC_VIEWS = {"AP": 147173, "PA": 96161, "LATERAL": 377110 - 147173 - 96161}  # facts 3.1


def folder():
    package = importlib.util.find_spec("torchxrayvision")
    assert package, "torchxrayvision belongs to the dev dependencies: make install"
    return Path(package.submodule_search_locations[0]) / "data"


def unpacked(source, target):
    with gzip.open(source) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file)


def chestxray14(raw, shared):
    shutil.copy(folder() / "Data_Entry_2017_v2020.csv.gz", raw / "Data_Entry_2017.csv.gz")
    unpacked(folder() / "BBox_List_2017.csv.gz", raw / "BBox_List_2017.csv")
    names = {}
    for split in ("train", "val", "test"):
        with gzip.open(shared / "official-splits" / f"cxr14_{split}_official.txt.gz", "rt") as file:
            names[split] = [line.split()[0] for line in file]
    (raw / "train_val_list.txt").write_text("\n".join(names["train"] + names["val"]))
    (raw / "test_list.txt").write_text("\n".join(names["test"]))


def chexpert(raw):
    """Without valid.csv, which the package lacks."""
    shutil.copy(folder() / "chexpert_train.csv.gz", raw / "train.csv.gz")


def mimic_cxr(raw, tested):
    """Its tables are for credentialed users only: made here, with the published number of images of each view.

    tested: so many AP images are in the test split.
    """
    view = np.repeat(list(MIMIC_VIEWS), list(MIMIC_VIEWS.values()))
    number = np.arange(len(view))
    films = pd.DataFrame({"dicom_id": number, "subject_id": 10_000_000 + number // 6})
    films["study_id"] = 50_000_000 + number // 2
    films["dicom_id"] = "d" + films["dicom_id"].astype(str)
    films.assign(ViewPosition=view).to_csv(raw / "mimic-cxr-2.0.0-metadata.csv", index=False)
    split = np.where(number < tested, "test", "train")
    films.assign(split=split).to_csv(raw / "mimic-cxr-2.0.0-split.csv", index=False)
    header = (
        "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,"
        "Fracture,Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,"
        "Support Devices"
    )
    (raw / "mimic-cxr-2.0.0-chexpert.csv").write_text(f"{header}\n10000000,50000000{',' * 14}\n")

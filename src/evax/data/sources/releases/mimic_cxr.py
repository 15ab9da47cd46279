"""MIMIC-CXR-JPG 2.x in its official layout (facts section 3.2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.manifest import Manifest
from evax.data.sources.record import PublicSet
from evax.data.sources.tables import label_columns, read_text_table
from evax.errors import DataError
from evax.findings import CHEXPERT

PUBLIC_SET = PublicSet(
    what="377,110 images with 14 findings (MIMIC-CXR-JPG, Beth Israel Deaconess)",
    terms="PhysioNet credentialed data use agreement: no sharing, also not of a store made from it",
    page="https://physionet.org/content/mimic-cxr-jpg",
    layout="mimic-cxr-2.0.0-{metadata,split,chexpert}.csv.gz  files/p10/p10000032/s50414267/*.jpg ...",
    ask="make a PhysioNet account, pass the training course it names, sign the agreement on that page",
    counts={"films": 243334, "images left out": 377110 - 243334},
    counts_from="MIMIC-CXR-JPG 2.0.0, AP and PA rows of the metadata table",
)

SPLITS = {"train": "train", "validate": "val", "test": "test"}
TABLE = "mimic-cxr-2.0.0-{}.csv"  # also in release 2.1.0; plain or gzipped


def read_mimic_cxr(raw: Path) -> Manifest:
    """AP and PA images of the metadata table, with the release's split and the CheXpert labels of their study.

    RAW holds files/p10/p10000032/s50414267/DICOM.jpg and the metadata, split and chexpert tables. A study
    without labels has blanks; the release has no sex and age.
    """
    ids = ("dicom_id", "subject_id", "study_id")
    films = read_text_table(raw / TABLE.format("metadata"), (*ids, "ViewPosition"))
    places = read_text_table(raw / TABLE.format("split"), ("dicom_id", "split"))
    split = films["dicom_id"].map(dict(zip(places["dicom_id"], places["split"].map(SPLITS), strict=True)))
    if split.isna().any():
        odd = films.loc[split.isna(), "dicom_id"].iloc[0]
        raise DataError(f"{raw / TABLE.format('split')} names no split of {odd} (train, validate or test).")
    patient, study = "p" + films["subject_id"], "s" + films["study_id"]
    image = "files/" + patient.str[:3] + "/" + patient + "/" + study + "/" + films["dicom_id"] + ".jpg"
    view = films["ViewPosition"].str.strip().str.upper()
    frontal = view.isin(["AP", "PA"])
    table = pd.DataFrame(
        {
            "image": image,
            "patient": patient,
            "study": study,
            "view": view,
            "sex": "",
            "age": np.nan,
            "split": split,
        }
    )[frontal].reset_index(drop=True)
    return Manifest(
        table=pd.concat([table, _labels(raw, table["study"])], axis=1),
        findings=CHEXPERT,
        exclusive=False,
        source="mimic_cxr",
        root=raw,
        left_out=dict.fromkeys(image[~frontal], "neither AP nor PA"),
    )


def _labels(raw: Path, studies: pd.Series) -> pd.DataFrame:
    """The labels of these studies, in their order."""
    path = raw / TABLE.format("chexpert")
    rows = read_text_table(path)
    if (twice := rows["study_id"].duplicated()).any():
        raise DataError(f"{path} lists the study {rows.loc[twice, 'study_id'].iloc[0]} twice.")
    labels = label_columns(path, rows, CHEXPERT)
    row_of = pd.Index("s" + rows["study_id"]).get_indexer(pd.Index(studies))  # -1 without labels
    return labels.reindex(row_of).reset_index(drop=True)

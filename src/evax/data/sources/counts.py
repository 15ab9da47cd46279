"""The published counts of the public releases, in one table."""

from __future__ import annotations

from typing import NamedTuple

from evax.data.manifest import Manifest
from evax.findings import CHESTXRAY14


class PublishedCounts(NamedTuple):
    """What a complete release holds, in the words of `counted`."""

    source: str
    counts: dict[str, int]


# official totals: train + val + test of the released lists (facts section 3.2)
_CHESTXRAY14_POSITIVES = (
    11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227,
)  # fmt: skip

PUBLISHED: dict[str, PublishedCounts] = {
    "chestxray14": PublishedCounts(
        "NIH Clinical Center, Data_Entry_2017.csv, test_list.txt and BBox_List_2017.csv",
        {"films": 112120, "patients": 30805, "test films": 25596, "boxes": 984, "films with boxes": 880}
        | dict(zip(CHESTXRAY14, _CHESTXRAY14_POSITIVES, strict=True)),
    ),
    "chexpert": PublishedCounts(
        "CheXpert-v1.0, frontal rows of train.csv and valid.csv",
        {"films": 191027 + 202, "films without a split": 191027, "test films": 202, "films left out": 32419},
    ),
    "mimic_cxr": PublishedCounts(
        "MIMIC-CXR-JPG 2.0.0, AP and PA rows of the metadata table",
        {"films": 243334, "films left out": 377110 - 243334},
    ),
    "covidx9a": PublishedCounts(
        "train_COVIDx9A.txt and test_COVIDx9A.txt",
        {"train films": 30130, "test films": 400, "Normal": 8185, "Pneumonia": 5655, "COVID-19": 16690},
    ),
    "covidx_cxr4": PublishedCounts(
        "Wu et al. 2023, arXiv 2311.17677",
        {"films": 84818, "train films": 67863, "val films": 8473, "test films": 8482},
    ),
    "siim": PublishedCounts(
        "SIIM-ACR, stage 2, train-rle.csv",
        {"films": 12047, "Pneumothorax": 2669, "masks": 3576, "films with masks": 2669},
    ),
    "rsna": PublishedCounts(
        "RSNA 2018, stage_2_train_labels.csv",
        {"films": 26684, "Pneumonia": 6012, "boxes": 9555, "films with boxes": 6012},
    ),
    "merged_520k": PublishedCounts(
        "the three releases together, whatever is left out",
        {"films listed": 112120 + 223414 + 234 + 377110},
    ),
    "shenzhen": PublishedCounts("Jaeger et al. 2014, the Shenzhen set", {"films": 662, "Tuberculosis": 336}),
}


def counted(manifest: Manifest) -> dict[str, int]:
    """The same counts of a manifest, before its patients are divided."""
    table = manifest.table
    named = table["split"].value_counts()
    positives = (manifest.labels() == 1).sum(axis=0).tolist()
    return {
        "films": len(table),
        "patients": table["patient"].nunique(),
        "films left out": len(manifest.left_out),
        "films listed": len(table) + len(manifest.left_out),
        "films without a split": int(named.get("", 0)),
        **{f"{split} films": int(named.get(split, 0)) for split in ("train", "val", "test")},
        "boxes": len(manifest.boxes),
        "films with boxes": manifest.boxes["image"].nunique(),
        "masks": len(manifest.masks),
        "films with masks": manifest.masks["image"].nunique(),
        **dict(zip(manifest.findings, positives, strict=True)),
    }

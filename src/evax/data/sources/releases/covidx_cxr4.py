"""COVIDx CXR-4: lists of images in train/, val/ and test/."""

from __future__ import annotations

from pathlib import Path

from evax.data.manifest import Manifest
from evax.data.sources.record import PublicSet
from evax.data.sources.releases.covidx9a import read_lists

PUBLIC_SET = PublicSet(
    what="84,818 images with and without COVID-19 (COVIDx CXR-4)",
    terms="those of the sources it was put together from; read them on the page",
    page="https://www.kaggle.com/datasets/andyczhao/covidx-cxr2",
    layout="train.txt  val.txt  test.txt  train/  val/  test/",
    ask="sign in at Kaggle and choose version 6 on that page; the paper's own page says 9, its script 6",
    counts={"films": 84818, "train films": 67863, "val films": 8473, "test films": 8482},
    counts_from="Wu et al. 2023, arXiv 2311.17677",
)

LISTS = (
    ("train.txt", "train"),
    ("val.txt", "val"),
    ("test.txt", "test"),
)  # file; its folder and split
CLASSES = {"negative": "Negative", "positive": "COVID-19"}  # class in the lists: finding


def read_covidx_cxr4(raw: Path) -> Manifest:
    """With and without COVID-19, in the release's three splits."""
    return read_lists(raw, "covidx_cxr4", LISTS, CLASSES)

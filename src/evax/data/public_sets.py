"""Where public data sets come from: by address, or from whom to ask; and what their folder must look like.

Read without pandas and torch. No checksum of these archives was published; what comes first is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evax.download import Remote
from evax.files import read_json

RECORD = "fetched.json"  # in the folder of a set: its name, its archives, and whether all are unpacked
PHANTOMS = "phantoms"  # the set that is drawn, not fetched
LARGEST = 8_000_000_000  # bytes; none of these archives is near it
# ChestX-ray14's archives 1 to 12 on the NIH's file share
_BOX = (
    "vfk49d74nhbxq3nqjg0900w5nvkorp5c", "i28rlmbvmfjbl8p2n3ril0pptcmcu9d1",
    "f1t00wrtdk94satdfb9olcolqx20z2jp", "0aowwzs5lhjrceb3qp67ahp0rd1l1etg",
    "v5e3goj22zr6h8tzualxfsqlqaygfbsn", "asi7ikud9jwnkrnkj99jnpfkjdes7l6l",
    "jn1b4mw4n6lnh74ovmcjb8y48h8xj07n", "tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j",
    "upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj", "l6nilvfa9cg3s28tqv1qc1olm3gnz54p",
    "hhq8fkdgvcari67vfhs7ppg2w6ni4jze", "ioqwiy20ihqwyr8pf4c24eazhh281pbu",
)  # fmt: skip
_NLM = "https://openi.nlm.nih.gov/imgs/collections"


@dataclass(frozen=True, kw_only=True)
class PublicSet:
    """What a person needs to get one data set and to prepare it."""

    what: str
    terms: str
    page: str
    """Where it is described and, unless there are archives, to be had."""
    layout: str
    """What the folder must look like for `evax prepare`."""
    prepare: str
    """Options of `evax prepare` that name what it is."""
    archives: tuple[Remote, ...] = ()
    """Files that an address gives; none: a person has to ask."""
    top: str = ""
    """Folder in the archives whose content is the content of the set's folder."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Folder in the archives, below `top`: where it belongs, for a source that expects other names."""
    ask: str = ""
    """How to get what no address gives."""


def _archive(file: str, url: str) -> Remote:
    return Remote(file=file, url=url, largest=LARGEST)


PUBLIC_SETS: dict[str, PublicSet] = {
    "hannover_covid19": PublicSet(
        what="243 films of 71 adults with COVID-19 (Hannover Medical School)",
        terms="CC BY 3.0",
        page="https://github.com/ml-workgroup/covid-19-image-repository",
        archives=(
            _archive(
                "covid-19-image-repository-master.zip",
                "https://github.com/ml-workgroup/covid-19-image-repository/archive/refs/heads/master.zip",
            ),
        ),
        top="covid-19-image-repository-master",
        layout="labels.csv (made of data.csv)  png/*.png",
        prepare="--source csv",
    ),
    "montgomery": PublicSet(
        what="138 films with masks of both lungs (Montgomery County, NLM)",
        terms="public for research; cite Jaeger et al. 2014; do not pass it on",
        page="https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html#tuberculosis-image-data-sets",
        archives=(_archive("NLM-MontgomeryCXRSet.zip", f"{_NLM}/NLM-MontgomeryCXRSet.zip"),),
        top="MontgomerySet",
        places={
            "CXR_png": "images",
            "ManualMask/leftMask": "masks/Left Lung",
            "ManualMask/rightMask": "masks/Right Lung",
        },
        layout="images/*.png  masks/Left Lung/*.png  masks/Right Lung/*.png",
        prepare="--source masks",
    ),
    "shenzhen": PublicSet(
        what="662 films, half of them with tuberculosis (Shenzhen, NLM)",
        terms="public for research; cite Jaeger et al. 2014",
        page="https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html#tuberculosis-image-data-sets",
        archives=(_archive("ChinaSet_AllFiles.zip", f"{_NLM}/ChinaSet_AllFiles.zip"),),
        top="ChinaSet_AllFiles",
        layout="CXR_png/*.png  ClinicalReadings/*.txt  Annotations/masks/*.png",
        prepare="--source shenzhen",
        ask="the masks (Annotations/masks/) are a download of their own on that page",
    ),
    "chestxray14": PublicSet(
        what="112,120 films with 14 findings (NIH Clinical Center), in twelve archives",
        terms="unrestricted; acknowledge the NIH Clinical Center, cite Wang et al. 2017",
        page="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        archives=tuple(
            _archive(f"images_{number:03d}.tar.gz", f"https://nihcc.box.com/shared/static/{name}.gz")
            for number, name in enumerate(_BOX, 1)
        ),
        layout="images/*.png  Data_Entry_2017.csv  BBox_List_2017.csv  train_val_list.txt  test_list.txt",
        prepare="--source chestxray14",
        ask="the two tables and two lists are downloads of their own on that page",
    ),
    "lungs": PublicSet(
        what="films with lung masks, as Zhang released them",
        terms="see the page",
        page="https://doi.org/10.5281/zenodo.7191406",
        layout="Train/Images/*.png  Train/Masks/*.png  Test/Images/*.png  Test/Masks/*.png",
        prepare="--source lungs",
        ask="download the record's archive from that page; no account is needed",
    ),
    "chexpert": PublicSet(
        what="223,648 films with 14 findings (Stanford)",
        terms="Stanford University research use agreement: research only, no redistribution",
        page="https://aimi.stanford.edu/datasets/chexpert-chest-x-rays",
        layout="train.csv  valid.csv  train/patient00001/study1/view1_frontal.jpg ...  valid/...",
        prepare="--source chexpert",
        ask="register on that page and accept the agreement; the address comes by mail",
    ),
    "mimic_cxr": PublicSet(
        what="377,110 films with 14 findings (MIMIC-CXR-JPG, Beth Israel Deaconess)",
        terms="PhysioNet credentialed data use agreement: no sharing, also not of a store made from it",
        page="https://physionet.org/content/mimic-cxr-jpg",
        layout="mimic-cxr-2.0.0-{metadata,split,chexpert}.csv.gz  files/p10/p10000032/s50414267/*.jpg ...",
        prepare="--source mimic_cxr",
        ask="make a PhysioNet account, pass the training course it names, sign the agreement on that page",
    ),
    "rsna": PublicSet(
        what="26,684 films with boxes of pneumonia (RSNA 2018, stage 2)",
        terms="the rules of the challenge",
        page="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
        layout="stage_2_train_labels.csv  stage_2_train_images/*.dcm",
        prepare="--source rsna",
        ask="sign in at Kaggle, accept the rules on that page, download all data",
    ),
    "siim": PublicSet(
        what="12,047 films with masks of pneumothorax (SIIM-ACR, stage 2)",
        terms="the rules of the challenge",
        page="https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation",
        layout="train-rle.csv  dicom-images-train/STUDY/SERIES/IMAGE.dcm ...",
        prepare="--source siim",
        ask="sign in at Kaggle and accept the rules on that page; the data are linked there",
    ),
    "covidx9a": PublicSet(
        what="30,530 films: normal, pneumonia, COVID-19 (COVIDx V9A, the paper's CovidX-CXR-3)",
        terms="those of the sources it was put together from; read them on the page",
        page="https://www.kaggle.com/datasets/andyczhao/covidx-cxr2",
        layout="train_COVIDx9A.txt  test_COVIDx9A.txt  train/  test/",
        prepare="--source covidx9a",
        ask="sign in at Kaggle and choose version 5 on that page",
    ),
    "covidx_cxr4": PublicSet(
        what="84,818 films with and without COVID-19 (COVIDx CXR-4)",
        terms="those of the sources it was put together from; read them on the page",
        page="https://www.kaggle.com/datasets/andyczhao/covidx-cxr2",
        layout="train.txt  val.txt  test.txt  train/  val/  test/",
        prepare="--source covidx_cxr4",
        ask="sign in at Kaggle and choose version 6 on that page; the paper's own page says 9, its script 6",
    ),
}


def source_name(kind: str, raw: Path) -> str:
    """What a store calls its source: the kind of folder and, after a colon, the set `evax fetch` put into it.

    Never the folder's own name, which may be that of a person or a hospital.
    """
    record = raw / RECORD
    content = read_json(record) if record.is_file() else None
    name = content.get("name") if isinstance(content, dict) else None
    return f"{kind}:{name}" if name in (PHANTOMS, *PUBLIC_SETS) else kind

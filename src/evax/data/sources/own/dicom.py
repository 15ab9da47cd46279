"""A tree of DICOM files: unlabelled images whose patients are known only by pseudonyms."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.dicom import DicomHeader, is_dicom, read_header
from evax.data.dicom.header import opened_dicom, read_dataset, text
from evax.data.films import counts_of, files_below, kind_of_other
from evax.data.manifest import SPLIT_KEY, Manifest
from evax.data.sources.tables import warn_if_patients_doubtful
from evax.data.views import NOT_FRONTAL
from evax.errors import DataError
from evax.files import make_folder, name_of, open_csv, read_text, replaced_whole
from evax.findings import names_nobody

logger = logging.getLogger("evax")


def read_dicom(raw: Path, *, private: Path, keep_burned_in: bool = False) -> Manifest:
    """Frontal chest images of a tree. What its own header calls something else is left out and counted:
    lateral images, other body parts, other modalities; and, unless they are to be kept, images with text burned
    into their pixels that identifies the patient.

    private: folder for what must not travel with the store: `pseudonyms.key`, made when absent, and
    `crosswalk.csv` (pseudonym, file), which grows with every tree that shares the folder. The same key gives
    a patient the same pseudonym in every store. The split does not depend on it (see Manifest.table).
    An image that names no patient belongs to the patient of the other images of its study, else its study is a
    patient, and an image without both is a patient of its own. A warning counts such images and names a
    patient with more than half of the images ("ANONYMOUS"). Files that are no DICOM or hold no pictures, as
    reports and plans, are skipped; a warning counts them by kind, and pictures of other modalities and body
    parts.
    Of dates, only the days since the patient's first study in this tree are kept (`study_day`).
    """
    make_folder(private, mode=0o700)
    key = _key(private / "pseudonyms.key")
    names = dict[str, str]()  # pseudonym -> what it stands for
    rows, patients, crosswalk, left_out = (
        [],
        list[str](),
        {},
        Counter({"lateral images": 0, "other files": 0}),
    )
    others: list[str] = []

    def pseudonym(kind: str, value: str) -> str:
        names[given := _pseudonym(key, kind, value)] = value
        return given

    for path in files_below(raw):
        name = name_of(path.relative_to(raw).as_posix())
        try:
            is_other = path.name == "DICOMDIR" or not is_dicom(path)
            header = None if is_other else read_header(path)
            if header is None or (not header.frames and not _calls_itself_image(path)):
                left_out["other files"] += 1
                others.append(kind_of_other(path))
                continue
        except DataError:  # it is refused with its reason when the store is built
            header = None
        if header is not None and (other := _unwanted(header, keep_burned_in)):
            left_out[other] += 1
            if header.other_kinds:
                others.append(" ".join(header.other_kinds))
            continue
        # by both: anonymisers give many images one UID, and two trees may hold different images of one name
        image = pseudonym("image", f"{header.image_uid if header else ''}:{name}")
        crosswalk[image] = name_of(path.resolve())
        patient = "" if header is None or names_nobody(header.patient_id) else header.patient_id
        patients.append(patient)
        rows.append(
            {
                "image": image,
                "file": name,
                "patient": pseudonym("patient", patient) if patient else "",
                "study": pseudonym("study", header.study_uid) if header and header.study_uid else "",
                "view": (header.view or "") if header else "",
                "sex": header.sex if header else "",
                "age": header.age if header else np.nan,
                "split": "",
                "study_day": header.study_date.toordinal() if header and header.study_date else np.nan,
            }
        )
    if others:
        logger.warning(
            "%s: %d files are no chest images and are left out: %s.", raw, len(others), counts_of(others)
        )
    counts = ", ".join(f"{count} {what}" for what, count in left_out.items())
    if not rows:
        raise DataError(f"There is no frontal DICOM image in {raw} ({counts}).")
    logger.info("%s: %d images; left out: %s.", raw, len(rows), counts)
    _write_private(private / "crosswalk.csv", crosswalk)
    table = pd.DataFrame(rows)
    warn_if_patients_doubtful(
        raw, pd.Series(patients),
        "images of one study are kept together, but one person's studies may be divided between training and "
        "test.",
    )  # fmt: skip
    table["patient"] = _patients(table)
    table[SPLIT_KEY] = table["patient"].map(names)
    table["study_day"] -= table.groupby("patient")["study_day"].transform("min")
    return Manifest(
        table=table, findings=(), exclusive=False, source="dicom", root=raw, namespace=name_of_key(private)
    )


def _patients(table: pd.DataFrame) -> pd.Series:
    """Who an image is of: its patient, else the one of its study's images, else its study, else itself."""
    named = table[(table["patient"] != "") & (table["study"] != "")]
    of_study = dict(zip(named["study"], named["patient"], strict=True))
    fallback = table["study"].map(lambda study: of_study.get(study, study))
    fallback = fallback.where(fallback != "", table["image"])
    return table["patient"].where(table["patient"] != "", fallback)


def _calls_itself_image(path: Path) -> bool:
    """Whether an object without rows is of a class of images, or of none: then it is an image that was cut off,
    and no report, plan or document.
    """
    from pydicom.uid import UID

    with opened_dicom(path) as file:
        name = UID(text(read_dataset(file, path, specific_tags=["SOPClassUID"]), "SOPClassUID")).name
    return not name or "Image Storage" in name


def _unwanted(header: DicomHeader, keep_burned_in: bool) -> str:
    """What a file is instead of a frontal chest image, in the plural; "" for such an image or an unknown."""
    if header.view in NOT_FRONTAL:
        return NOT_FRONTAL[header.view]
    if header.frames and not header.is_projection:
        return "pictures of other modalities"
    if header.frames and not header.is_chest_image:
        return "images of other body parts"
    if header.burned_in and not keep_burned_in:
        return "images with burned-in names"
    return ""


def _pseudonym(key: bytes, kind: str, value: str) -> str:
    return hashlib.blake2b(f"{kind}:{value}".encode(), key=key, digest_size=10).hexdigest()


def name_of_key(private: Path) -> str:
    """Tells one key from another; nothing else can be learned of it."""
    return _pseudonym(_key(private / "pseudonyms.key"), "key", "")


def _key(path: Path) -> bytes:
    if not path.is_file():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(32))
    key = path.read_bytes()
    if len(key) != 32:
        raise DataError(
            f"{path} is not a pseudonym key: it has {len(key)} bytes, expected 32. Put the key of "
            "before there, or give another --private: its pseudonyms are others."
        )
    return key


def _write_private(path: Path, crosswalk: dict[str, str]) -> None:
    """Adds the images to the crosswalk; those of other trees stay."""
    before: dict[str, str] = {}
    if path.is_file():
        before = {row["image"]: row["file"] for row in csv.DictReader(io.StringIO(read_text(path)))}
    with (
        replaced_whole(path) as unfinished,
        open_csv(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)) as file,
    ):
        csv.writer(file).writerows([("image", "file"), *(before | crosswalk).items()])

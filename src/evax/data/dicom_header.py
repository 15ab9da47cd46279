"""DICOM files opened, and what their headers say: view, age, spacing; pydicom is imported at first use."""

from __future__ import annotations

import datetime
import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from evax.data.radiograph import opened
from evax.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE = 128
VIEWS = {
    **dict.fromkeys(("PA", "272479007", "R-10214", "R-40888"), "PA"),  # with the codes of CID 4010 "DX View"
    **dict.fromkeys(("AP", "399348003", "R-10206"), "AP"),
    **dict.fromkeys(("LL", "RL", "LAT", "LATERAL", "399067008", "399173006", "399198007"), "LATERAL"),
    **dict.fromkeys(("R-102CD", "R-10232", "R-10236"), "LATERAL"),
    # decubitus: a frontal beam, but not the film a frontal model knows; who leaves out laterals leaves it out
    **dict.fromkeys(("LLD", "RLD"), "LATERAL"),
}
HEADER_TAGS = (
    *(
        "PatientID",
        "PatientSex",
        "PatientAge",
        "PatientBirthDate",
        "StudyDate",
        "StudyInstanceUID",
        "SOPInstanceUID",
    ),
    *("ViewPosition", "ViewCodeSequence", "Modality", "BodyPartExamined", "NumberOfFrames", "Rows"),
)


@dataclass(frozen=True)
class DicomHeader:
    """What an index needs to know of a DICOM file; missing texts are ""."""

    patient_id: str = field(repr=False)  # a log that shows a header shows no patient
    study_uid: str
    image_uid: str
    view: str | None
    """"PA", "AP", "LATERAL" or None."""
    sex: str
    """"M", "F" or ""."""
    age: float
    """Years; NaN where unknown."""
    modality: str
    body_part: str
    frames: int
    """Number of pictures; 0 for a file without pixels (report, presentation state)."""


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether the content is DICOM: the mark after the preamble, or a bare data set.

    Raises DataError for a file that cannot be opened.
    """
    with opened(path) as file:
        return _starts_as_dicom(file)


def read_header(path: str | os.PathLike[str]) -> DicomHeader:
    """Describe a DICOM file without reading its pixels. Raises DataError, which never names the patient.

    Age is Patient's Age, or else the time from birth to the study.
    """
    with opened_dicom(path) as file:
        dataset = read_dataset(file, path, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
        frames = numbers(dataset, "NumberOfFrames") or (1.0,)
        sex = text(dataset, "PatientSex").upper()
        return DicomHeader(
            patient_id=text(dataset, "PatientID"),
            study_uid=text(dataset, "StudyInstanceUID"),
            image_uid=text(dataset, "SOPInstanceUID"),
            view=view_of(dataset),
            sex=sex if sex in ("M", "F") else "",
            age=_age(dataset),
            modality=text(dataset, "Modality").upper(),
            body_part=text(dataset, "BodyPartExamined").upper(),
            frames=int(frames[0]) if "Rows" in dataset else 0,
        )


def _starts_as_dicom(file: BinaryIO) -> bool:
    head = file.read(PREAMBLE + 4)
    file.seek(0)
    if head[PREAMBLE:] == b"DICM":
        return True
    if len(head) < 16:
        return False
    group, element, length = struct.unpack("<HHI", head[:8])
    if group == 2:  # file meta information without its preamble
        return element == 0 and head[4:6] == b"UL"
    if group != 8 or element > 0x0100:  # a bare data set starts with its character set, type, class or date
        return False
    explicit = head[4:6] in (b"CS", b"UI", b"DA", b"TM", b"UL", b"LO", b"SH")
    return explicit or (length <= 64 and all(32 <= byte < 127 or byte == 0 for byte in head[8 : 8 + length]))


@contextmanager
def opened_dicom(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A film file, open, while pydicom does not validate values: its warnings quote them into logs."""
    from pydicom.config import disable_value_validation

    with disable_value_validation(), opened(path) as file:
        yield file


def read_dataset(file: BinaryIO, path: str | os.PathLike[str], **options: Any) -> Dataset:
    from pydicom import dcmread

    if not _starts_as_dicom(file):
        raise DataError(
            f"{path} is not a DICOM file: it has no DICM mark and does not start with a DICOM element."
        )
    return dcmread(file, force=True, **options)  # force: the preamble may be missing, see _starts_as_dicom


def text(dataset: Dataset, keyword: str) -> str:
    """A text as its bytes say, or ""; not by pydicom's conversion, whose warnings quote values into logs."""
    element = dataset.get_item(keyword)
    value: Any = "" if element is None or element.value is None else element.value
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            value = value.decode(
                "latin-1"
            )  # keeps different bytes different, which is all an identifier needs
    return str(value).strip(" \0")


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The numbers of an element; nothing where it is absent, empty, or not made of finite numbers."""
    try:
        values = np.array(dataset.get(keyword), dtype=np.float64).ravel()
    except (ValueError, TypeError, OverflowError):
        return ()
    return tuple(values.tolist()) if np.isfinite(values).all() else ()


def view_of(dataset: Dataset) -> str | None:
    if view := VIEWS.get(text(dataset, "ViewPosition").upper()):
        return view
    codes = dataset.get("ViewCodeSequence")
    return VIEWS.get(text(codes[0], "CodeValue").upper()) if codes else None


def spacing_mm_of(dataset: Dataset) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = numbers(dataset, keyword)
        if len(spacing) == 2 and min(spacing) > 0:
            return spacing
    return None


def _age(dataset: Dataset) -> float:
    if match := re.fullmatch(r"(\d{1,3})([DWMY])", text(dataset, "PatientAge").upper()):
        return int(match[1]) / {"D": 365.25, "W": 365.25 / 7, "M": 12, "Y": 1}[match[2]]
    try:
        born, seen = (
            datetime.datetime.strptime(text(dataset, keyword), "%Y%m%d")
            for keyword in ("PatientBirthDate", "StudyDate")
        )
    except ValueError:
        return math.nan
    years = (seen - born).days / 365.25
    return years if years >= 0 else math.nan

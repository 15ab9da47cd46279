"""DICOM files opened, and what their headers say: view, age, spacing; pydicom is imported at first use."""

from __future__ import annotations

import datetime
import logging
import math
import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from evax.data.radiograph import damaged, opened
from evax.errors import DataError, EvaxError

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE = 128
VIEWS = {  # with the codes of CID 4010 "DX View"
    **dict.fromkeys(("PA", "POSTEROANTERIOR", "272479007", "R-10214", "R-40888"), "PA"),
    **dict.fromkeys(("AP", "ANTEROPOSTERIOR", "399348003", "R-10206"), "AP"),
    **dict.fromkeys(("LL", "RL", "LAT", "LATERAL", "399067008", "399173006", "399198007"), "LATERAL"),
    **dict.fromkeys(("R-102CD", "R-10232", "R-10236"), "LATERAL"),
    # decubitus: a frontal beam, but not the film a frontal model knows; who leaves out laterals leaves it out
    **dict.fromkeys(("LLD", "RLD"), "LATERAL"),
}
PROJECTIONS = ("CR", "DX", "DR", "RG", "XA", "RF", "OT", "SC", "")  # the last three: scans and exports
# Body Part Examined that is no chest, of PS3.16 annex L. Any other text (PORT CXR, TORAX) may well be one.
OTHER_PARTS = frozenset((
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BLADDER", "BREAST", "BUTTOCK", "CALCANEUS", "CALF",
    "CLAVICLE", "COCCYX", "CSPINE", "EAR", "ELBOW", "EXTREMITY", "EYE", "FEMUR", "FINGER", "FOOT",
    "FOREARM", "HAND", "HEAD", "HEADNECK", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE", "MANDIBLE",
    "MAXILLA", "NECK", "PATELLA", "PELVIS", "RADIUS", "SACRUM", "SCAPULA", "SHOULDER", "SINUS", "SKULL",
    "SPINE", "SSPINE", "TEETH", "THIGH", "THUMB", "TIBIA", "TMJ", "TOE", "TSPINE", "ULNA", "WRIST",
    "ZYGOMA",
))  # fmt: skip
LONGEST_LIFE = 120  # years; more is a mistake, as in the tables of releases
OLDEST = 90  # an age above 89 may name a person (HIPAA's safe harbour: 45 CFR 164.514(b)(2)(i)(C))
HEADER_TAGS = [
    "PatientID", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate", "AcquisitionDate",
    "StudyInstanceUID", "SOPInstanceUID", "ViewPosition", "ViewCodeSequence", "Modality",
    "BodyPartExamined", "NumberOfFrames", "Rows", "PatientOrientation", "BurnedInAnnotation",
    "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
]  # fmt: skip


@dataclass(frozen=True)
class DicomHeader:
    """What an index needs to know of a DICOM file; missing texts are "". Its repr shows no patient."""

    patient_id: str = field(repr=False)
    study_uid: str = field(repr=False)
    image_uid: str = field(repr=False)
    study_date: datetime.date | None = field(repr=False)
    """Study Date, or else Acquisition Date."""
    view: str | None
    """"PA", "AP", "LATERAL" or None."""
    orientation: tuple[str, ...]
    """Where the rows and the columns of a picture run to, as "L" (the patient's left) and "F" (feet)."""
    sex: str
    """"M", "F" or ""."""
    age: float
    """Whole years, below 2 whole months as a fraction, above 89 always 90; NaN where unknown."""
    modality: str
    body_part: str
    burned_in: bool
    """Burned In Annotation: text in the pixels that identifies the patient."""
    spacing_mm: tuple[float, float] | None
    """Distance of pixel rows and of pixel columns."""
    frames: int
    """Number of pictures; 0 for a file without pixels (report, presentation state)."""

    @property
    def is_projection(self) -> bool:
        """Not a slice, an ultrasound picture or the like."""
        return self.modality in PROJECTIONS

    @property
    def is_chest_film(self) -> bool:
        """Nothing in the header says otherwise."""
        return self.is_projection and self.body_part not in OTHER_PARTS


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether the content is DICOM: the mark after the preamble, or a bare data set.

    Raises DataError for a file that cannot be opened.
    """
    with opened(path) as file:
        return _starts_as_dicom(file)


def read_header(path: str | os.PathLike[str]) -> DicomHeader:
    """Describe a DICOM file without reading its pixels. Raises DataError, which never names the patient."""
    with opened_dicom(path) as file:
        return describe(read_dataset(file, path, stop_before_pixels=True, specific_tags=HEADER_TAGS))


def describe(dataset: Dataset) -> DicomHeader:
    """The header of an open file. Age is Patient's Age, or else the time from birth to the study."""
    frames = numbers(dataset, "NumberOfFrames") or (1.0,)
    sex = text(dataset, "PatientSex").upper()
    return DicomHeader(
        patient_id=text(dataset, "PatientID"),
        study_uid=text(dataset, "StudyInstanceUID"),
        image_uid=text(dataset, "SOPInstanceUID"),
        study_date=_date(dataset, "StudyDate") or _date(dataset, "AcquisitionDate"),
        view=_view(dataset),
        orientation=tuple(text(dataset, "PatientOrientation").upper().split("\\")),
        sex=sex if sex in ("M", "F") else "",
        age=_age(dataset),
        modality=text(dataset, "Modality").upper(),
        body_part=text(dataset, "BodyPartExamined").upper(),
        burned_in=text(dataset, "BurnedInAnnotation").upper() == "YES",
        spacing_mm=_spacing_mm(dataset),
        frames=int(frames[0]) if "Rows" in dataset else 0,
    )


def header_issues(header: DicomHeader) -> list[str]:
    """What a header says against a usual frontal chest film, as the names of Radiograph.issues."""
    issues = [] if header.spacing_mm else ["no_spacing"]
    if header.view not in ("PA", "AP"):
        issues.append("lateral" if header.view else "unknown_view")
    if not header.is_projection:
        known = re.fullmatch(r"[A-Z]{2}", header.modality)  # longer texts might be anything, a name even
        issues.append(f"modality_{header.modality}" if known else "modality_unknown")
    if header.body_part in OTHER_PARTS:
        issues.append(f"body_part_{header.body_part}")
    if header.burned_in:
        issues.append("burned_in_annotation")
    if header.view != "LATERAL":
        issues += _turned(header.orientation)
    return issues


def _turned(orientation: tuple[str, ...]) -> list[str]:
    """A frontal film runs to the patient's left and feet; the first letter is the main direction."""
    match tuple(name[:1] for name in orientation):
        case ("R", "F"):
            return ["mirrored"]
        case ("F" | "H", _) | (_, "L" | "R") | (_, "H"):
            return ["rotated"]
    return []


def _starts_as_dicom(file: BinaryIO) -> bool:
    head = file.read(PREAMBLE + 4)
    file.seek(0)
    if head[PREAMBLE:] == b"DICM":
        return True
    if len(head) < 16:
        return False
    order = ">" if head[0] == 0 else "<"  # a data set's first group, 2 or 8, is a small number
    group, element, length = struct.unpack(f"{order}HHI", head[:8])
    if group == 2:  # file meta information without its preamble
        return element == 0 and head[4:6] == b"UL"
    if group != 8 or element > 0x0100:  # a bare data set starts with its character set, type, class or date
        return False
    explicit = head[4:6] in (b"CS", b"UI", b"DA", b"TM", b"UL", b"LO", b"SH")
    return explicit or (length <= 64 and all(32 <= byte < 127 or byte == 0 for byte in head[8 : 8 + length]))


@contextmanager
def opened_dicom(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A film file, open, while pydicom says nothing: its warnings and errors quote file and header into logs.

    Whatever the bytes make pydicom or a codec raise inside leaves as a DataError without the text of it.
    """
    from pydicom.config import disable_value_validation

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    with disable_value_validation(), warnings.catch_warnings(), opened(path) as file:
        warnings.simplefilter("ignore")
        try:
            yield file
        except EvaxError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # from the file system
            reason = str(error) if isinstance(error, Unfit) else type(error).__name__
            raise damaged(path, reason) from error


class Unfit(ValueError):
    """Pixels that do not fit their header; its text quotes numbers only."""


def known_name(uid: Any) -> str:
    """The name of a UID in the standard's dictionary, or ""; an unknown one is a text of the file."""
    name = str(getattr(uid, "name", ""))
    return "" if name == str(uid) else name


def read_dataset(file: BinaryIO, path: str | os.PathLike[str], **options: Any) -> Dataset:
    """The data set of an open file; options as of pydicom's dcmread. DataError for what is no DICOM."""
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
            value = value.decode("latin-1")  # keeps different bytes different: enough for an identifier
    return str(value).strip(" \0")


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The numbers of an element; nothing where it is absent, empty, or not made of finite numbers."""
    try:
        values = np.array(dataset.get(keyword), dtype=np.float64).ravel()
    except (ValueError, TypeError, OverflowError):
        return ()
    return tuple(values.tolist()) if np.isfinite(values).all() else ()


def _view(dataset: Dataset) -> str | None:
    if view := VIEWS.get(text(dataset, "ViewPosition").upper()):
        return view
    codes = dataset.get("ViewCodeSequence")
    return VIEWS.get(text(codes[0], "CodeValue").upper()) if codes else None


def _spacing_mm(dataset: Dataset) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = numbers(dataset, keyword)
        if len(spacing) == 2 and min(spacing) > 0:
            return spacing
    return None


def _age(dataset: Dataset) -> float:
    """Whole months below two years of age, then whole years, OLDEST for all who are older."""
    if match := re.fullmatch(r"(\d{1,3})([DWMY])", text(dataset, "PatientAge").upper()):
        months = int(int(match[1]) * {"D": 12 / 365.25, "W": 84 / 365.25, "M": 1, "Y": 12}[match[2]])
    else:
        born, seen = _date(dataset, "PatientBirthDate"), _date(dataset, "StudyDate")
        if not born or not seen or seen < born:
            return math.nan
        months = 12 * (seen.year - born.year) + seen.month - born.month - (seen.day < born.day)
    if months > 12 * LONGEST_LIFE:
        return math.nan
    # an age to the day, beside a birth date, gives the day of the study away
    return months / 12 if months < 24 else float(min(months // 12, OLDEST))


def _date(dataset: Dataset, keyword: str) -> datetime.date | None:
    try:
        return datetime.datetime.strptime(text(dataset, keyword), "%Y%m%d").date()
    except ValueError:
        return None

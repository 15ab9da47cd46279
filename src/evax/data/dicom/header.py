"""DICOM files opened, and what their headers say: view, age, spacing; pydicom is imported at first use."""

from __future__ import annotations

import datetime
import logging
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from evax.data.radiograph import damaged, opened
from evax.data.views import LATERAL, NOT_FRONTAL, view_of, view_of_directions
from evax.errors import DataError, EvaxError

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE = 128
START = 2048  # bytes at the beginning of a file, by which a DICOM is known
LONG_FORM = ("OB", "OW", "SQ", "UN", "UT", "UC", "UR", "OF", "OD", "OL", "OV", "SV", "UV")  # PS3.5 7.1.2
LARGEST_INFLATED = 256 << 20  # bytes; an image of 100 megapixels with 16 bits, and its header
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
    """"PA", "AP", "LATERAL", "OTHER" (no view from the front or side, as axial) or None."""
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
    def other_kinds(self) -> list[str]:
        """What the picture is of instead of a chest in projection, as names of Radiograph.issues."""
        kinds = []
        if not self.is_projection:
            known = re.fullmatch(r"[A-Z]{2}", self.modality)  # longer texts might be anything, a name even
            kinds.append(f"modality_{self.modality}" if known else "modality_unknown")
        if self.body_part in OTHER_PARTS:
            kinds.append(f"body_part_{self.body_part}")
        return kinds

    @property
    def is_chest_image(self) -> bool:
        """Nothing in the header says otherwise."""
        return not self.other_kinds


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether the content is DICOM: the mark after the preamble, or a bare data set.

    Raises DataError for a file that cannot be opened.
    """
    with opened(path) as file:
        return _starts_as_dicom(file)


def read_header(path: str | os.PathLike[str]) -> DicomHeader:
    """Describe a DICOM file without reading its pixels. Raises DataError, which never names the patient."""
    with opened_dicom(path) as file:
        return describe_header(read_dataset(file, path, stop_before_pixels=True, specific_tags=HEADER_TAGS))


def describe_header(dataset: Dataset) -> DicomHeader:
    """The header of an open file. Age is Patient's Age, or else the time from birth to the study."""
    frames = header_numbers(dataset, "NumberOfFrames") or (1.0,)
    sex = text(dataset, "PatientSex").upper()
    return DicomHeader(
        patient_id=text(dataset, "PatientID"),
        study_uid=text(dataset, "StudyInstanceUID"),
        image_uid=text(dataset, "SOPInstanceUID"),
        study_date=_date(dataset, "StudyDate") or _date(dataset, "AcquisitionDate"),
        view=_view(dataset),
        orientation=_orientation(dataset),
        sex=sex if sex in ("M", "F") else "",
        age=_age(dataset),
        modality=text(dataset, "Modality").upper(),
        body_part=text(dataset, "BodyPartExamined").upper(),
        burned_in=text(dataset, "BurnedInAnnotation").upper() == "YES",
        spacing_mm=_spacing_mm(dataset),
        frames=int(frames[0]) if "Rows" in dataset else 0,
    )


def header_issues(header: DicomHeader) -> list[str]:
    """What a header says against a usual frontal chest image, as the names of Radiograph.issues."""
    issues = [] if header.spacing_mm else ["no_spacing"]
    if header.view is None:
        issues.append("unknown_view")
    elif header.view in NOT_FRONTAL:
        issues.append("lateral" if header.view == LATERAL else "other_view")
    elif view_of_directions(header.orientation):
        issues.append("view_conflict")
    issues += header.other_kinds
    if header.burned_in:
        issues.append("burned_in_annotation")
    if header.view not in NOT_FRONTAL:
        issues += _turned(header.orientation)
    return issues


def _turned(orientation: tuple[str, ...]) -> list[str]:
    """A frontal image runs to the patient's left and feet; the first letter is the main direction."""
    match tuple(name[:1] for name in orientation):
        case ("R", "F"):
            return ["mirrored"]
        case ("F" | "H", _) | (_, "L" | "R") | (_, "H"):
            return ["rotated"]
    return []


def _starts_as_dicom(file: BinaryIO) -> bool:
    head = file.read(START)
    file.seek(0)
    return head[PREAMBLE : PREAMBLE + 4] == b"DICM" or _is_bare(head)


def _is_bare(head: bytes) -> bool:
    """Whether a file begins with the elements of a data set, or of its meta information, without preamble.

    They are: two elements of the standard in ascending order, the first of group 2 or 8, each with the value
    representation that it has in the standard (where the bytes name one) and of a fitting length.
    """
    order, groups = ("<", head[:2]) if head[1:2] == b"\0" else (">", head[1::-1])
    if groups not in (b"\x02\0", b"\x08\0"):
        return False
    from pydicom.datadict import dictionary_VR

    position, last = 0, (-1, -1)
    for _ in range(2):
        if len(head) < position + 8:
            return False
        group, number, length = struct.unpack_from(f"{order}HHI", head, position)
        try:
            standard = "UL" if number == 0 else dictionary_VR((group, number))
        except KeyError:  # unknown to the standard
            return False
        position += 8
        if (given := head[position - 4 : position - 2].decode("latin-1")) in standard.split(" or "):
            (length,) = struct.unpack_from(f"{order}H", head, position - 2)
            if given in LONG_FORM:
                (length,) = struct.unpack_from(f"{order}I", head, position)
                position += 4
        elif order == ">" or group == 2:  # which always name the representation
            return False
        if (group, number) <= last or (standard == "UL" and length != 4) or length > len(head) - position:
            return False
        position, last = position + length, (group, number)
    return True


@contextmanager
def opened_dicom(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """An image file, open, while pydicom says nothing: its warnings and errors quote file and header into logs.

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
    _check_not_a_bomb(file, path)
    return dcmread(file, force=True, **options)  # force: the preamble may be missing, see _starts_as_dicom


def _check_not_a_bomb(file: BinaryIO, path: str | os.PathLike[str]) -> None:
    """Raise DataError for a deflated data set above LARGEST_INFLATED bytes: pydicom inflates it whole."""
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(file, force=True)
    meta = _read_file_meta_info(file)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflater, length = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while packed := inflater.unconsumed_tail or file.read(1 << 16):
            length += len(inflater.decompress(packed, 1 << 20))
            if inflater.eof:
                break
            if length > LARGEST_INFLATED:
                raise DataError(
                    f"{path} is deflated and inflates to more than {LARGEST_INFLATED >> 20} MB: this is no "
                    "single radiograph."
                )
    file.seek(0)


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


def header_numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The numbers of an element; none if it is absent, empty, or not made of finite numbers."""
    try:
        values = np.array(dataset.get(keyword), dtype=np.float64).ravel()
    except (ValueError, TypeError, OverflowError):
        return ()
    return tuple(values.tolist()) if np.isfinite(values).all() else ()


def _view(dataset: Dataset) -> str | None:
    """The view by View Position, else by View Code, else by Patient Orientation."""
    codes = dataset.get("ViewCodeSequence")
    return (
        view_of(text(dataset, "ViewPosition"))
        or (view_of(text(codes[0], "CodeValue")) if codes else "")
        or view_of_directions(_orientation(dataset))
        or None
    )


def _orientation(dataset: Dataset) -> tuple[str, ...]:
    return tuple(text(dataset, "PatientOrientation").upper().split("\\"))


def _spacing_mm(dataset: Dataset) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = header_numbers(dataset, keyword)
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

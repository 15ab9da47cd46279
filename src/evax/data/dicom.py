"""DICOM -> Radiograph: stored values become the grey picture a workstation would show.

A film has at most 2**16 different stored values, so the grey-scale chain of the standard is worked out once
for each possible value and the pixels are looked up in that table: quick, and every step is a plain formula.
pydicom is imported when the first DICOM is read: people with PNG files do not wait for it.
"""

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
import numpy.typing as npt
from PIL import Image

from evax.data.radiograph import Radiograph, damaged, luminance, opened, refuse_huge
from evax.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

Values = npt.NDArray[np.float64]  # one number for each possible stored value
Mask = npt.NDArray[np.bool_]

PREAMBLE = 128
PROJECTIONS = {
    "CR",
    "DX",
    "DR",
    "RG",
    "XA",
    "RF",
    "OT",
    "SC",
    "",
}  # OT, SC and nothing: scans and exports of films
VIEWS = {
    **dict.fromkeys(("PA", "272479007", "R-10214", "R-40888"), "PA"),  # with the codes of CID 4010 "DX View"
    **dict.fromkeys(("AP", "399348003", "R-10206"), "AP"),
    **dict.fromkeys(("LL", "RL", "LAT", "LATERAL", "399067008", "399173006", "399198007"), "LATERAL"),
    **dict.fromkeys(("R-102CD", "R-10232", "R-10236"), "LATERAL"),
    # decubitus: a frontal beam, but not the film a frontal model knows; who leaves out laterals leaves it out
    **dict.fromkeys(("LLD", "RLD"), "LATERAL"),
}
START_OF_FRAME = {0xF7, *range(0xC0, 0xD0)} - {
    0xC4,
    0xC8,
    0xCC,
}  # JPEG-LS and JPEG markers with a picture's size
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
    with _opened_dicom(path) as file:
        dataset = _dataset(file, path, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
        frames = _numbers(dataset, "NumberOfFrames") or (1.0,)
        sex = _text(dataset, "PatientSex").upper()
        return DicomHeader(
            patient_id=_text(dataset, "PatientID"),
            study_uid=_text(dataset, "StudyInstanceUID"),
            image_uid=_text(dataset, "SOPInstanceUID"),
            view=_view(dataset),
            sex=sex if sex in ("M", "F") else "",
            age=_age(dataset),
            modality=_text(dataset, "Modality").upper(),
            body_part=_text(dataset, "BodyPartExamined").upper(),
            frames=int(frames[0]) if "Rows" in dataset else 0,
        )


def read_dicom(path: str | os.PathLike[str]) -> Radiograph:
    """Read one projection film as it is meant to be seen (PS3.4 N.2): values in [0, 1], bright = dense.

    1. Stored values: Bits Stored, High Bit and Pixel Representation; other bits (old overlays) are masked.
    2. Modality LUT, or rescale slope and intercept.
    3. The first VOI LUT, or else the first window (LINEAR, LINEAR_EXACT, SIGMOID). One that leaves no grey
       between black and white is ignored ("bad_window"). Without any, films of up to 8 bits are display
       values already and keep their full scale, as a PNG does. Deeper films fill a part of their range that
       differs between detectors, so they go from the 0.1 to the 99.9 percentile of their pixels: markers and
       dead pixels do not decide the contrast ("no_window").
    4. MONOCHROME1 is inverted. In these objects Presentation LUT Shape only says the same once more and is
       not applied again; where the two disagree Photometric Interpretation holds ("polarity_conflict").
    5. Pixel padding becomes black, whatever the polarity, and takes no part in step 3.

    Colour captures become their luminance, without steps 2 to 5. A file without transfer syntax is read as
    implicit little endian unless its bytes are plainly explicit ("no_transfer_syntax").
    Raises DataError for a file that is no DICOM, has no pixels, several frames, more than 16 bits or 100
    megapixels, cut-off pixels or an unsupported transfer syntax. Messages and issues never name the patient.
    """
    with _opened_dicom(path) as file:
        header = _dataset(file, path, stop_before_pixels=True)
        _refuse_unsuitable(header, path)
        file.seek(0)
        dataset = _dataset(file, path)
        issues = ["no_transfer_syntax"] if _name_transfer_syntax(dataset) else []
        stored = _decode(dataset, path)
        if dataset.get("SamplesPerPixel", 1) == 1 and dataset.PhotometricInterpretation != "PALETTE COLOR":
            pixels, found = _grey(stored, dataset)
        else:
            pixels, found = _grey_from_colour(stored, dataset)
        issues += found
        if pixels.min() == pixels.max():
            issues.append("blank")
        if (spacing_mm := _spacing_mm(dataset)) is None:
            issues.append("no_spacing")
        view = _view(dataset)
        if view not in ("PA", "AP"):
            issues.append("lateral" if view else "unknown_view")
        modality = _text(dataset, "Modality").upper()
        if modality not in PROJECTIONS:
            issues.append(
                f"modality_{modality}" if re.fullmatch(r"[A-Z]{2,16}", modality) else "modality_unknown"
            )
    return Radiograph(pixels, spacing_mm, view, tuple(issues))


# --- files --------------------------------------------------------------------------------------------------


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
def _opened_dicom(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A film file, open, while pydicom does not validate values: its warnings quote them into logs."""
    from pydicom.config import disable_value_validation

    with disable_value_validation(), opened(path) as file:
        yield file


def _dataset(file: BinaryIO, path: str | os.PathLike[str], **options: Any) -> Dataset:
    from pydicom import dcmread

    if not _starts_as_dicom(file):
        raise DataError(
            f"{path} is not a DICOM file: it has no DICM mark and does not start with a DICOM element."
        )
    return dcmread(file, force=True, **options)  # force: the preamble may be missing, see _starts_as_dicom


def _refuse_unsuitable(header: Dataset, path: str | os.PathLike[str]) -> None:
    if "Rows" not in header or "Columns" not in header:
        kind = getattr(header.get("SOPClassUID"), "name", "") or "DICOM object"
        raise DataError(f"{path} has no pixel data, it is a {kind}: leave it out.")
    refuse_huge(path, int(header.Columns), int(header.Rows))
    if (frames := header.get("NumberOfFrames") or 1) > 1:
        raise DataError(f"{path} has {int(frames)} frames: a film has one. Export the wanted frame alone.")
    if (bits := header.get("BitsAllocated", 16)) > 16:
        raise DataError(f"{path} has {int(bits)} bits per pixel: films have at most 16. Export it with 16.")


def _name_transfer_syntax(dataset: Dataset) -> bool:
    """Give a data set without transfer syntax the one pydicom found its elements in; True if it had none."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if dataset.file_meta.get("TransferSyntaxUID"):
        return False
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return True


def _decode(dataset: Dataset, path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Stored values (H, W), or (H, W, 3) in RGB, as the transfer syntax holds them."""
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import JPEGBaseline8Bit, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

    if "PixelData" not in dataset:
        raise DataError(f"{path} lacks its pixel data, or their end: copy it again from its source.")
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        supported = get_decoder(syntax).is_available
    except NotImplementedError:
        supported = False
    if not supported:
        raise DataError(
            f"{path} uses the transfer syntax {syntax.name}, which cannot be decoded here: "
            "export it uncompressed or as JPEG 2000, for example with gdcmconv --raw."
        )
    if dataset["PixelData"].is_undefined_length and not syntax.is_encapsulated:
        raise DataError(f"{path} is compressed but does not name its transfer syntax: export it again.")
    # gdcm's 8-bit JPEG codec can end the whole process on damaged bytes; Pillow's refuses them
    plugin = "pillow" if syntax == JPEGBaseline8Bit else ""
    try:
        if syntax in JPEGTransferSyntaxes + JPEGLSTransferSyntaxes:
            _check_frame_header(dataset)
        # unused bits are masked in _codes; a view is enough, because nothing writes into it
        stored: npt.NDArray[Any] = pixel_array(
            dataset, view_only=True, correct_unused_bits=False, decoding_plugin=plugin
        )
    except Exception as error:  # codecs raise anything on damaged bytes
        raise damaged(path, error) from error
    return stored


def _check_frame_header(dataset: Dataset) -> None:
    """Raise ValueError unless a JPEG frame is of the size the data set says.

    gdcm's codecs believe the frame, write past the memory reserved for the data set's size, and may end the
    whole process.
    """
    from pydicom.encaps import generate_frames

    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    position = 2
    while (marker := frame[position + 1]) not in START_OF_FRAME:
        if frame[position] != 0xFF:
            raise ValueError("its JPEG frame has a broken marker")
        # one segment on, or one fill byte
        position += 1 if marker == 0xFF else 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
    precision, *found = struct.unpack_from(">BHHB", frame, position + 4)
    expected = [dataset.Rows, dataset.Columns, dataset.SamplesPerPixel]
    if found != expected or not 2 <= precision <= dataset.BitsAllocated:
        raise ValueError(
            f"its JPEG frame holds {found} rows, columns and samples of {precision} bits, "
            f"its header announces {expected} of at most {dataset.BitsAllocated}"
        )


# --- grey scale ---------------------------------------------------------------------------------------------


def _grey(stored: npt.NDArray[Any], dataset: Dataset) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Pixels (H, W) in [0, 1] of a MONOCHROME film, and the issues found on the way."""
    codes, values = _codes(stored, dataset)
    padding = _padding(values, dataset)
    present = np.zeros(len(values), dtype=bool)
    present[codes] = True
    issues = ["padding"] if (present & padding).any() else []
    modality, found = _modality(values, dataset)
    shown, voi = _voi(modality, present & ~padding, dataset)
    if shown is None:
        counts = np.bincount(codes.ravel(), minlength=len(values)) * ~padding
        shown = _from_range(modality, counts, _announced(values, int(dataset.BitsStored)))
    monochrome1 = dataset.PhotometricInterpretation == "MONOCHROME1"
    if monochrome1:
        shown = 1 - shown
    table = np.where(padding, 0, shown).astype(np.float32)
    shape = _text(dataset, "PresentationLUTShape")
    if shape == ("IDENTITY" if monochrome1 else "INVERSE"):
        voi.append("polarity_conflict")
    if _text(dataset, "PresentationIntentType") == "FOR PROCESSING":
        voi.append("for_processing")
    return table[codes], issues + found + voi


def _codes(stored: npt.NDArray[Any], dataset: Dataset) -> tuple[npt.NDArray[Any], Values]:
    """The used bits of each pixel as an unsigned number, and the stored value each such number stands for."""
    from pydicom.uid import RLELossless

    codes = stored.view(stored.dtype.str.replace("i", "u"))
    bits, allocated = int(dataset.BitsStored), 8 * codes.dtype.itemsize
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != RLELossless:
        bits = allocated  # the codec returned whole numbers; a wrong Bits Stored must not wrap them around
    else:
        shift = max(int(dataset.get("HighBit", bits - 1)) + 1 - bits, 0)
        if shift:
            codes = codes >> codes.dtype.type(shift)
        if bits < allocated:
            codes = codes & codes.dtype.type(2**bits - 1)
    values = np.arange(2**bits, dtype=np.float64)
    if dataset.PixelRepresentation == 1:
        values[2 ** (bits - 1) :] -= 2**bits  # two's complement
    return codes, values


def _padding(values: Values, dataset: Dataset) -> Mask:
    """Which stored values are Pixel Padding Value, or up to Pixel Padding Range Limit (PS3.3 C.7.5.1.1.2)."""
    ends = _numbers(dataset, "PixelPaddingValue")[:1]
    if not ends:
        return np.zeros(len(values), dtype=bool)
    ends += _numbers(dataset, "PixelPaddingRangeLimit")[:1]
    if values.min() < 0:
        ends = tuple(_as_signed(end) for end in ends)  # some writers call a negative value US
    return (values >= min(ends)) & (values <= max(ends))


def _modality(values: Values, dataset: Dataset) -> tuple[Values, list[str]]:
    """Stored values -> the detector's units (PS3.3 C.11.1)."""
    if sequence := dataset.get("ModalityLUTSequence"):
        if table := _lookup_table(sequence[0], signed=bool(values.min() < 0)):
            return _look_up(values, *table[:2]), []
        return values, ["bad_rescale"]
    if "RescaleSlope" not in dataset and "RescaleIntercept" not in dataset:
        return values, []
    slope, intercept = _numbers(dataset, "RescaleSlope"), _numbers(dataset, "RescaleIntercept")
    if not slope or not intercept or slope[0] == 0:
        return values, ["bad_rescale"]
    return values * slope[0] + intercept[0], []


def _voi(modality: Values, visible: Mask, dataset: Dataset) -> tuple[Values | None, list[str]]:
    """The detector's units -> [0, 1] by VOI LUT or window (PS3.3 C.11.2); None where neither is usable."""
    candidates = []
    if sequence := dataset.get("VOILUTSequence"):
        table = _lookup_table(sequence[0], signed=bool(modality.min() < 0))
        candidates.append(table and _look_up(modality, *table[:2]) / table[2])
    if "WindowCenter" in dataset or "WindowWidth" in dataset:
        candidates.append(_window(modality, dataset))
    for shown in candidates:
        if shown is not None and _shows_something(shown[visible]):
            return shown, [] if shown is candidates[0] else ["bad_window"]
    return None, ["bad_window"] if candidates else ["no_window"] if int(dataset.BitsStored) > 8 else []


def _shows_something(shown: Values) -> bool:
    """Whether a window tells two of the film's values apart, by more than black from white."""
    return len(shown) < 2 or bool(np.ptp(shown) >= 1 / 255 and ((shown > 0) & (shown < 1)).any())


def _window(modality: Values, dataset: Dataset) -> Values | None:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3; None for a window that is none."""
    centers, widths = _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth")
    function = _text(dataset, "VOILUTFunction") or "LINEAR"
    if not centers or not widths or widths[0] <= 0:
        return None
    center, width = centers[0], widths[0]
    if function == "SIGMOID":
        sigmoid: Values = 1 / (1 + np.exp(np.clip(-4 * (modality - center) / width, -80, 80)))
        return sigmoid
    if function == "LINEAR":  # "LINEAR" is defined for integers: a window of width 256 tells 256 values apart
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        return None
    if width <= 0:
        return (modality > center).astype(np.float64)
    line: Values = np.clip((modality - center) / width + 0.5, 0, 1)
    return line


def _announced(values: Values, bits: int) -> Mask | None:
    """Which stored values a shallow film (up to 8 bits) has by its header; None for a deeper film."""
    if bits > 8:
        return None
    lowest = -(2 ** (bits - 1)) if values.min() < 0 else 0
    return (values >= lowest) & (values < lowest + 2**bits)


def _from_range(modality: Values, counts: npt.NDArray[np.int64], announced: Mask | None) -> Values:
    """[0, 1] without a window: see `read_dicom`, step 3. counts: how many pixels have each stored value."""
    if announced is not None:
        # an encoder may have written 8 bits into 16, and a header may announce less than there is
        scale = modality[announced | (counts > 0)]
        low, high = scale.min(), scale.max()
    elif counts.any():
        order = np.argsort(modality, kind="stable")
        cumulated = np.cumsum(counts[order])
        low, high = modality[order][np.searchsorted(cumulated, np.array([0.001, 0.999]) * cumulated[-1])]
        if low == high:  # nearly all pixels are equal: the others still count
            low, high = modality[counts > 0].min(), modality[counts > 0].max()
    else:
        low, high = modality.min(), modality.max()
    span = high - low or 1.0  # a film of one value is black
    stretched: Values = np.clip((modality - low) / span, 0, 1)
    return stretched


def _lookup_table(item: Dataset, *, signed: bool) -> tuple[Values, float, float] | None:
    """Entries, first mapped value and full scale of a LUT item (PS3.3 C.11.1.1); None if unusable."""
    descriptor = _numbers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    count = int(descriptor[0]) or 2**16
    data = item.get("LUTData")
    if isinstance(data, bytes):  # OW, or 8-bit entries side by side
        wide = len(data) >= 2 * count
        little = item.original_encoding[1] is not False
        entries = np.frombuffer(data, dtype=("<u2" if little else ">u2") if wide else "u1").astype(np.float64)
    else:
        entries = np.array(_numbers(item, "LUTData"))
    entries = entries[:count]
    if len(entries) == 0:
        return None
    first = _as_signed(descriptor[1]) if signed else descriptor[1]
    # some writers understate the bits of an entry; values above full scale would all be white
    return entries, first, max(2 ** descriptor[2] - 1, entries.max(), 1)


def _look_up(values: Values, entries: Values, first: float) -> Values:
    return entries[np.clip(np.rint(values - first), 0, len(entries) - 1).astype(np.intp)]


def _as_signed(value: float) -> float:
    return value - 2**16 if value >= 2**15 else value


def _grey_from_colour(
    stored: npt.NDArray[Any], dataset: Dataset
) -> tuple[npt.NDArray[np.float32], list[str]]:
    from pydicom.pixels import apply_color_lut

    bits = int(dataset.BitsStored)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        bits = 8 * stored.dtype.itemsize
    red_green_blue = (stored >> max(bits - 8, 0)).astype(np.uint8)
    grey, coloured = luminance(Image.fromarray(red_green_blue))
    return np.divide(np.asarray(grey), 255, dtype=np.float32), ["colour"] * coloured


# --- description --------------------------------------------------------------------------------------------


def _text(dataset: Dataset, keyword: str) -> str:
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


def _numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The numbers of an element; nothing where it is absent, empty, or not made of finite numbers."""
    try:
        values = np.array(dataset.get(keyword), dtype=np.float64).ravel()
    except (ValueError, TypeError, OverflowError):
        return ()
    return tuple(values.tolist()) if np.isfinite(values).all() else ()


def _view(dataset: Dataset) -> str | None:
    if view := VIEWS.get(_text(dataset, "ViewPosition").upper()):
        return view
    codes = dataset.get("ViewCodeSequence")
    return VIEWS.get(_text(codes[0], "CodeValue").upper()) if codes else None


def _spacing_mm(dataset: Dataset) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = _numbers(dataset, keyword)
        if len(spacing) == 2 and min(spacing) > 0:
            return spacing
    return None


def _age(dataset: Dataset) -> float:
    if match := re.fullmatch(r"(\d{1,3})([DWMY])", _text(dataset, "PatientAge").upper()):
        return int(match[1]) / {"D": 365.25, "W": 365.25 / 7, "M": 12, "Y": 1}[match[2]]
    try:
        born, seen = (
            datetime.datetime.strptime(_text(dataset, keyword), "%Y%m%d")
            for keyword in ("PatientBirthDate", "StudyDate")
        )
    except ValueError:
        return math.nan
    years = (seen - born).days / 365.25
    return years if years >= 0 else math.nan

"""DICOM -> Radiograph: the door to the three modules beside this one (header, decode, render)."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from evax.data.dicom_decode import decode, name_transfer_syntax
from evax.data.dicom_header import (
    DicomHeader,
    is_dicom,
    opened_dicom,
    read_dataset,
    read_header,
    spacing_mm_of,
    text,
    view_of,
)
from evax.data.dicom_render import grey, grey_from_colour
from evax.data.radiograph import Radiograph, refuse_huge
from evax.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["DicomHeader", "is_dicom", "read_dicom", "read_header"]

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
    with opened_dicom(path) as file:
        header = read_dataset(file, path, stop_before_pixels=True)
        _refuse_unsuitable(header, path)
        file.seek(0)
        dataset = read_dataset(file, path)
        issues = ["no_transfer_syntax"] if name_transfer_syntax(dataset) else []
        stored = decode(dataset, path)
        if dataset.get("SamplesPerPixel", 1) == 1 and dataset.PhotometricInterpretation != "PALETTE COLOR":
            pixels, found = grey(stored, dataset)
        else:
            pixels, found = grey_from_colour(stored, dataset)
        issues += found
        if pixels.min() == pixels.max():
            issues.append("blank")
        if (spacing_mm := spacing_mm_of(dataset)) is None:
            issues.append("no_spacing")
        view = view_of(dataset)
        if view not in ("PA", "AP"):
            issues.append("lateral" if view else "unknown_view")
        modality = text(dataset, "Modality").upper()
        if modality not in PROJECTIONS:
            issues.append(
                f"modality_{modality}" if re.fullmatch(r"[A-Z]{2,16}", modality) else "modality_unknown"
            )
    return Radiograph(pixels, spacing_mm, view, tuple(issues))


def _refuse_unsuitable(header: Dataset, path: str | os.PathLike[str]) -> None:
    if "Rows" not in header or "Columns" not in header:
        kind = getattr(header.get("SOPClassUID"), "name", "") or "DICOM object"
        raise DataError(f"{path} has no pixel data, it is a {kind}: leave it out.")
    refuse_huge(path, int(header.Columns), int(header.Rows))
    if (frames := header.get("NumberOfFrames") or 1) > 1:
        raise DataError(f"{path} has {int(frames)} frames: a film has one. Export the wanted frame alone.")
    if (bits := header.get("BitsAllocated", 16)) > 16:
        raise DataError(f"{path} has {int(bits)} bits per pixel: films have at most 16. Export it with 16.")

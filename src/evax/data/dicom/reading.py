"""A DICOM file -> a Radiograph: its header, then the stored values, then what a workstation shows of them."""

from __future__ import annotations

import os

from pydicom import Dataset
from pydicom.datadict import dictionary_description
from pydicom.tag import Tag

from evax.data.dicom.decode import decode, name_transfer_syntax
from evax.data.dicom.header import (
    describe_header,
    header_issues,
    known_name,
    opened_dicom,
    read_dataset,
    text,
)
from evax.data.dicom.render import grey, grey_from_colour
from evax.data.orientation import orientation_issues
from evax.data.radiograph import Radiograph, check_size
from evax.data.views import NOT_FRONTAL
from evax.errors import DataError

# what decoding cannot do without; High Bit follows from Bits Stored (PS3.3 C.7.6.3.1)
REQUIRED = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "PixelRepresentation",
)  # fmt: skip
PHOTOMETRIC = {  # samples per pixel: the meanings of their values that are known
    1: ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"),
    3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"),
}


def read_dicom(path: str | os.PathLike[str]) -> Radiograph:
    """Read one projection image as it is meant to be seen (PS3.4 N.2): values in [0, 1], bright = dense.

    1. Stored values: Bits Stored, High Bit and Pixel Representation, whatever the transfer syntax; other bits
       (old overlays) are masked, unless the picture shows that Bits Stored is too small ("bad_bits_stored").
       Where a code stream contradicts the header or has values beyond it, the stream holds
       ("bits_conflict", "sign_conflict", "colour_conflict", "samples_conflict").
    2. Modality LUT, or rescale slope and intercept.
    3. The first usable VOI LUT, or else the first usable window (LINEAR, LINEAR_EXACT, SIGMOID). One that
       leaves no grey between black and white, or whose centre is beyond all values that the image's bits can
       have, or that is of the sign that the stream has not, is passed over ("bad_window"). Without any,
       images of up to 8 bits are display values already and keep their full scale, as a PNG does. Deeper
       images fill a part of their range that differs between detectors, so they go from the 0.1 to the 99.9
       percentile of their pixels: markers and dead pixels do not decide the contrast ("no_window").
    4. MONOCHROME1 is inverted. In these objects Presentation LUT Shape only says the same once more and is
       not applied again; where the two disagree Photometric Interpretation holds ("polarity_conflict").
       Where the pixels contradict the tag it still holds, and "looks_inverted" says so.
    5. Pixel padding becomes black, whatever the polarity, and takes no part in step 3.

    Overlay planes beside the pixels are not drawn. Colour captures become their luminance, without steps 2
    to 5. A file without transfer syntax is read as implicit little endian unless its bytes are plainly
    explicit ("no_transfer_syntax").
    Raises DataError for a file that is no DICOM, has no pixels, several frames, more than 16 bits or 100
    megapixels, cut-off pixels, an unsupported transfer syntax, an unknown photometric interpretation, a code
    stream of another size than the header says, or lacks an element that decoding needs.
    Messages and issues never name the patient.
    """
    with opened_dicom(path) as file:
        _check_suitable(read_dataset(file, path, stop_before_pixels=True), path)
        file.seek(0)
        dataset = read_dataset(file, path)
        if "PixelData" not in dataset:
            raise DataError(f"{path} lacks its pixel data, or their end: copy it again from its source.")
        issues = ["no_transfer_syntax"] if name_transfer_syntax(dataset) else []
        _check_photometric(dataset, path)
        stored, found = decode(dataset, path)
        issues += found
        if text(dataset, "PhotometricInterpretation").startswith("MONOCHROME"):
            pixels, found = grey(stored, dataset)
        else:
            pixels, found = grey_from_colour(stored, dataset)
        header = describe_header(dataset)
        issues += found + ["blank"] * bool(pixels.min() == pixels.max()) + header_issues(header)
        if header.is_chest_image and header.view not in NOT_FRONTAL:
            issues += orientation_issues(pixels)
    return Radiograph(pixels, header.spacing_mm, header.view, tuple(issues))


def _check_suitable(header: Dataset, path: str | os.PathLike[str]) -> None:
    if "Rows" not in header and "Columns" not in header:
        kind = known_name(header.get("SOPClassUID")) or "DICOM object"
        raise DataError(f"{path} has no pixel data, it is a {kind}: leave it out.")
    _check_present(header, path, REQUIRED)
    check_size(path, int(header.Columns), int(header.Rows))
    if (frames := header.get("NumberOfFrames") or 1) > 1:
        raise DataError(f"{path} has {int(frames)} frames: an image has one. Export the wanted frame alone.")
    if (bits := header.get("BitsAllocated", 16)) > 16:
        raise DataError(f"{path} has {int(bits)} bits per pixel: images have at most 16. Export it with 16.")


def _check_present(dataset: Dataset, path: str | os.PathLike[str], keywords: tuple[str, ...]) -> None:

    for keyword in keywords:
        if dataset.get(keyword) in (None, ""):
            tag = Tag(keyword)
            number = f"({tag.group:04X},{tag.element:04X})"
            raise DataError(
                f"{path} lacks {dictionary_description(tag)} {number}, without which its pixels cannot be "
                f'read: export it again, or add the right value, as by dcmodify -i "{number}=VALUE".'
            )


def _check_photometric(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Raise DataError unless the meaning of the values is known; a guess would show one image in two wrong."""
    photometric, samples = text(dataset, "PhotometricInterpretation"), dataset.SamplesPerPixel
    is_native = not dataset["PixelData"].is_undefined_length
    if is_native and samples == 3:
        _check_present(dataset, path, ("PlanarConfiguration",))
    if is_native and "PARTIAL" in photometric:
        raise DataError(
            f"{path} holds {photometric} pixels without compression, a retired form: export it as RGB."
        )
    if photometric not in PHOTOMETRIC.get(samples, ()):
        raise DataError(
            f"{path} does not say which of its values is white: Photometric Interpretation is none of "
            f"{', '.join(PHOTOMETRIC.get(samples, PHOTOMETRIC[1]))}. Export it again from its source."
        )

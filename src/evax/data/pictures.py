"""A film file -> a Radiograph: the one door for PNG, JPEG, TIFF and DICOM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from evax.data.dicom import is_dicom, read_dicom
from evax.data.orientation import orientation_issues
from evax.data.radiograph import Radiograph, luminance, opened, refuse_huge
from evax.errors import ConfigError, DataError

DETECTOR_BITS = (8, 10, 12, 14)  # depths that are commonly saved in 16-bit files without being scaled up
TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # tag of the TIFF 6.0 standard, and its value for inverted films


def read_image(path: str | os.PathLike[str], bits: int | None = None) -> Radiograph:
    """Read one image, whatever its format; the format is found in the content, the suffix does not matter.

    bits: depth of the detector, 1 to 16, for integers of more than 8 bits: they are divided by 2**bits - 1,
    and larger values become white ("above_bits"). Without it the depth is guessed from the image alone. It
    does not concern 8-bit and float pictures, nor DICOM, whose header states the depth.

    - 8 bits are divided by 255 and 16 bits by 65535, so a dark film stays dark. Without `bits`, where the top
      two of 16 bits are never used, the image is taken for 8, 10, 12 or 14 bits deep, whichever is the
      smallest that holds it ("narrow_range"): a dark image may be taken for a shallower one.
    - Float TIFF within [0, 1] is taken as it is.
    - Colours become their luminance (ITU-R 601), transparent parts black: what a dark screen would show.
    - EXIF orientation is applied, and a TIFF whose white is zero is inverted.
    - DICOM: see `read_dicom`.

    Raises DataError, naming the file, the reason and the next step, for whatever is not one such picture.
    """
    if bits is not None and not 1 <= bits <= 16:
        raise ConfigError(f"bits must lie between 1 and 16, got {bits}.")
    return read_dicom(path) if is_dicom(path) else _read_picture(path, bits)


def largest_deep_value(path: str | os.PathLike[str]) -> int | None:
    """The largest stored value of a picture of integers of more than 8 bits; None for any other image.

    It tells how many bits the images of a data set have in common. The picture is decoded. Raises DataError
    as read_image.
    """
    if is_dicom(path):
        return None
    with _upright(path) as (image, _):
        return int(np.asarray(image).max()) if image.mode[0] == "I" else None


def _read_picture(path: str | os.PathLike[str], bits: int | None) -> Radiograph:
    with _upright(path) as (image, white_is_zero):
        pixels, issues = _grey(image, path, bits)
    if white_is_zero:
        np.subtract(1, pixels, out=pixels)
    if pixels.min() == pixels.max():
        issues.append("blank")
    return Radiograph(pixels, issues=(*issues, *orientation_issues(pixels)))


@contextmanager
def _upright(path: str | os.PathLike[str]) -> Iterator[tuple[Image.Image, bool]]:
    with opened(path) as file:
        try:
            image: Image.Image = Image.open(file, formats=("PNG", "JPEG", "TIFF"))
        except UnidentifiedImageError as error:
            raise DataError(
                f"{path} is not a readable PNG, JPEG, TIFF or DICOM file: convert it to one of these, "
                "or copy it again from its source."
            ) from error
        except Image.DecompressionBombError as error:
            raise DataError(f"{path} is too large: {error} Resize or crop it.") from error
        refuse_huge(path, *image.size)
        if image.format == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
            raise DataError(f"{path} has {pages} pages, and which one is the film is unknown: save it alone.")
        white_is_zero = _white_is_zero(image)
        ImageOps.exif_transpose(image, in_place=True)
        yield image, white_is_zero


def _white_is_zero(image: Image.Image) -> bool:
    """Whether the values of a TIFF are inverted and Pillow leaves them so (it inverts 1 and 8 bits)."""
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    return image.mode[0] in "IF" and tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO


def _grey(
    image: Image.Image, path: str | os.PathLike[str], bits: int | None
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Pixels (H, W) in [0, 1] of a Pillow picture of any mode, and the issues found on the way."""
    if image.mode == "F":
        return _grey_from_float(np.array(image), path)
    if image.mode[0] == "I":  # I, I;16, I;16B: integers of 16 or 32 bits
        return _grey_from_16_bits(np.asarray(image), path, bits)
    issues = []
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            issues.append("transparent")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode != "L":
        image, coloured = luminance(image.convert("RGB"))
        issues += ["colour"] * coloured
    return np.divide(np.asarray(image), 255, dtype=np.float32), issues


def _grey_from_16_bits(
    stored: npt.NDArray[Any], path: str | os.PathLike[str], bits: int | None
) -> tuple[npt.NDArray[np.float32], list[str]]:
    lowest, highest = int(stored.min()), int(stored.max())
    if lowest < 0 or highest > 65535:
        raise DataError(
            f"{path} holds integers from {lowest} to {highest}, and which of them is white is unknown: "
            "save it with 16 bits, 0 to 65535."
        )
    if bits is None:
        bits = next((bits for bits in DETECTOR_BITS if highest < 2**bits), 16)
        issues = ["narrow_range"] if bits < 16 and highest > 0 else []
    else:
        issues = ["above_bits"] if highest >= 2**bits else []
    pixels = np.divide(np.minimum(stored, 2**bits - 1), 2**bits - 1, dtype=np.float32)
    return pixels, issues


def _grey_from_float(
    values: npt.NDArray[np.float32], path: str | os.PathLike[str]
) -> tuple[npt.NDArray[np.float32], list[str]]:
    lowest, highest = float(values.min()), float(values.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise DataError(f"{path} holds values that are not numbers (NaN or infinite): save it with 16 bits.")
    if lowest >= 0 and highest <= 1:
        return values, []
    # in double precision, because the difference of two large floats may overflow in single
    scaled = (values.astype(np.float64) - lowest) / max(highest - lowest, np.finfo(np.float64).tiny)
    return scaled.astype(np.float32), ["stretched"]

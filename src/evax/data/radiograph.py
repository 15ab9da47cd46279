"""Radiograph: one image as a picture; and what every reader of image files needs."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from evax.errors import DataError, EvaxError

MAX_PIXELS = (
    100_000_000  # four times the largest chest detector; more is a slide scan or a decompression bomb
)
ROUNDING = 1e-4  # by which a resampled image may leave [0, 1]: far below half a level of 8 bits
DETECTOR_BITS = (8, 10, 12, 14)  # depths that are commonly saved in 16-bit files without being scaled up
MARKER = 0.01  # share of a picture's pixels that burnt-in markers may cover
NEARLY_BLACK = 4  # so many bits too few: white shows as a sixteenth
FILM_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")  # lower case; a DICOM may have any


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One image as a grey picture, with what its file says about it.

    `issues` are short stable names:

    - any file: "blank" (one grey value only), "colour" (a colour picture, read as its luminance),
      "looks_inverted", "looks_rotated" (liker a chest the other way round: look at it);
    - pictures: "transparent" (laid over black), "narrow_range" (16-bit file that holds 14 bits or fewer: its
      depth is guessed), "above_bits" (larger values than the depth that was named or guessed, shown white),
      "below_bits" (no value reaches a sixteenth of white at the depth that was named),
      "stretched" (float file outside [0, 1], taken from its minimum to its maximum);
    - DICOM, grey scale: "no_window" (range estimated), "bad_window" (window or VOI LUT ignored),
      "bad_rescale" (rescale ignored), "bad_bits_stored" (too few; all bits are used), "padding" (set to
      black), "polarity_conflict" (Presentation LUT Shape contradicts Photometric Interpretation),
      "for_processing" (raw detector values);
    - DICOM, where its code stream or its pixels contradict the header, which is then not followed:
      "bits_conflict" (Bits Stored, High Bit), "sign_conflict" (Pixel Representation), "samples_conflict"
      (Samples per Pixel), "colour_conflict" (Photometric Interpretation: RGB or YBR);
    - DICOM, description: "no_transfer_syntax" (guessed), "no_spacing", "lateral", "other_view" (axial and
      the like), "unknown_view", "view_conflict" (Patient Orientation is of no frontal image), "rotated",
      "mirrored" (Patient Orientation), "modality_CT" and the like (not a projection image), "body_part_HAND"
      and the like, "burned_in_annotation" (text in the pixels identifies the patient).

    None of them changes a pixel beyond what its words say: nothing is turned or inverted on suspicion.

    Raises DataError for pixels that `checked_pixels` refuses, and for a spacing that is not two positive
    numbers.
    """

    pixels: npt.NDArray[np.float32]
    """(H, W) in [0, 1], bright = dense. Other floating-point types are converted to float32."""
    spacing_mm: tuple[float, float] | None = None
    """Distance of pixel rows and of pixel columns; None where the file does not say."""
    view: str | None = None
    """"PA", "AP", "LATERAL" or "OTHER" (axial and the like); None where the file does not say."""
    issues: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", checked_pixels(self.pixels))
        spacing: Any = self.spacing_mm
        sides = () if not isinstance(spacing, tuple | list) else spacing
        if spacing is not None and not (
            len(sides) == 2 and all(isinstance(side, Real) and 0 < float(side) < math.inf for side in sides)
        ):
            raise DataError(
                f"spacing_mm is the distance of rows and of columns, two positive numbers, or None: got "
                f"{spacing}."
            )


def checked_pixels(pixels: Any) -> npt.NDArray[np.float32]:
    """A grey picture as float32, itself where it is one.

    pixels: (H, W) of any floating-point type in [0, 1]; a rounding error of up to ROUNDING beyond is clipped.
    Raises DataError for anything else, with what to do.
    """
    if not isinstance(pixels, np.ndarray):
        raise DataError(
            f"The pixels of an image are a NumPy array, got {type(pixels).__name__}: evax.read_image reads a "
            "file, numpy.asarray converts a tensor on the CPU."
        )
    if pixels.ndim != 2 or not pixels.size:
        raise DataError(
            f"An image is one grey picture of shape (height, width), got an array of shape {pixels.shape}: "
            "pass one image at a time, without a channel axis."
        )
    if not np.issubdtype(pixels.dtype, np.floating):
        raise DataError(
            f"Pixels are floating-point numbers in [0, 1], got {pixels.dtype}: convert them to float32 and "
            "divide by the value of white, 255 for 8 bits and 4095 for 12 bits."
        )
    lowest, highest = float(pixels.min()), float(pixels.max())
    if not (lowest >= -ROUNDING and highest <= 1 + ROUNDING):  # NaN compares false
        raise DataError(
            f"Pixels lie in [0, 1] with white at 1, got {lowest:g} to {highest:g}: "
            + (
                "replace what is not a finite number."
                if not (math.isfinite(lowest) and math.isfinite(highest))
                else "subtract the value of black, then divide by that of white (255 for 8 bits)."
            )
        )
    if lowest < 0 or highest > 1:
        pixels = pixels.clip(0, 1)
    return pixels.astype(np.float32, copy=False)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """An image file, open; whatever its bytes make a decoder raise inside the block leaves as a DataError."""
    try:
        kind = os.stat(path)
        if stat.S_ISDIR(kind.st_mode):
            raise DataError(f"{path} is a folder, not an image: name one of its files.")
        if not stat.S_ISREG(kind.st_mode):
            raise DataError(f"{path} is a device or pipe, not an image: save the image to a file first.")
        if kind.st_size == 0:
            raise DataError(f"{path} is empty (0 bytes): copy it again from its source.")
        with Path(path).open("rb") as file:
            yield file
    except EvaxError:
        raise
    except OSError as error:
        if error.errno is None:  # from a decoder, not from the file system
            raise damaged(path, error) from error
        raise DataError(
            f"{path} cannot be opened: {error.strerror}. Check the path and its permissions."
        ) from error
    except Exception as error:
        # decoders raise anything on damaged bytes: SyntaxError, struct.error, KeyError, MemoryError
        raise damaged(path, error) from error


def damaged(path: str | os.PathLike[str], error: Exception | str) -> DataError:
    """The DataError for a file that a decoder could not read, with the decoder's reason on one line."""
    reason = " ".join(str(error).split())[:200].rstrip(".:") or type(error).__name__
    return DataError(f"{path} is damaged or of an unsupported kind: {reason}. Copy it again from its source.")


def check_size(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Raise DataError for a picture above MAX_PIXELS, before any of it is decoded."""
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{path} has {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels: "
            "this is no single radiograph; resize or crop it."
        )


def usual_depth(highest: int) -> int:
    """The smallest usual depth in bits that holds a value."""
    return next((bits for bits in DETECTOR_BITS if highest < 2**bits), 16)


def to_grey(values: npt.NDArray[Any], bits: int | None = None) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Pixels (H, W) in [0, 1], and the issues found on the way.

    values: (H, W), or (H, W, 3) red, green and blue; integers from 0 to 65535. bits: their depth; without it
    the smallest usual depth that holds them ("narrow_range"), or all but the brightest MARKER of them where
    the picture would be nearly black otherwise. Larger values become white ("above_bits"); where no value
    reaches a sixteenth of white, the picture may be of a shallower detector ("below_bits").
    """
    highest, issues = int(values.max()), []
    if bits is not None:
        issues += ["below_bits"] * (bits > 8 and 0 < highest < 2 ** (bits - NEARLY_BLACK))
    else:
        bits = usual_depth(highest)
        without_markers = usual_depth(int(np.quantile(values, 1 - MARKER, method="lower")))
        if without_markers <= bits - NEARLY_BLACK:
            bits = without_markers
        issues += ["narrow_range"] * (bits < 16 and highest > 0)
    white = 2**bits - 1
    issues += ["above_bits"] * (highest > white)
    if highest > white:
        values = np.minimum(values, white)
    if values.ndim == 3:
        values, coloured = _luminance(values, white)
        issues += ["colour"] * coloured
    return np.divide(values, white, dtype=np.float32), issues


def _luminance(values: npt.NDArray[Any], white: int) -> tuple[npt.NDArray[Any], bool]:
    """Red, green and blue as grey at the same depth (ITU-R 601), and whether they are truly coloured.

    Coloured: in over 1% of the pixels two channels differ by more than 32 of 255; a grey image that was saved
    as RGB JPEG stays below that.
    """
    red, green, blue = (values[:, :, channel] for channel in range(3))
    apart = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    coloured = np.count_nonzero(apart > white * 32 / 255) > 0.01 * apart.size
    # the weights 0.299, 0.587 and 0.114 of 2**16, rounded as in Pillow: 16 bits just fit into 32
    grey = np.full(red.shape, 0x8000, dtype=np.uint32)
    for channel, weight in ((red, 19595), (green, 38470), (blue, 7471)):
        grey += np.multiply(channel, weight, dtype=np.uint32)
    return grey >> 16, bool(coloured)

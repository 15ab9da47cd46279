"""Radiograph: one film as a picture; and what every reader of film files needs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from evax.errors import DataError, EvaxError

MAX_PIXELS = (
    100_000_000  # four times the largest chest detector; more is a slide scan or a decompression bomb
)
FILM_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")  # lower case; a DICOM may have any


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One film as a grey picture, with what its file says about it.

    `issues` are short stable names:

    - any file: "blank" (one grey value only), "colour" (a colour picture, read as its luminance),
      "looks_inverted", "looks_rotated" (liker a chest the other way round: look at it);
    - pictures: "transparent" (laid over black), "narrow_range" (16-bit file that holds 14 bits or fewer: its
      depth is guessed), "above_bits" (larger values than the depth that was named, shown white),
      "stretched" (float file outside [0, 1], taken from its minimum to its maximum);
    - DICOM, grey scale: "no_window" (range estimated), "bad_window" (window or VOI LUT ignored),
      "bad_rescale" (rescale ignored), "bad_bits_stored" (too few; all bits are used), "padding" (set to
      black), "polarity_conflict" (Presentation LUT Shape contradicts Photometric Interpretation),
      "for_processing" (raw detector values);
    - DICOM, description: "no_transfer_syntax" (guessed), "no_spacing", "lateral", "unknown_view", "rotated",
      "mirrored" (Patient Orientation), "modality_CT" and the like (not a projection film), "body_part_HAND"
      and the like, "burned_in_annotation" (text in the pixels identifies the patient).

    None of them changes a pixel beyond what its words say: nothing is turned or inverted on suspicion.
    """

    pixels: npt.NDArray[np.float32]
    """(H, W) in [0, 1], bright = dense."""
    spacing_mm: tuple[float, float] | None = None
    """Distance of pixel rows and of pixel columns; None where the file does not say."""
    view: str | None = None
    """"PA", "AP" or "LATERAL"; None where the file does not say."""
    issues: tuple[str, ...] = ()


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A film file, open; whatever its bytes make a decoder raise inside the block leaves as a DataError."""
    try:
        kind = os.stat(path)
        if stat.S_ISDIR(kind.st_mode):
            raise DataError(f"{path} is a folder, not a film: name one of its files.")
        if not stat.S_ISREG(kind.st_mode):
            raise DataError(f"{path} is a device or pipe, not a film: save the film to a file first.")
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


def refuse_huge(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Raise DataError for a picture above MAX_PIXELS, before any of it is decoded."""
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{path} has {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels: "
            "this is no single radiograph; resize or crop it."
        )


def luminance(image: Image.Image) -> tuple[Image.Image, bool]:
    """An RGB picture as 8-bit grey (ITU-R 601), and whether it is truly coloured.

    Coloured: in over 1% of the pixels two channels differ by more than 32 of 255; a grey film that was saved
    as RGB JPEG stays below that.
    """
    red, green, blue = image.split()
    apart = ImageChops.lighter(ImageChops.difference(red, green), ImageChops.difference(green, blue))
    apart = ImageChops.lighter(apart, ImageChops.difference(red, blue))
    coloured = sum(apart.histogram()[33:]) > 0.01 * image.width * image.height
    return image.convert("L"), coloured

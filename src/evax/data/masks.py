"""Masks: pieces in picture files or run lengths -> one mask per finding at the store's size, in bits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from evax.data.radiograph import MAX_PIXELS, damaged, opened, refuse_huge
from evax.errors import DataError

Piece = tuple[str, str, str]
"""(finding, file, run lengths); file or run lengths is ""."""
ASPECT_TOLERANCE = 0.02  # of a mask against its film: masks are often drawn on a resized copy


def box_rle(height: int, width: int, box_px: tuple[int, int, int, int]) -> str:
    """The run lengths of a filled box.

    height, width: of the image in pixels. box_px: left, top, width, height in pixels, inside the image.
    """
    left, top, box_width, box_height = box_px
    first = f"{height} {width} {left * height + top} {box_height}"
    return first + f" {height - box_height} {box_height}" * (box_width - 1)


def decode_rle(text: str) -> Bool[np.ndarray, "H W"]:
    """Run lengths -> mask.

    text: "HEIGHT WIDTH outside inside outside ...", pixels counted down the columns, first those outside; the
    last run may be left away. "2 3 1 3" is [[0, 1, 0], [1, 1, 0]].
    Source: the uncompressed run lengths of COCO, which are also SIIM-ACR's (facts section 5.6).
    Raises DataError when the runs do not fit the image.
    """
    try:
        numbers = np.array(text.split(), dtype=np.int64)
    except ValueError as error:
        raise DataError(f"A mask's run lengths hold something else than numbers: '{text[:60]}'.") from error
    height, width = (int(number) for number in numbers[:2]) if len(numbers) >= 2 else (0, 0)
    runs = numbers[2:]
    pixels = max(height, 0) * max(width, 0)
    if not 0 < pixels <= MAX_PIXELS or (runs < 0).any() or (runs > pixels).any() or runs.sum() > pixels:
        raise DataError(f"A mask's run lengths do not fit an image of {height} x {width} pixels.")
    inside = np.zeros(pixels, dtype=bool)
    filled = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    inside[: len(filled)] = filled
    return np.ascontiguousarray(inside.reshape(width, height).T)


def read_mask(path: str | os.PathLike[str]) -> Bool[np.ndarray, "H W"]:
    """A mask picture: 1 inside where it holds 0 and 1 only, else the brighter half of its range.

    Raises DataError for a picture that cannot be read, and for one with other low values, such as a map of
    several classes, whose inside is unknown.
    """
    with opened(path) as file:
        try:
            image: Image.Image = Image.open(file, formats=("PNG", "JPEG", "TIFF", "BMP"))
        except (OSError, Image.DecompressionBombError) as error:
            raise damaged(path, error) from error
        refuse_huge(path, *image.size)
        values = np.asarray(image if image.mode[0] in "1LI" and image.mode != "LA" else image.convert("L"))
    if values.dtype == bool:
        return values.copy()
    top = int(values.max())
    scale = 1 if top <= 1 else 255 if top <= 255 else 65535
    if scale > 1 and top <= scale // 2:
        raise DataError(
            f"{path} holds values up to {top}, and which of them are inside is unknown: a mask has 0 and 1, "
            "or black and white. Save each class as a mask of its own."
        )
    return values > scale // 2


def stored_masks(
    pieces: Sequence[Piece], root: Path, film_shape: tuple[int, ...], size: int
) -> dict[str, bytes]:
    """Finding -> bits of the united pieces at the store's size, nearest pixel, row by row.

    root: folder of the files. film_shape: (H, W) of the film; a mask of another aspect raises DataError.
    """
    read: dict[tuple[str, str], Bool[np.ndarray, "S S"]] = {}
    united: dict[str, Bool[np.ndarray, "S S"]] = {}
    for finding, file, rle in pieces:
        if (file, rle) not in read:
            mask = read_mask(root / file) if file else decode_rle(rle)
            stretch = mask.shape[0] / mask.shape[1] * film_shape[1] / film_shape[0]
            if not 1 / (1 + ASPECT_TOLERANCE) <= stretch <= 1 + ASPECT_TOLERANCE:
                raise DataError(
                    f"The mask {file} of {finding} has {mask.shape[1]} x {mask.shape[0]} pixels and its film "
                    f"{film_shape[1]} x {film_shape[0]}: it belongs to another film or was cropped."
                )
            picture = Image.fromarray(mask.view(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
            read[file, rle] = np.asarray(picture) > 0
        mask = read[file, rle]
        united[finding] = united[finding] | mask if finding in united else mask
    return {finding: np.packbits(mask).tobytes() for finding, mask in united.items()}


def unpack(bits: bytes, size: int) -> Bool[np.ndarray, "S S"]:
    """A stored mask."""
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=size**2).view(bool).reshape(size, size)

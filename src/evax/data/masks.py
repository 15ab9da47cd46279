"""Masks: pieces in picture files or run lengths -> one mask per finding at the store's size, in bits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool
from PIL import Image

from evax.data.dicom import is_dicom
from evax.data.pictures import read_picture
from evax.data.radiograph import MAX_PIXELS
from evax.errors import DataError
from evax.files import path_of

Piece = tuple[str, str, str]
"""(finding, file, run lengths); file or run lengths is ""."""
LABELS = 8  # up to so many different values are classes, more are shades of grey
ASPECT_TOLERANCE = 0.02  # of a mask against its image: masks are often drawn on a resized copy


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


def read_mask(path: str | os.PathLike[str], mask_value: tuple[int, ...] = ()) -> Bool[np.ndarray, "H W"]:
    """The region that a mask picture shows, upright as every viewer shows it.

    mask_value: the grey value, or red, green and blue, of the inside; everything else is then outside.
    Without it the picture must have two values: 0 and 1, or a dark and a bright one, which the half of their
    range of 8 or 16 bits divides; or black and one colour. A picture of one such value is empty or full.
    Transparent parts are black; of a layer drawn in one colour, what is not transparent is inside.
    A border that JPEG or resizing has blurred adds grey values, but these fill no area: only values that
    fill a block of 3 x 3 pixels are counted in JPEG, of more than LABELS values, and where the others lie
    between a darker and a brighter neighbour.

    Raises DataError for any other picture, such as a map of several classes, with the values that it has.
    """
    if is_dicom(path):
        raise DataError(f"{path} is a DICOM file, and masks are read from pictures: save it as PNG.")
    picture = read_picture(path, ("PNG", "JPEG", "TIFF", "BMP"))
    values = picture.over_black()
    if picture.white_is_zero:
        values = _white(values) - values
    if mask_value:
        if values.ndim == 3 and len(mask_value) == 1:
            raise DataError(f"{path} has colours: name that of the inside, --mask-value RED GREEN BLUE.")
        if picture.lossy or (values.ndim == 2 and _is_blurred(values)):
            raise DataError(
                f"{path} has values between those of its regions, as JPEG and resizing make them, so "
                "--mask-value would lose a border: save each region as a mask of its own, black and white, "
                "which needs no --mask-value."
            )
        return np.asarray((np.atleast_3d(values) == np.array(mask_value)).all(axis=2))
    if picture.alpha is not None:
        if not picture.alpha.any() and (picture.values != picture.values[:1, :1]).any():
            raise DataError(f"{path} is transparent everywhere: save it without its alpha channel.")
        drawn = picture.values[picture.alpha > 0]
        if (drawn == drawn[:1]).all():
            values = np.rint(picture.alpha * 255).astype(np.uint8)
    if values.ndim == 3:
        red, green, blue = (values[:, :, channel].astype(np.uint64) for channel in range(3))
        colours = np.unique(red << 32 | green << 16 | blue)
        if len(colours) == 2 and colours[0] == 0:
            return np.asarray(values.any(axis=2))
        names = [f"{colour >> 32} {colour >> 16 & 0xFFFF} {colour & 0xFFFF}" for colour in colours.tolist()]
        raise _unknown_inside(path, "colours", names)
    found, half = np.unique(values), _white(values) / 2
    counted = _filling(values) if picture.lossy or len(found) > LABELS or _is_blurred(values) else found
    if max((counted <= half).sum(), (counted > half).sum()) <= 1 and (found[-1] > half or found[-1] == 0):
        return np.asarray(values > half)
    raise _unknown_inside(path, "values", [f"{value:g}" for value in found.tolist()])


def _white(values: npt.NDArray[Any]) -> int:
    """The largest value of the range that a mask uses."""
    highest = values.max()
    return 1 if highest <= 1 else 255 if highest <= 255 else 65535


def _is_blurred(values: npt.NDArray[Any]) -> bool:
    """Whether there are grey values that fill no area, each pixel of them between a darker and a brighter
    neighbour: where a resized mask passes from one side to the other.
    """
    around = np.lib.stride_tricks.sliding_window_view(np.pad(values, 1, mode="edge"), (3, 3))[
        ~np.isin(values, _filling(values))
    ]
    middle = around[:, 1, 1]
    return bool(len(middle) and ((around.min((1, 2)) < middle) & (middle < around.max((1, 2)))).all())


def _filling(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The grey values that fill a block of 3 x 3 pixels."""
    middle = values[:, 1:-1]
    row = (values[:, :-2] == middle) & (values[:, 2:] == middle)
    block = row[:-2] & row[1:-1] & row[2:] & (middle[:-2] == middle[1:-1]) & (middle[2:] == middle[1:-1])
    return np.unique(middle[1:-1][block])


def _unknown_inside(path: str | os.PathLike[str], kind: str, names: list[str]) -> DataError:
    many = f"{len(names)} {kind} from {names[0]} to {names[-1]}"
    listed = many if len(names) > LABELS else f"the {kind} {'; '.join(names)}"
    return DataError(
        f"{path} holds {listed}, and which of them are inside is unknown: a mask has black and "
        "white, or 0 and 1. Name the one that is inside with --mask-value, or save each class as a mask of "
        "its own."
    )


def check_aspect(what: str, drawn: tuple[float, float], film: tuple[float, float]) -> None:
    """Raises DataError when something was drawn on a picture of another aspect than its image.

    what: the beginning of the sentence, before the size. drawn, film: (width, height) in pixels; a resized
    copy of an image has its aspect.
    """
    if _same_aspect(drawn, film):
        return
    cause = (
        "width and height are exchanged, or one of them was turned (EXIF orientation counts)"
        if _same_aspect(drawn[::-1], film)
        else "it belongs to another image, or one of them was cropped or padded"
    )
    raise DataError(
        f"{what} {drawn[0]:g} x {drawn[1]:g} pixels and its image {film[0]:g} x {film[1]:g}: {cause}."
    )


def _same_aspect(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    stretch = first[1] / first[0] * second[0] / second[1]
    return 1 / (1 + ASPECT_TOLERANCE) <= stretch <= 1 + ASPECT_TOLERANCE


def stored_masks(
    pieces: Sequence[Piece],
    root: Path,
    film_shape: tuple[int, ...],
    size: int,
    mask_value: tuple[int, ...] = (),
) -> dict[str, bytes]:
    """Finding -> bits of the united pieces at the store's size, nearest pixel, row by row.

    root: folder of the files. film_shape: (H, W) of the image; a mask of another aspect raises DataError.
    mask_value: as for read_mask.
    """
    read: dict[tuple[str, str], Bool[np.ndarray, "S S"]] = {}
    united: dict[str, Bool[np.ndarray, "S S"]] = {}
    for finding, file, rle in pieces:
        if (file, rle) not in read:
            mask = read_mask(root / path_of(file), mask_value) if file else decode_rle(rle)
            check_aspect(
                f"The mask {file} of {finding} has",
                (mask.shape[1], mask.shape[0]),
                (film_shape[1], film_shape[0]),
            )
            picture = Image.fromarray(mask.view(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
            read[file, rle] = np.asarray(picture) > 0
        mask = read[file, rle]
        united[finding] = united[finding] | mask if finding in united else mask
    return {finding: np.packbits(mask).tobytes() for finding, mask in united.items()}


def unpack_mask(bits: bytes, size: int) -> Bool[np.ndarray, "S S"]:
    """A stored mask."""
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=size**2).view(bool).reshape(size, size)

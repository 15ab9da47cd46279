"""Which bits of a DICOM pixel are its value: Bits Stored, High Bit, Pixel Representation, old overlays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pydicom import Dataset

Values = npt.NDArray[np.float64]  # one number for each possible stored value


def codes_and_values(
    stored: npt.NDArray[Any], dataset: Dataset
) -> tuple[npt.NDArray[Any], Values, list[str]]:
    """The used bits of each pixel as an unsigned number, the stored value each number stands for, and issues.

    stored: (H, W). Bits beyond Bits Stored are masked: overlays of old files, signs, rubbish. But a film
    whose Bits Stored is too small would wrap around where it is brightest, a false picture that looks like
    one; it is recognised ("bad_bits_stored") and keeps all its bits.
    Source: PS3.5 8.1.1 and, for overlays in unused bits, PS3.3-2004 C.9.2.
    """
    from pydicom.uid import RLELossless

    codes = stored.view(stored.dtype.str.replace("i", "u"))
    signed = dataset.PixelRepresentation == 1
    bits, allocated = int(dataset.BitsStored), 8 * codes.dtype.itemsize
    if overlay := _overlay_bits(dataset, allocated):
        codes = codes & codes.dtype.type(~overlay & (2**allocated - 1))
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != RLELossless and not overlay:
        # the codec returned whole numbers, and a frame says itself how deep it is: no rubbish is in them
        too_few = bits < allocated and _beyond(codes, bits, allocated, signed)
        bits = allocated
    else:
        if shift := max(int(dataset.get("HighBit", bits - 1)) + 1 - bits, 0):
            codes, allocated = codes >> codes.dtype.type(shift), allocated - shift
        too_few = bits < allocated and _wraps_around(codes, bits, allocated, signed)
        if too_few:
            bits = allocated
        elif bits < allocated:
            codes = codes & codes.dtype.type(2**bits - 1)
    values = np.arange(2**bits, dtype=np.float64)
    if signed:
        values[2 ** (bits - 1) :] -= 2**bits  # two's complement
    return codes, values, ["bad_bits_stored"] if too_few else []


def _overlay_bits(dataset: Dataset, allocated: int) -> int:
    """The bits above a pixel's value in which overlays lie by their headers, as a mask."""
    mask, high = 0, int(dataset.get("HighBit", dataset.BitsStored - 1))
    for group in range(0x6000, 0x6020, 2):
        position = dataset.get((group, 0x0102))
        beside = (group, 0x3000) in dataset  # Overlay Data: it has a plane of its own
        if position is not None and not beside and isinstance(position.value, int):
            mask |= 1 << position.value if high < position.value < allocated else 0
    return mask


def _beyond(codes: npt.NDArray[Any], bits: int, allocated: int, signed: bool) -> bool:
    """Whether any code has bits above the stored ones that do not just repeat its sign."""
    high = codes >> codes.dtype.type(bits)
    if signed:
        negative = (codes >> codes.dtype.type(bits - 1)) & codes.dtype.type(1)
        high = np.where(negative & (high == 2 ** (allocated - bits) - 1), 0, high)
    return bool(high.any())


def _wraps_around(codes: npt.NDArray[Any], bits: int, allocated: int, signed: bool) -> bool:
    """Whether the higher bits belong to the values: neighbours then differ less with them than without.

    Where a value wraps around, the masked film has a jump of the full scale between two neighbours that the
    whole film has not; with an overlay in the higher bits it is the other way round.
    """
    if not _beyond(codes, bits, allocated, signed):
        return False
    rows = codes[:: max(len(codes) // 512, 1)].astype(np.int64)
    jumps = []
    for depth in (bits, allocated):
        values, sign = rows & (2**depth - 1), 2 ** (depth - 1)
        jumps.append(np.abs(np.diff((values ^ sign) - sign if signed else values)).sum())
    return bool(jumps[0] > jumps[1])

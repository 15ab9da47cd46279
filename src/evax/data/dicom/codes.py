"""Which bits of a DICOM pixel are its value: Bits Stored, High Bit, Pixel Representation, old overlays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pydicom import Dataset

Values = npt.NDArray[np.float64]  # one number for each possible stored value
# how much neighbours differ, as a part of what they differ by in the same pixels shuffled
CHANCE, PICTURE = 0.9, 0.7


def codes_and_values(
    stored: npt.NDArray[Any], dataset: Dataset
) -> tuple[npt.NDArray[Any], Values, list[str]]:
    """The used bits of each pixel as an unsigned number, the stored value each number stands for, and issues.

    stored: (H, W). Bits beyond Bits Stored are masked: overlays of old files, signs, rubbish. But a film
    whose Bits Stored is too small would wrap around where it is brightest, a false picture that looks like
    one; it is recognised ("bad_bits_stored") and keeps all its bits.
    Source: PS3.5 8.1.1 and, for overlays in unused bits, PS3.3-2004 C.9.2.
    """
    codes = stored.view(stored.dtype.str.replace("i", "u"))
    signed = dataset.PixelRepresentation == 1
    bits, allocated = int(dataset.BitsStored), 8 * codes.dtype.itemsize
    issues = []
    if overlay := overlay_bits(dataset, allocated):
        codes = codes & codes.dtype.type(~overlay & (2**allocated - 1))
    shift = high_bit(dataset) + 1 - bits
    if shift and bits + shift > allocated:  # there is no such bit
        shift, issues = 0, ["bits_conflict"]
    if shift:
        codes, allocated = codes >> codes.dtype.type(shift), allocated - shift
    if bits < allocated and _wraps_around(codes, bits, allocated, signed):
        bits, issues = allocated, [*issues, "bad_bits_stored"]
    elif bits < allocated:
        codes = codes & codes.dtype.type(2**bits - 1)
    values = np.arange(2**bits, dtype=np.float64)
    if signed:
        values[2 ** (bits - 1) :] -= 2**bits  # two's complement
    return codes, values, issues


def high_bit(dataset: Dataset) -> int:
    """High Bit; where it is missing or too low for Bits Stored, the one that the standard prescribes."""
    lowest = int(dataset.BitsStored) - 1
    high = dataset.get("HighBit")
    return lowest if high is None else max(int(high), lowest)


def sampled_rows(pixels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Some 512 rows of a picture, enough to see where its values wrap around."""
    return pixels[:: max(len(pixels) // 512, 1)].astype(np.int64)


def jumps(rows: npt.NDArray[np.int64]) -> int:
    """How much neighbours in the rows differ, all together."""
    return int(np.abs(np.diff(rows)).sum())


def overlay_bits(dataset: Dataset, allocated: int) -> int:
    """The bits above a pixel's value in which overlays lie by their headers, as a mask."""
    mask, high = 0, high_bit(dataset)
    for group in range(0x6000, 0x6020, 2):
        position = dataset.get((group, 0x0102))
        beside = (group, 0x3000) in dataset  # Overlay Data: it has a plane of its own
        if position is not None and not beside and isinstance(position.value, int):
            mask |= 1 << position.value if high < position.value < allocated else 0
    return mask


def _wraps_around(codes: npt.NDArray[Any], bits: int, allocated: int, signed: bool) -> bool:
    """Whether the higher bits belong to the values: neighbours then differ less with them than without.

    Where a value wraps around, the masked film has a jump of the full scale between two neighbours that the
    whole film has not; with an overlay in the higher bits it is the other way round. A film whose noise
    alone wraps around looks like chance when it is masked, and like a picture only when it is whole.
    """
    if not (codes >> codes.dtype.type(bits)).any():
        return False
    rows = sampled_rows(codes)

    def values(depth: int) -> npt.NDArray[np.int64]:
        of_depth, sign = rows & (2**depth - 1), 2 ** (depth - 1)
        return (of_depth ^ sign) - sign if signed else of_depth

    def likeness_to_chance(depth: int) -> float:
        of_depth = values(depth)
        shuffled = np.random.default_rng(0).permutation(of_depth.ravel()).reshape(of_depth.shape)
        return jumps(of_depth) / max(jumps(shuffled), 1)

    if jumps(values(allocated)) < jumps(values(bits)):
        return True
    return likeness_to_chance(bits) > CHANCE and likeness_to_chance(allocated) < PICTURE

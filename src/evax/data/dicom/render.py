"""DICOM stored values -> the grey picture a workstation would show.

An image has at most 2**16 different stored values, so the grey-scale chain of the standard is worked out once
for each possible value and the pixels are looked up in that table: quick, and every step is a plain formula.
"""

from __future__ import annotations

import copy
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels import apply_color_lut

from evax.data.dicom.decode import codes_and_values
from evax.data.dicom.header import header_numbers, text
from evax.data.radiograph import to_grey

Values = npt.NDArray[np.float64]  # one number for each possible stored value
Mask = npt.NDArray[np.bool_]


def grey(stored: npt.NDArray[Any], dataset: Dataset) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Pixels (H, W) in [0, 1] of a MONOCHROME image, and the issues found on the way.

    stored: (H, W), as the transfer syntax held them.
    """
    codes, values, issues = codes_and_values(stored, dataset)
    padding = _padding(values, dataset)
    present = np.zeros(len(values), dtype=bool)
    present[codes] = True
    issues += ["padding"] if (present & padding).any() else []
    modality, found = _modality(values, dataset)
    shown, voi = _voi(modality, present & ~padding, dataset)
    if shown is None:
        counts = np.bincount(codes.ravel(), minlength=len(values)) * ~padding
        shown = _from_range(modality, counts, _announced(values, int(dataset.BitsStored)))
    monochrome1 = text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    if monochrome1:
        shown = 1 - shown
    table = np.where(padding, 0, shown).astype(np.float32)
    shape = text(dataset, "PresentationLUTShape")
    if shape == ("IDENTITY" if monochrome1 else "INVERSE"):
        voi.append("polarity_conflict")
    if text(dataset, "PresentationIntentType") == "FOR PROCESSING":
        voi.append("for_processing")
    return table[codes], issues + found + voi


def _padding(values: Values, dataset: Dataset) -> Mask:
    """Which stored values are Pixel Padding Value, or up to Pixel Padding Range Limit (PS3.3 C.7.5.1.1.2)."""
    ends = header_numbers(dataset, "PixelPaddingValue")[:1]
    if not ends:
        return np.zeros(len(values), dtype=bool)
    ends += header_numbers(dataset, "PixelPaddingRangeLimit")[:1]
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
    slope, intercept = header_numbers(dataset, "RescaleSlope"), header_numbers(dataset, "RescaleIntercept")
    if not slope or not intercept or slope[0] == 0:
        return values, ["bad_rescale"]
    return values * slope[0] + intercept[0], []


def _voi(modality: Values, visible: Mask, dataset: Dataset) -> tuple[Values | None, list[str]]:
    """The detector's units -> [0, 1] by VOI LUT or window (PS3.3 C.11.2); None where none is usable.

    Of several, the first is the one to show unless a reader chooses another.
    """
    candidates: list[Values | None] = []
    for item in dataset.get("VOILUTSequence") or ():
        table = _lookup_table(item, signed=bool(modality.min() < 0))
        candidates.append(None if table is None else _look_up(modality, *table[:2]) / table[2])
    if "WindowCenter" in dataset or "WindowWidth" in dataset:
        function = text(dataset, "VOILUTFunction") or "LINEAR"
        pairs = list(
            zip_longest(header_numbers(dataset, "WindowCenter"), header_numbers(dataset, "WindowWidth"))
        )
        candidates += [
            _window(modality, center, width, function) for center, width in pairs or [(None, None)]
        ]
    for shown in candidates:
        if shown is not None and _shows_something(shown[visible]):
            return shown, [] if shown is candidates[0] else ["bad_window"]
    return None, ["bad_window"] if candidates else ["no_window"] if int(dataset.BitsStored) > 8 else []


def _shows_something(shown: Values) -> bool:
    """Whether a window tells two of the image's values apart, by more than black from white."""
    return len(shown) < 2 or bool(np.ptp(shown) >= 1 / 255 and ((shown > 0) & (shown < 1)).any())


def _window(modality: Values, center: float | None, width: float | None, function: str) -> Values | None:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3; None for a window that is none.

    A centre beyond all that the image's bits can hold is of other values, as after a conversion to 8 bits.
    """
    if center is None or width is None or width <= 0:
        return None
    if not modality.min() - 1 <= center <= modality.max() + 1:
        return None
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
    """Which stored values a shallow image (up to 8 bits) has by its header; None for a deeper image."""
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
    span = high - low or 1.0  # an image of one value is black
    stretched: Values = np.clip((modality - low) / span, 0, 1)
    return stretched


def _lookup_table(item: Dataset, *, signed: bool) -> tuple[Values, float, float] | None:
    """Entries, first mapped value and full scale of a LUT item (PS3.3 C.11.1.1); None if unusable."""
    descriptor = header_numbers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    count = int(descriptor[0]) or 2**16
    data = item.get("LUTData")
    if isinstance(data, bytes):  # OW, or 8-bit entries side by side
        wide = len(data) >= 2 * count
        little = item.original_encoding[1] is not False
        entries = np.frombuffer(data, dtype=("<u2" if little else ">u2") if wide else "u1").astype(np.float64)
    else:
        entries = np.array(header_numbers(item, "LUTData"))
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


def grey_from_colour(stored: npt.NDArray[Any], dataset: Dataset) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Pixels (H, W) in [0, 1] of a colour capture, and the issues found on the way.

    stored: (H, W, 3) red, green and blue, or (H, W) indices of a palette.
    """
    bits = int(dataset.BitsStored)
    if text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        stored = apply_color_lut(stored, _with_little_endian_palette(dataset))
        # some writers put 8-bit entries into 16 bits as they are
        bits = 16 if int(stored.max()) > 255 else 8
    stored = stored.view(stored.dtype.str.replace("i", "u"))
    too_few = int(stored.max()) >= 2**bits
    # a header that states 16 bits often means the size of its words, as a PNG does
    pixels, issues = to_grey(stored, None if too_few or bits == 16 else bits)
    return pixels, ["bad_bits_stored"] * too_few + issues


def _with_little_endian_palette(dataset: Dataset) -> Dataset:
    """The data set with its palette as pydicom takes it to be: words of it in little endian order."""
    if dataset.original_encoding[1] is not False:
        return dataset
    result = copy.copy(dataset)
    for name in ("Red", "Green", "Blue"):
        keyword = f"{name}PaletteColorLookupTableData"
        if isinstance(entries := dataset.get(keyword), bytes) and len(entries) % 2 == 0:
            result[keyword] = copy.copy(dataset[keyword])
            result[keyword].value = np.frombuffer(entries, dtype="<u2").byteswap().tobytes()
    return result

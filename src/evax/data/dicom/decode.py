"""DICOM -> stored values, whatever the transfer syntax, as an uncompressed image has them."""

from __future__ import annotations

import os
from io import BytesIO
from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
from openjpeg.utils import decode as decode_jpeg_2000
from PIL import Image
from pydicom import Dataset
from pydicom.pixels import convert_color_space, get_decoder, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

from evax.data.dicom.header import Unfit, header_numbers, known_name, text
from evax.data.dicom.streams import Stream, read_stream
from evax.errors import DataError

Values = npt.NDArray[np.float64]  # one number for each possible stored value
# how much neighbours differ, as a part of what they differ by in the same pixels shuffled
CHANCE, PICTURE = 0.9, 0.7


def codes_and_values(
    stored: npt.NDArray[Any], dataset: Dataset
) -> tuple[npt.NDArray[Any], Values, list[str]]:
    """The used bits of each pixel as an unsigned number, the stored value each number stands for, and issues.

    stored: (H, W). Bits beyond Bits Stored are masked: overlays of old files, signs, rubbish. But an image
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

    Where a value wraps around, the masked image has a jump of the full scale between two neighbours that the
    whole image has not; with an overlay in the higher bits it is the other way round. An image whose noise
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


Array = npt.NDArray[Any]
KEPT, TRANSFORMED = (
    ("RGB", "YBR_FULL", "YBR_FULL_422"),
    ("YBR_ICT", "YBR_RCT"),
)  # the latter by JPEG 2000 alone
NEAR = 0.03  # of the full scale: how far the chroma of a grey image, or its red, green and blue, lie apart


def name_transfer_syntax(dataset: Dataset) -> bool:
    """Give a data set without transfer syntax the one pydicom found its elements in; True if it had none."""
    if dataset.file_meta.get("TransferSyntaxUID"):
        return False
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return True


def decode(dataset: Dataset, path: str | os.PathLike[str]) -> tuple[Array, list[str]]:
    """Stored values (H, W), or (H, W, 3) in RGB, as an uncompressed image has them, and issues.

    Native, deflated, RLE, JPEG (baseline, extended, lossless), JPEG-LS, JPEG 2000 and HTJ2K. Where a code
    stream contradicts the data set, the stream holds: the data set's elements are changed to what it says.
    Raises DataError for any other syntax; Unfit for pixels that are not as their header says.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        supported = get_decoder(syntax).is_available
    except NotImplementedError:
        supported = False
    if not supported:
        raise DataError(
            f"{path} uses a transfer syntax that cannot be decoded here ({known_name(syntax) or 'unknown'}): "
            "export it uncompressed or as JPEG 2000, for example with gdcmconv --raw."
        )
    if dataset["PixelData"].is_undefined_length and not syntax.is_encapsulated:
        raise DataError(f"{path} is compressed but does not name its transfer syntax: export it again.")
    stream = read_stream(dataset) if syntax.is_encapsulated else None
    issues = [] if stream is None else _follow(stream, dataset)
    try:
        stored = _whole_frame(dataset) if stream is None else _decoded(stream, dataset)
        if stream is not None and stream.samples == 1:
            stored, found = _as_uncompressed(stored, stream, dataset)
            found += _deeper_than_announced(stored, stream, dataset)
        elif stored.ndim == 3:
            stored, found = _red_green_blue(stored, "" if stream is None else stream.colour, dataset)
        else:
            found = []
    except Unfit:
        raise
    except Exception as error:  # codecs raise anything on damaged bytes, and quote what they like
        raise Unfit("its pixels cannot be decoded as its header describes them") from error
    return stored, issues + found


def _follow(stream: Stream, dataset: Dataset) -> list[str]:
    """Make the header say what the code stream says, and return what contradicted.

    A stream of more bits than Bits Stored is none yet: it may hold whole pixel cells, of which High Bit and
    Bits Stored are the value, as in an uncompressed image; see `_deeper_than_announced`.
    """
    issues = []
    bits = int(dataset.BitsStored)
    if bits < 1 or high_bit(dataset) >= stream.bits or stream.bits > dataset.BitsAllocated:
        issues.append("bits_conflict")
        dataset.BitsStored, dataset.HighBit = stream.bits, stream.bits - 1
        if stream.bits < bits:
            _drop_tables(dataset, 2**stream.bits)
    dataset.BitsAllocated = 8 if stream.bits <= 8 else 16
    if stream.samples != dataset.SamplesPerPixel:
        issues.append("samples_conflict")
        if text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
            raise Unfit("its compressed frame holds colours, its header announces an inverted grey picture")
        dataset.SamplesPerPixel = stream.samples
        colour = "YBR_FULL" if stream.colour == "YBR" else "RGB"
        dataset.PhotometricInterpretation = "MONOCHROME2" if stream.samples == 1 else colour
    return issues


def _drop_tables(dataset: Dataset, most: int) -> None:
    """Take out lookup tables of more entries than a shallower stream has values: they are of other values."""
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        if any(
            max(header_numbers(table, "LUTDescriptor"), default=0) > most
            for table in dataset.get(keyword) or ()
        ):
            del dataset[keyword]


def _whole_frame(dataset: Dataset) -> Array:
    """The pixels of an uncompressed or RLE image; colours as they are stored."""
    bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    if not 1 <= bits <= allocated:
        limit = f"more than Bits Allocated {allocated}" if bits > allocated else "less than 1"
        raise Unfit(f"Bits Stored (0028,0101) is {bits}, {limit}")
    length, expected = len(dataset.PixelData), get_expected_length(dataset)
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated and not (
        expected <= length < max(2 * expected, expected + 2)
    ):
        raise Unfit(
            f"its pixels have {length} bytes, its header announces one frame of {expected}: Rows (0028,0010) "
            f"is {dataset.Rows}, Columns (0028,0011) is {dataset.Columns}, Bits Allocated (0028,0100) is "
            f"{allocated}"
        )
    # unused bits are seen to in codes.py; a view is enough, because nothing writes into it
    return pixel_array(dataset, index=0, raw=True, view_only=True, correct_unused_bits=False)


def _decoded(stream: Stream, dataset: Dataset) -> Array:
    """The pixels of a code stream; colours as they are stored, those of JPEG 2000 after its own transform."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in JPEG2000TransferSyntaxes:
        return decode_jpeg_2000(stream.content, j2k_format=0)
    if syntax == JPEGExtended12Bit and stream.bits == 12:
        return _decode_12_bits(stream, dataset)
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        # gdcm's 8-bit JPEG codec can end the whole process on damaged bytes
        image = Image.open(BytesIO(stream.content), formats=("JPEG",))
        if stream.samples == 3 and stream.colour != "RGB":
            image.draft("YCbCr", image.size)  # as they are: Pillow's libjpeg would convert them to RGB
        return np.asarray(image)
    # gdcm's codecs believe the frame and write past the memory reserved for the size in the data set
    return pixel_array(dataset, index=0, raw=True, bits_stored=stream.bits, planar_configuration=0)


def _decode_12_bits(stream: Stream, dataset: Dataset) -> npt.NDArray[np.uint16]:
    """An image of JPEG Extended with 12 bits; gdcm reads it, but pydicom does not hand it over."""
    if dataset.PixelRepresentation == 1 or stream.samples != 1:
        raise Unfit("12-bit JPEG holds grey values without sign, its header says otherwise")
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(stream.content)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((stream.columns, stream.rows, 1))
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    image.SetDataElement(element)
    content = image.GetBuffer().encode("utf-8", "surrogateescape")  # gdcm gives bytes as text
    return np.frombuffer(content, dtype="<u2").reshape(stream.rows, stream.columns)


def _as_uncompressed(stored: Array, stream: Stream, dataset: Dataset) -> tuple[Array, list[str]]:
    """Grey values as whole pixel cells, signed or not as the header says, and the issue where it is wrong.

    Whether the stream or the header is right about the sign is seen in the picture: where values wrap around
    at the wrong place, neighbours differ by the full scale.
    """

    def cells(signed: bool) -> Array:
        shift = 8 * stored.dtype.itemsize - stream.bits
        return stored.view(f"{'i' if signed else 'u'}{stored.dtype.itemsize}") << shift >> shift

    announced = dataset.PixelRepresentation == 1
    of_header = cells(announced)
    if stream.signed is None or stream.signed == announced:
        return of_header, []
    of_stream = cells(stream.signed)
    if jumps(sampled_rows(of_stream)) < jumps(sampled_rows(of_header)):
        dataset.PixelRepresentation = int(stream.signed)
        _drop_window(of_stream, dataset)
        return of_stream, ["sign_conflict"]
    return of_header, ["sign_conflict"]


def _drop_window(stored: Array, dataset: Dataset) -> None:
    """Leave a window without width unless it is of the values as the stream has them, and not the header's.

    stored: cells of the other sign than the header announced. A window made for the header's values lies
    half their range away. It is not moved there: nothing else says that the writer moved the values, and a
    image without its window has its contrast by its pixels, while one under a wrong window is nearly black.
    """
    centers, widths = header_numbers(dataset, "WindowCenter"), header_numbers(dataset, "WindowWidth")
    if not centers or not widths or widths[0] <= 0:
        return
    slope = (header_numbers(dataset, "RescaleSlope") or (1.0,))[0] or 1.0
    intercept = (header_numbers(dataset, "RescaleIntercept") or (0.0,))[0]
    center, half = (centers[0] - intercept) / slope, widths[0] / abs(slope) / 2
    bits = int(dataset.BitsStored)
    # nearly all pixels: padding may lie elsewhere
    low, high = np.percentile(sampled_rows(stored), [1, 99]) / 2 ** (high_bit(dataset) + 1 - bits)
    away = 2 ** (bits - 1) * (-1 if dataset.PixelRepresentation == 1 else 1)

    def overlap(middle: float) -> float:
        return max(min(middle + half, high) - max(middle - half, low), 0)

    if overlap(center) <= overlap(center + away):
        dataset.WindowWidth = None


def _deeper_than_announced(stored: Array, stream: Stream, dataset: Dataset) -> list[str]:
    """The issue of a stream whose values are beyond Bits Stored, which then becomes the stream's precision.

    The precision of a stream is that of its values, unless it is all of a pixel cell. Then the higher bits
    may as well be rubbish, and codes.py sees to them as in an uncompressed image.
    """
    bits = int(dataset.BitsStored)
    if high_bit(dataset) >= bits or overlay_bits(dataset, stream.bits):
        return []  # the header says what the other bits are
    half = 2 ** (bits - 1)
    low, high = (-half, half) if dataset.PixelRepresentation == 1 else (0, 2 * half)
    if stored.min() >= low and stored.max() < high:
        return []
    if stream.bits < dataset.BitsAllocated:
        dataset.BitsStored, dataset.HighBit = stream.bits, stream.bits - 1
    return ["bits_conflict"]


def _red_green_blue(stored: Array, told: str, dataset: Dataset) -> tuple[Array, list[str]]:
    """Colours as RGB, and the issue where they are not what the header says.

    told: what the code stream says of its colours, or "". The picture comes first: an image is grey.
    """
    photometric = text(dataset, "PhotometricInterpretation")
    announced = "YBR" if photometric.startswith(("YBR_FULL", "YBR_PARTIAL")) else "RGB"
    dataset.PhotometricInterpretation = "RGB"
    stored = stored.view(stored.dtype.str.replace("i", "u"))
    colour = _grey_image_in(stored, int(dataset.BitsStored)) or told or announced
    if colour == "YBR":
        if stored.dtype.itemsize > 1:
            raise Unfit("its colours have more than 8 bits and are no RGB: export it as RGB or MONOCHROME2")
        stored = convert_color_space(stored, "YBR_FULL", "RGB")
    transformed = dataset.file_meta.TransferSyntaxUID in JPEG2000TransferSyntaxes
    if colour == announced and (photometric in KEPT or (photometric in TRANSFORMED and transformed)):
        return stored, []
    return stored, ["colour_conflict"]


def _grey_image_in(stored: Array, bits: int) -> str:
    """Which of YBR and RGB, read so, makes nearly all pixels grey; "" for a coloured picture."""
    step = max(len(stored) // 512, 1)
    first, second, third = np.moveaxis(stored[::step, ::step].astype(np.int32), 2, 0)
    near, middle = NEAR * 2**bits, 2 ** (bits - 1)

    def close(left: Any, right: Any) -> bool:
        return bool((np.abs(left - right) <= near).mean() > 0.99)

    as_ybr = close(second, middle) and close(third, middle)
    as_rgb = close(first, second) and close(first, third)
    return "" if as_ybr == as_rgb else "YBR" if as_ybr else "RGB"

"""What a compressed frame says of its picture itself, read before any decoder is called."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

from evax.data.dicom.header import Unfit

START_OF_FRAME = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG-LS and JPEG: a picture's size
START_OF_SCAN, APP0, APP14 = 0xDA, 0xE0, 0xEE  # the last two: JFIF, Adobe
JP2 = b"\0\0\0\x0cjP  "
START_OF_CODE_STREAM, TILE_PART, START_OF_DATA = b"\xff\x4f\xff\x51", b"\xff\x90", b"\xff\x93"
COD, COC = b"\xff\x52", b"\xff\x53"  # coding styles of all samples, of one
# pixels that tiles and precincts of a JPEG 2000 stream have on average, at least; a tile takes OpenJPEG 10 kB
BLOCK_PIXELS = 256
MOST_LAYERS = 1024


@dataclass(frozen=True)
class Stream:
    """The picture that a code stream holds, by its own header."""

    content: bytes
    rows: int
    columns: int
    samples: int
    bits: int
    signed: bool | None = None
    """None where the syntax knows no sign."""
    colour: str = ""
    """"RGB" or "YBR", where the stream's own markers tell."""


def read_stream(dataset: Dataset) -> Stream | None:
    """The header of the first frame's code stream; None for RLE, which has none.

    Raises Unfit unless it has the size that the data set says, 1 or 3 samples of at most 16 bits, and parts
    in a number that fits its size: a decoder reserves memory by what the stream says.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    try:
        if syntax == RLELossless:
            _check_run_lengths(frame, dataset)
            return None
        stream = (_jpeg_2000 if syntax in JPEG2000TransferSyntaxes else _jpeg)(frame)
    except (IndexError, struct.error) as error:
        raise Unfit("its compressed frame has no whole header") from error
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if (stream.rows, stream.columns) != (rows, columns):
        raise Unfit(
            f"its compressed frame holds {stream.rows} rows and {stream.columns} columns, its header "
            f"announces {rows} and {columns}"
        )
    if stream.samples not in (1, 3) or not 1 <= stream.bits <= 16:
        raise Unfit(
            f"its compressed frame holds {stream.samples} samples of {stream.bits} bits per pixel, an image "
            "has 1 or 3 of at most 16"
        )
    return stream


def _jpeg(frame: bytes) -> Stream:
    """JPEG and JPEG-LS (ITU T.81 annex B, T.87 annex C); the colour as libjpeg takes it."""
    position, colour, size = 2, "", b""
    while (marker := frame[position + 1]) != START_OF_SCAN or frame[position] != 0xFF:
        if frame[position] != 0xFF:  # gdcm ends the whole process on bytes between two segments
            raise Unfit("its JPEG frame has a broken marker")
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = int.from_bytes(frame[position + 2 : position + 4], "big")
        content = frame[position + 4 : position + 2 + length]
        if marker in START_OF_FRAME:
            size = size or content
        elif marker == APP0 and content.startswith(b"JFIF\0"):
            if content[5] != 1:  # so it does on another version of JFIF
                raise Unfit("its JPEG frame is of an unknown version of JFIF")
            colour = "YBR"
        elif marker == APP14 and content.startswith(b"Adobe") and len(content) >= 12:
            colour = colour or ("YBR" if content[11] == 1 else "RGB")
        position += 2 + length
    bits, rows, columns, samples = struct.unpack_from(">BHHB", size)
    components = size[6 : 6 + 3 * samples]
    if not colour and components[::3] == b"RGB":
        colour = "RGB"
    if not colour and samples == 3 and components[1] > components[4]:
        colour = "YBR"  # only chroma is sampled at fewer places
    return Stream(frame, rows, columns, samples, bits, colour=colour)


def _jpeg_2000(frame: bytes) -> Stream:
    """JPEG 2000 and HTJ2K (ISO 15444-1 annex A), alone or, against the standard, in a JP2 file (annex I)."""
    content = _unboxed(frame) if frame.startswith(JP2) else frame
    if not content.startswith(START_OF_CODE_STREAM):
        raise Unfit("its JPEG 2000 frame does not begin with its size")
    right, bottom, left, top, *tile, samples = struct.unpack_from(">8IH", content, 8)
    columns, rows = right - left, bottom - top
    components = {content[42 + 3 * index : 45 + 3 * index] for index in range(samples)}
    kinds = {component[0] for component in components}
    if len(kinds) != 1 or content[43:45] != b"\1\1":
        raise Unfit("the samples of its JPEG 2000 frame differ in depth or begin at fewer places than pixels")
    if 0 in tile[:2]:
        raise Unfit("its JPEG 2000 frame has tiles without a size")
    parts = -(-(right - tile[2]) // tile[0]) * -(-(bottom - tile[3]) // tile[1])
    for position in _coding_styles(content):
        parts = max(parts, _precincts(content, position, rows, columns))
    if parts > max(rows * columns // BLOCK_PIXELS, 64):
        raise Unfit(f"its JPEG 2000 frame of {rows} x {columns} pixels has {parts} tiles or precincts")
    (kind,) = kinds
    return Stream(content, rows, columns, samples, (kind & 0x7F) + 1, signed=kind > 0x7F)


def _coding_styles(content: bytes) -> Iterator[int]:
    """Where COD and COC segments lie in the headers of a code stream and of its tile parts."""
    position, end_of_part = 4 + int.from_bytes(content[4:6], "big"), len(content)
    while position + 12 <= len(content):
        marker = content[position : position + 2]
        if marker == START_OF_DATA:
            position = max(end_of_part, position + 2)
            continue
        if marker == TILE_PART:
            # a length of 0: the rest of the stream
            end_of_part = position + (
                int.from_bytes(content[position + 6 : position + 10], "big") or len(content)
            )
        elif marker in (COD, COC):
            yield position
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")


def _precincts(content: bytes, position: int, rows: int, columns: int) -> int:
    """How many precincts a COD or COC segment makes; raises Unfit for more layers than MOST_LAYERS."""
    if content[position : position + 2] == COD:
        style, levels, sizes = content[position + 4], content[position + 9], position + 14
        if int.from_bytes(content[position + 6 : position + 8], "big") > MOST_LAYERS:
            raise Unfit(f"its JPEG 2000 frame has more than {MOST_LAYERS} layers")
    else:
        style, levels, sizes = content[position + 5], content[position + 6], position + 11
    if not style & 1:
        return 1
    total = 0
    for level, size in enumerate(content[sizes : sizes + levels + 1]):
        wide, high = (-(-length >> levels - level) for length in (columns, rows))
        total += -(-wide >> (size & 15)) * -(-high >> (size >> 4))
    return total


def _unboxed(frame: bytes) -> bytes:
    """The code stream in the boxes of a JP2 file."""
    position = 0
    while position + 8 <= len(frame):
        length = int.from_bytes(frame[position : position + 4], "big")
        if frame[position + 4 : position + 8] == b"jp2c":
            return frame[position + (16 if length == 1 else 8) :]
        if length == 1:
            length = int.from_bytes(frame[position + 8 : position + 16], "big")
        if length < 8:
            break
        position += length
    raise Unfit("its JP2 file has no code stream")


def _check_run_lengths(frame: bytes, dataset: Dataset) -> None:
    """Raise Unfit unless each segment of an RLE frame unpacks to about the picture's size (PS3.5 annex G)."""
    pixels = int(dataset.Rows) * int(dataset.Columns)
    expected = int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated) // 8
    count, *starts = struct.unpack_from("<16I", frame)
    if count != expected:
        raise Unfit(f"its RLE frame holds {count} segments, its header announces {expected}")
    for start, end in zip(starts[:count], [*starts[1:count], len(frame)], strict=True):
        segment, position, length = frame[start:end], 0, 0
        while position < len(segment) and length <= 2 * pixels + 64:  # some writers pad
            run = segment[position]
            length += run + 1 if run < 128 else 257 - run if run > 128 else 0
            position += run + 2 if run < 128 else 2 if run > 128 else 1
        if not pixels <= length <= 2 * pixels + 64:
            raise Unfit(f"an RLE segment unpacks to {length} bytes, its header announces {pixels}")

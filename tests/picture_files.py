"""PNG and TIFF files of every kind, written from an array without the library that reads them."""

from __future__ import annotations

import struct
import zlib

import numpy as np

TAG_TYPES = {1: "B", 3: "H", 4: "I"}


def turned(pixels, orientation):
    """What a viewer shows of pixels with this EXIF orientation."""
    pixels = pixels if orientation < 5 else pixels.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return pixels[:: -1 if rows else 1, :: -1 if columns else 1]


def png(path, values, *, chunks=(), filtered=True, palette=()):
    """A PNG of 8 or 16 bits from (H, W) or (H, W, channels); chunks: (name, content) before the pixels.

    filtered: rows as differences to the pixel before (filter 1), as most writers do.
    """
    values = np.asarray(values)
    height, width, channels = np.atleast_3d(values).shape
    colour = 3 if len(palette) else {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = values.astype(values.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    if filtered:
        before = np.zeros_like(rows)
        size = channels * values.dtype.itemsize
        before[:, size:] = rows[:, :-size]
        rows = rows - before
    rows = np.insert(rows, 0, int(filtered), axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8 * values.dtype.itemsize, colour, 0, 0, 0)
    plte = [(b"PLTE", np.asarray(palette, np.uint8).tobytes())] if len(palette) else []
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in [
        (b"IHDR", header),
        *plte,
        *chunks,
        (b"IDAT", zlib.compress(rows.tobytes())),
        (b"IEND", b""),
    ]:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)
    return path


def tiff(
    path, values, *, order="<", photometric=1, planar=1, extra=(), compressed=False, bits=None, orientation=1
):
    """A TIFF of one page in strips of four rows, from (H, W) or (H, W, channels).

    order: "<" or ">". extra: meaning of each channel beside the colours. bits: where they are not the
    array's; 1 and 12 are packed. photometric: None leaves the tag out.
    """
    values = np.asarray(values)
    height, width, channels = np.atleast_3d(values).shape
    kind = {"u": 1, "b": 1, "i": 2, "f": 3}[values.dtype.kind]
    planes = (
        np.moveaxis(np.atleast_3d(values), 2, 0)[..., None] if planar == 2 else np.atleast_3d(values)[None]
    )
    strips = [_packed(plane[row : row + 4], order, bits) for plane in planes for row in range(0, height, 4)]
    strips = [zlib.compress(strip) for strip in strips] if compressed else strips
    offsets = np.cumsum([8, *(len(strip) + len(strip) % 2 for strip in strips)])
    tags = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits or 8 * values.dtype.itemsize] * channels),
        259: (3, [8 if compressed else 1]), 262: (3, [photometric]), 273: (4, offsets[:-1]),
        274: (3, [orientation]), 277: (3, [channels]), 278: (4, [4]),
        279: (4, [len(strip) for strip in strips]), 284: (3, [planar]),
        338: (3, list(extra)), 339: (3, [kind] * channels),
    }  # fmt: skip
    if photometric is None:
        del tags[262]
    tags = {number: tag for number, tag in tags.items() if len(tag[1])}
    far, entries = int(offsets[-1]) + 2 + 12 * len(tags) + 4, b""
    outside = b""
    for number, (form, content) in tags.items():
        data = struct.pack(f"{order}{len(content)}{TAG_TYPES[form]}", *(int(item) for item in content))
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(f"{order}I", far + len(outside))
        outside += b"" if len(data) <= 4 else data
        entries += struct.pack(f"{order}HHI", number, form, len(content)) + place
    path.write_bytes(
        (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, int(offsets[-1]))
        + b"".join(strip + b"\0" * (len(strip) % 2) for strip in strips)
        + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + outside
    )  # fmt: skip
    return path


def _packed(rows, order, bits):
    if bits == 1:
        return np.packbits(rows.reshape(len(rows), -1), axis=1).tobytes()
    if bits == 12:
        ones = np.unpackbits(rows.astype(">u2").reshape(len(rows), -1, 1).view(np.uint8), axis=2)[:, :, 4:]
        return np.packbits(ones.reshape(len(rows), -1), axis=1).tobytes()
    return rows.astype(rows.dtype.newbyteorder(order)).tobytes()

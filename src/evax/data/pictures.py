"""An image file -> a Radiograph; `read_picture` opens every PNG, JPEG and TIFF, images and masks alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from evax.data.dicom import is_dicom
from evax.data.orientation import orientation_issues
from evax.data.radiograph import Radiograph, check_size, opened, to_grey, usual_depth
from evax.errors import ConfigError, DataError
from evax.files import checked_path

PNG_SIGNATURE, PNG_BIT_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # the latter is the place of a byte
# tags of the TIFF 6.0 standard
TIFF_BITS, TIFF_COMPRESSION, TIFF_PHOTOMETRIC, TIFF_SAMPLES = 258, 259, 262, 277
TIFF_PLANAR, TIFF_EXTRA_SAMPLES, TIFF_FORMAT = 284, 338, 339
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
NOT_COMPRESSED, SEPARATE_PLANES = 1, 2
UNSPECIFIED, PREMULTIPLIED = 0, 1  # of samples beside the colours
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
BIG_ENDIAN_BIG_TIFF = b"MM\0+"
NOT_SUPPORTED = (
    "a kind that is not supported: save it as PNG or TIFF with 8 or 16 bits, unsigned, grey or RGB."
)
Tags = TiffImagePlugin.ImageFileDirectory_v2
FORMAT_NAMES = {UNSIGNED: "unsigned integers", SIGNED: "signed integers", FLOAT: "floats"}


def read_image(path: str | os.PathLike[str], bits: int | None = None) -> Radiograph:
    """Read one image, whatever its format; the format is found in the content, the suffix does not matter.

    bits: depth of the detector, 1 to 16, for files of 16-bit integers: they are divided by 2**bits - 1, and
    larger values become white ("above_bits"). Without it the depth is guessed from the image alone. It does
    not concern 8-bit and float pictures, nor files whose header states another depth, as in DICOM.

    - 8 bits are divided by 255 and 16 bits by 65535, so a dark image stays dark. Without `bits`, where the top
      two of 16 bits are never used, the image is taken for 8, 10, 12 or 14 bits deep, whichever is the
      smallest that holds it ("narrow_range"): a dark image may be taken for a shallower one. Markers burnt in
      at 65535 do not count where the image would be nearly black with them.
    - Float TIFF within [0, 1] is taken as it is.
    - Colours become their luminance (ITU-R 601), at their full depth; transparent parts black: what a dark
      screen would show.
    - EXIF orientation is applied, and a TIFF whose white is zero is inverted.
    - DICOM: see `read_dicom`.

    Raises DataError, naming the file, the reason and the next step, for whatever is not one such picture.
    """
    path = checked_path(path, "Pixels in memory are given as evax.Radiograph(pixels), an image by")
    if bits is not None:
        if isinstance(bits, bool) or bits not in range(1, 17):
            raise ConfigError(f"bits must lie between 1 and 16, got {bits}.")
        bits = int(bits)
    if is_dicom(path):
        from evax.data.dicom.reading import read_dicom  # pydicom, for DICOM files only

        return read_dicom(path)
    picture = read_picture(path)
    values = picture.over_black()
    if values.dtype.kind == "f":
        pixels, issues = _grey_from_float(values, path)
    else:
        _check_white_known(values, path)
        pixels, issues = to_grey(values, picture.bits or bits)
    if picture.white_is_zero:
        pixels = 1 - pixels
    issues = ["transparent"] * (picture.alpha is not None) + issues
    issues += ["blank"] * bool(pixels.min() == pixels.max())
    return Radiograph(pixels, issues=(*issues, *orientation_issues(pixels)))


def is_deep(path: str | os.PathLike[str]) -> bool:
    """Whether `bits` of read_image concerns a picture, by its header alone; nothing is decoded."""
    with opened(path) as file:
        if tags := _tiff_tags(file, path):
            return _bits(tags) in (16, 32) and _sample_format(tags) != FLOAT
        file.seek(0)
        header = file.read(PNG_BIT_DEPTH + 1)
        return header.startswith(PNG_SIGNATURE) and header[PNG_BIT_DEPTH:] == b"\x10"


def largest_deep_value(path: str | os.PathLike[str], ignored: float = 0.0) -> int | None:
    """The largest value of a picture that `bits` of read_image concerns; None for any other image.

    ignored: share of the pixels, those of the largest values, that do not count.
    It tells how many bits the images of a data set have in common. The picture is decoded. Raises DataError
    as read_image.
    """
    if is_dicom(path):
        return None
    picture = read_picture(path)
    if picture.bits or picture.values.dtype.kind == "f":
        return None
    values = picture.over_black()
    _check_white_known(values, path)
    return int(np.quantile(values, 1 - ignored, method="lower"))


@dataclass(frozen=True, eq=False)
class Picture:
    """The only picture of a file, upright, with the values that the file stores."""

    values: npt.NDArray[Any]
    """(H, W), or (H, W, 3) where red, green and blue differ: integers or floats."""
    bits: int | None
    """Depth of the integers where the file states it: 1, 8 or 12. None for 16 and 32 bits, where it may be
    less than the file's, and for floats.
    """
    alpha: npt.NDArray[np.float32] | None
    """(H, W) in [0, 1]; None where all of the picture is opaque."""
    white_is_zero: bool
    """Whether a larger value is darker."""
    lossy: bool
    """Whether the values are not exactly those that were saved (JPEG)."""

    def over_black(self) -> npt.NDArray[Any]:
        """The values as they appear on a black screen."""
        if self.alpha is None:
            return self.values
        alpha = self.alpha if self.values.ndim == 2 else self.alpha[:, :, None]
        laid = self.values * alpha
        return np.rint(laid, out=laid).astype(self.values.dtype)


def read_picture(path: str | os.PathLike[str], formats: tuple[str, ...] = ("PNG", "JPEG", "TIFF")) -> Picture:
    """Read a picture file at its full depth.

    formats: accepted ones, as Pillow names them. Raises DataError as read_image.
    """
    with opened(path) as file:
        tags = _tiff_tags(file, path)
        if tags and not _is_read_rightly(tags):
            raise _unsupported(path, tags)
        try:
            file_image = Image.open(file, formats=formats)
        except (UnidentifiedImageError, KeyError) as error:  # KeyError: an unknown compression of a TIFF
            if tags:
                raise _unsupported(path, tags) from error
            raise DataError(
                f"{path} is not a readable PNG, JPEG, TIFF or {'BMP' if 'BMP' in formats else 'DICOM'} file: "
                "convert it to one of these, or copy it again from its source."
            ) from error
        except Image.DecompressionBombError as error:
            raise DataError(f"{path} is too large: {error} Resize or crop it.") from error
        check_size(path, *file_image.size)
        if file_image.format in ("TIFF", "PNG") and (pages := getattr(file_image, "n_frames", 1)) > 1:
            raise DataError(f"{path} has {pages} pages, and which one is meant is unknown: save it alone.")
        values, image = _decoded(file_image, file, formats, tags)
        if tags and values.dtype == np.int32 and _sample_format(tags) == UNSIGNED:
            values = values.view(np.uint32)  # Pillow has no such type
        alpha = None
        if image.mode in ("LA", "RGBA"):
            values, alpha = values[:, :, :-1], _opacity(values[:, :, -1])
        elif "transparency" in image.info:  # of a PNG: the value or the colour that is transparent
            opaque = np.atleast_3d(values != np.array(image.info["transparency"])).any(axis=2)
            alpha = _opacity(np.where(opaque, np.uint8(255), np.uint8(0)))
        if values.ndim == 3 and (values == values[:, :, :1]).all():
            values = values[:, :, 0]
        stated_bits = 12 if _bits(tags) == 12 else None
        return Picture(
            values=values.astype(np.uint8) if values.dtype == bool else values,
            bits={"bool": 1, "uint8": 8}.get(values.dtype.name, stated_bits),
            alpha=alpha,
            # Pillow inverts 1 and 8 bits itself
            white_is_zero=image.mode[0] in "IF" and _tag(tags, TIFF_PHOTOMETRIC) == WHITE_IS_ZERO,
            lossy=file_image.format not in ("PNG", "TIFF", "BMP"),
        )


def _opacity(alpha: npt.NDArray[Any]) -> npt.NDArray[np.float32] | None:
    # 12 bits of alpha beside 12 bits of grey are opaque, too
    full = 255 if alpha.dtype == np.uint8 else 2 ** usual_depth(int(alpha.max())) - 1
    return None if (alpha == full).all() else np.divide(alpha, full, dtype=np.float32)


def _decoded(
    file_image: ImageFile.ImageFile, file: BinaryIO, formats: tuple[str, ...], tags: Tags | None
) -> tuple[npt.NDArray[Any], Image.Image]:
    """The values of an open picture, upright, (H, W) or (H, W, channels), and its image as it was decoded.

    The mode of that image is 1, L, LA, RGB, RGBA, F or begins with I.
    """
    codec, raw = file_image.tile[0].codec_name, str(_arguments(file_image.tile[0])[0])

    def decoded_as(raw_mode: Callable[[str], str]) -> Image.Image:
        again = Image.open(file, formats=formats)
        for number, tile in enumerate(again.tile):
            raw, *rest = _arguments(tile)
            again.tile[number] = tile._replace(args=(raw_mode(raw), *rest))
        ImageOps.exif_transpose(again, in_place=True)
        return again

    if raw == "LA;16B":  # Pillow would drop the low bytes; four bytes a pixel are read as four channels
        octets = decoded_as(lambda _: "RGBA")
        values = np.asarray(octets).astype(np.uint16)
        return values[:, :, ::2] << 8 | values[:, :, 1::2], octets
    if file_image.mode in ("RGB", "RGBA") and (raw.endswith((";16B", ";16L", ";16N")) or _bits(tags) == 16):
        # Pillow keeps one byte of each value: the high one, and in the other byte order the low one
        order_of_file = "big" if tags is None or tags.prefix == b"MM" else "little"  # PNG is big-endian
        big_endian = (sys.byteorder if codec == "libtiff" else order_of_file) == "big"
        high, low = (
            decoded_as(lambda raw, order=order: f"{raw.partition(';')[0]};16{order}")  # type: ignore[misc]
            for order in ("BL" if big_endian else "LB")
        )
        values = np.asarray(high).astype(np.uint16)
        values <<= 8
        values |= np.asarray(low)
        return values, high
    image: Image.Image = file_image
    if codec == "libtiff" and image.mode in ("I", "F"):
        # libtiff gives the values in the order of this machine, Pillow takes them in that of the file
        image = decoded_as(lambda raw: raw.replace("B", "N"))
    else:
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "La":
        image = image.convert("LA")
    elif image.mode not in ("1", "L", "LA", "RGB", "RGBA", "F") and image.mode[0] != "I":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return np.asarray(image), image


def _arguments(tile: Any) -> tuple[Any, ...]:
    """Of a decoder of Pillow; the first is the raw mode, the layout of the values in the file."""
    return (tile.args,) if isinstance(tile.args, str) else tile.args


def _tiff_tags(file: BinaryIO, path: str | os.PathLike[str]) -> Tags | None:
    """The tags of the first page of a TIFF; None for another format."""
    head = file.read(8)
    if head.startswith(BIG_ENDIAN_BIG_TIFF):
        raise DataError(f"{path} is a big-endian BigTIFF, {NOT_SUPPORTED}")
    if not head.startswith(tuple(TiffImagePlugin.PREFIXES)):
        return None
    big_tiff = head[2] == 43
    tags = TiffImagePlugin.ImageFileDirectory_v2(head + (file.read(8) if big_tiff else b""))
    file.seek(tags.next)
    tags.load(file)
    return tags


def _is_read_rightly(tags: Tags) -> bool:
    """Whether Pillow, where it opens such a TIFF, gives the values that it stores.

    Found by writing every kind and comparing: tests/data/test_pictures.py.
    """
    bits, samples = _bits(tags), tags.get(TIFF_SAMPLES, 1)
    kind, in_planes = _sample_format(tags), tags.get(TIFF_PLANAR) == SEPARATE_PLANES
    if TIFF_PHOTOMETRIC not in tags:  # Pillow takes white for zero there, libtiff does not
        return False
    if samples == 1:
        return bits > 8 or kind == UNSIGNED
    extra = tags.get(TIFF_EXTRA_SAMPLES, ())
    if kind != UNSIGNED or (in_planes and (samples == 2 or UNSPECIFIED in extra)):
        return False
    if bits <= 8:
        return True
    compressed = tags.get(TIFF_COMPRESSION, NOT_COMPRESSED) != NOT_COMPRESSED
    is_rgb = (bits, tags[TIFF_PHOTOMETRIC]) == (16, RGB)
    return is_rgb and PREMULTIPLIED not in extra and not (in_planes and compressed)


def _tag(tags: Tags | None, number: int, default: Any = None) -> Any:
    return default if tags is None else tags.get(number, default)


def _bits(tags: Tags | None) -> int:
    return max(_tag(tags, TIFF_BITS, (1,)))


def _sample_format(tags: Tags) -> int:
    return max(tags.get(TIFF_FORMAT, (UNSIGNED,)))


def _unsupported(path: str | os.PathLike[str], tags: Tags) -> DataError:
    """The DataError for a kind of TIFF that cannot be read, with all that makes it unusual."""
    kind = f"{_bits(tags)}-bit {FORMAT_NAMES.get(_sample_format(tags), 'samples of an unknown format')}"
    samples, compression = tags.get(TIFF_SAMPLES, 1), tags.get(TIFF_COMPRESSION, NOT_COMPRESSED)
    photometric = tags.get(TIFF_PHOTOMETRIC, "missing")
    unusual = {
        "big-endian": tags.prefix == b"MM",
        f"{samples} samples per pixel": samples > 1,
        "in separate planes": tags.get(TIFF_PLANAR) == SEPARATE_PLANES,
        f"compression {compression}": compression != NOT_COMPRESSED,
        f"photometric interpretation {photometric}": photometric != BLACK_IS_ZERO,
    }
    names = ", ".join(name for name, is_so in unusual.items() if is_so)
    return DataError(f"{path} is a TIFF of {kind}{f' ({names})' if names else ''}, {NOT_SUPPORTED}")


def _check_white_known(values: npt.NDArray[Any], path: str | os.PathLike[str]) -> None:
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > 65535:
        raise DataError(
            f"{path} holds integers from {lowest} to {highest}, and which of them is white is unknown: "
            "save it with 16 bits, 0 to 65535."
        )


def _grey_from_float(
    values: npt.NDArray[np.float32], path: str | os.PathLike[str]
) -> tuple[npt.NDArray[np.float32], list[str]]:
    lowest, highest = float(values.min()), float(values.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise DataError(f"{path} holds values that are not numbers (NaN or infinite): save it with 16 bits.")
    if lowest >= 0 and highest <= 1:
        return values.copy(), []  # Pillow's own memory cannot be written to
    # in double precision, because the difference of two large floats may overflow in single
    scaled = (values.astype(np.float64) - lowest) / max(highest - lowest, np.finfo(np.float64).tiny)
    return scaled.astype(np.float32), ["stretched"]

"""DICOM -> stored values, whatever the transfer syntax."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evax.data.dicom.header import Unfit, known_name
from evax.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

START_OF_FRAME = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG-LS and JPEG: a picture's size
TWELVE_BITS = "12 bits"


def name_transfer_syntax(dataset: Dataset) -> bool:
    """Give a data set without transfer syntax the one pydicom found its elements in; True if it had none."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if dataset.file_meta.get("TransferSyntaxUID"):
        return False
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return True


def decode(dataset: Dataset, path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Stored values (H, W), or (H, W, 3) in RGB, as the transfer syntax holds them.

    Native, deflated, RLE, JPEG (baseline, extended, lossless), JPEG-LS, JPEG 2000 and HTJ2K. Raises DataError
    for any other syntax; Unfit for pixels that are not as their header says.
    """
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

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
    plugin = ""
    if syntax in JPEGTransferSyntaxes + JPEGLSTransferSyntaxes:
        plugin = _checked_jpeg(dataset)
    if plugin == TWELVE_BITS:
        return _decode_12_bits(dataset)
    try:
        # unused bits are seen to in codes.py; a view is enough, because nothing writes into it
        stored: npt.NDArray[Any] = pixel_array(
            dataset, view_only=True, correct_unused_bits=False, decoding_plugin=plugin
        )
    except Exception as error:  # codecs raise anything on damaged bytes, and quote what they like
        raise Unfit("its pixels cannot be decoded as its header describes them") from error
    return stored


def _checked_jpeg(dataset: Dataset) -> str:
    """Who decodes a JPEG frame: a plugin of pydicom, "" for its first choice, or TWELVE_BITS.

    Raises Unfit unless the frame is of the size the data set says: gdcm's codecs believe the frame,
    write past the memory reserved for the data set's size, and may end the whole process.
    """
    from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit

    frame = _frame(dataset)
    position = 2
    while (marker := frame[position + 1]) not in START_OF_FRAME:
        if frame[position] != 0xFF:
            raise Unfit("its JPEG frame has a broken marker")
        # one segment on, or one fill byte
        position += 1 if marker == 0xFF else 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
    precision, *found = struct.unpack_from(">BHHB", frame, position + 4)
    expected = [int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel)]
    if found != expected or not 2 <= precision <= dataset.BitsAllocated:
        raise Unfit(
            f"its JPEG frame holds {found} rows, columns and samples of {precision} bits, "
            f"its header announces {expected} of at most {int(dataset.BitsAllocated)}"
        )
    if dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit and precision == 12:
        return TWELVE_BITS
    if dataset.file_meta.TransferSyntaxUID in (JPEGBaseline8Bit, JPEGExtended12Bit):
        return "pillow"  # gdcm's 8-bit JPEG codec can end the whole process on damaged bytes
    return ""


def _decode_12_bits(dataset: Dataset) -> npt.NDArray[np.uint16]:
    """A film of JPEG Extended with 12 bits; gdcm reads it, but pydicom does not hand it over."""
    import gdcm

    if dataset.PixelRepresentation == 1 or dataset.SamplesPerPixel != 1 or dataset.BitsAllocated != 16:
        raise Unfit("12-bit JPEG holds grey values without sign in 16 bits, its header says otherwise")
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(_frame(dataset))
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((int(dataset.Columns), int(dataset.Rows), 1))
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    image.SetDataElement(element)
    content = image.GetBuffer().encode("utf-8", "surrogateescape")  # gdcm gives bytes as text
    return np.frombuffer(content, dtype="<u2").reshape(dataset.Rows, dataset.Columns)


def _frame(dataset: Dataset) -> bytes:
    from pydicom.encaps import generate_frames

    return next(generate_frames(dataset.PixelData, number_of_frames=1))

"""Every transfer syntax gives the pixels that were written, whoever wrote them: GDCM, DCMTK, OpenJPH."""

from __future__ import annotations

import base64
import shutil
import subprocess

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2K, ExplicitVRBigEndian, ExplicitVRLittleEndian, HTJ2KLossless
from tests.dicoms import changed, film, palette_tags, shows, write

from evax.data.dicom.reading import read_dicom
from evax.errors import DataError

DEPTHS = {  # bits stored, signed
    "8 bits": (8, False), "12 bits": (12, False), "16 bits": (16, False), "12 bits signed": (12, True),
}  # fmt: skip
GDCM_LOSSLESS = (
    "JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless",
)  # fmt: skip


def smooth(bits, signed=False, shape=(40, 36)):
    """A picture without jumps, as lossy codecs want it; from the lowest to the highest value."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    wave = np.sin(5 * x) * np.cos(4 * y)
    scaled = (wave - wave.min()) / np.ptp(wave) * (2**bits - 1) - (2 ** (bits - 1) if signed else 0)
    return np.rint(scaled).astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def by_formula(stored, bits, signed, tags, photometric="MONOCHROME2"):
    """[0, 1] straight from the stored values: LINEAR_EXACT by its formula, or the full scale of 8 bits."""
    values = stored.astype(np.float64)
    if tags:
        shown = np.clip((values - tags["WindowCenter"]) / tags["WindowWidth"] + 0.5, 0, 1)
    else:
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        shown = (values - low) / (high - low)
    return 1 - shown if photometric == "MONOCHROME1" else shown


def window(bits, signed):
    middle = 0 if signed else 2 ** (bits - 1)
    return {"WindowCenter": middle, "WindowWidth": 0.8 * 2**bits, "VOILUTFunction": "LINEAR_EXACT"}


def by_gdcm(source, target, syntax):
    """GDCM as a writer, whose codecs for JPEG are not those that pydicom has."""
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(source))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(target).file_meta.TransferSyntaxUID.is_compressed
    return target


def by_dcmtk(source, target, *command):
    """DCMTK as a writer."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} of DCMTK is not installed (Debian: dcmtk)")
    subprocess.run([command[0], *command[1:], source, target], check=True, capture_output=True)
    return target


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("syntax", GDCM_LOSSLESS)
def test_what_gdcm_writes_without_loss_is_read_as_the_formulas_say(tmp_path, syntax, depth, photometric):
    bits, signed = DEPTHS[depth]
    # without a window 8 bits keep their full scale; a deeper image has an estimated range, see test_dicom.py
    stored, tags = film(bits, signed), window(bits, signed) if bits > 8 else {}
    plain = write(tmp_path / "a.dcm", stored, BitsStored=bits, PhotometricInterpretation=photometric, **tags)
    shows(by_gdcm(plain, tmp_path / "b.dcm", syntax), by_formula(stored, bits, signed, tags, photometric), ())


DCMTK_LOSSLESS = {
    "implicit": ("dcmconv", "+ti"),
    "big endian": ("dcmconv", "+tb"),
    "deflated": ("dcmconv", "+td"),
    "JPEG lossless": ("dcmcjpeg", "+e1"),
    "JPEG lossless, any predictor": ("dcmcjpeg", "+el", "+sv", "6"),
    "JPEG-LS": ("dcmcjpls", "+el"),
    "RLE": ("dcmcrle",),
}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("syntax", DCMTK_LOSSLESS)
def test_what_dcmtk_writes_without_loss_is_read_as_the_formulas_say(tmp_path, syntax, depth):
    bits, signed = DEPTHS[depth]
    stored, tags = film(bits, signed), window(bits, signed)
    plain = write(tmp_path / "a.dcm", stored, BitsStored=bits, **tags)
    shows(
        by_dcmtk(plain, tmp_path / "b.dcm", *DCMTK_LOSSLESS[syntax]),
        by_formula(stored, bits, signed, tags),
        (),
    )


@pytest.mark.parametrize(
    ("command", "bits", "most"),
    [
        (("dcmcjpeg", "+eb", "+q", "95"), 8, 3),  # baseline
        (("dcmcjpeg", "+ee", "+q", "95"), 12, 24),  # extended
        (("dcmcjpls", "+en", "+md", "2"), 12, 2),  # the loss that JPEG-LS may have is a setting of it
    ],
)
def test_what_dcmtk_writes_with_loss_is_read_within_its_loss(tmp_path, command, bits, most):
    stored, tags = smooth(bits), window(bits, False)
    path = by_dcmtk(write(tmp_path / "a.dcm", stored, BitsStored=bits, **tags), tmp_path / "b.dcm", *command)
    loss = np.abs(read_dicom(path).pixels - by_formula(stored, bits, False, tags))
    assert loss.max() * tags["WindowWidth"] <= most + 0.01


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_twelve_bit_jpeg_is_decoded_as_dcmtk_decodes_it(tmp_path, name):
    plain = by_dcmtk(get_testdata_file(name, download=False), tmp_path / "a.dcm", "dcmdjpeg")
    film_of_gdcm = read_dicom(get_testdata_file(name, download=False))
    np.testing.assert_array_equal(film_of_gdcm.pixels, read_dicom(plain).pixels)
    assert film_of_gdcm.pixels.std() > 0.05


def test_signed_values_in_a_twelve_bit_jpeg_are_refused(tmp_path):
    path = tmp_path / "a.dcm"
    shutil.copy(get_testdata_file("JPGExtended.dcm", download=False), path)
    with pytest.raises(DataError, match="grey values without sign"):
        read_dicom(changed(path, PixelRepresentation=1))


# smooth(12, shape=(16, 16)) as OpenJPH 0.9 writes it without loss
HTJ2K_FRAME = base64.b64decode(
    "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABCwEB/1AACAACAAAAB/9SAAwAAgABAAICAkAB/1wACiBweHh4"
    "cHB4/2QAFgABT3BlbkpQSCBWZXIgMC45LjAu/5AACgAAAAABOgAB/5PAAW+ADiEJ3mGaSLPw5478Bv8Q7qYhlp+iprz+MCiQoGqXAMAA"
    "tqAAWxAALVDeAZqkrYABjSZeLPjTegUsYCuKFSRGICKXABwC0iQmGC8XFxSngAvwFPkHJcSEIGqYALAACYDUojUTIaC5+AAAQPiQRPqZ"
    "AMABekwAF6FAALogPpuIgXSRIB7n+VmclyCCVcFmYBUkwSdQXewjmdcwMA0NA3liJ/SDcbvbZ3KsjSrBnY3mgZihHWPWTSSBAAAFEAaA"
    "EMYAADKzAQCA2LaGcwoOAEVdZwC2mJM5aUvFlFRbNG8Tv0fAJRi4wBKOecx7zE0gAQZKE3rJEgKiQEMkhFJNcfQYF5GochqTAQgC7MKI"
    "iCi9nkrYyFGBKAXlQSBtkgKNLVKDV0BZGroysQH/2Q=="
)


def test_high_throughput_jpeg_2000_is_read_as_the_formulas_say(tmp_path):
    stored, tags = smooth(12, shape=(16, 16)), window(12, False)
    frame = encapsulate([HTJ2K_FRAME])
    path = write(tmp_path / "a.dcm", stored, HTJ2KLossless, BitsStored=12, PixelData=frame, **tags)
    shows(path, by_formula(stored, 12, False, tags))


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2K])
def test_what_openjph_writes_is_read_within_its_loss(tmp_path, syntax, bits):
    if shutil.which("ojph_compress") is None:
        pytest.skip("ojph_compress of OpenJPH is not installed (Debian: openjph-tools)")
    stored, tags = smooth(bits), window(bits, False)
    picture, stream, lossless = tmp_path / "a.pgm", tmp_path / "a.j2c", syntax == HTJ2KLossless
    content = stored.astype(">u2" if bits > 8 else "u1").tobytes()
    picture.write_bytes(b"P5\n%d %d\n%d\n" % (*stored.shape[::-1], 2**bits - 1) + content)
    loss = ["-reversible", "true"] if lossless else ["-reversible", "false", "-qstep", "0.001"]
    subprocess.run(["ojph_compress", "-i", picture, "-o", stream, *loss], check=True, capture_output=True)
    frame = encapsulate([stream.read_bytes()])
    path = write(tmp_path / "a.dcm", stored, syntax, BitsStored=bits, PixelData=frame, **tags)
    shows(path, by_formula(stored, bits, False, tags), atol=1e-6 if lossless else 0.01)


# --- Bits Stored and overlays -----------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [None, "RLELossless", "JPEGLSLossless", "JPEG2000Lossless"])
def test_too_few_bits_stored_are_reported_and_every_value_is_shown(tmp_path, syntax, signed):
    stored, tags = smooth(14, signed), window(14, signed)
    path = write(tmp_path / "a.dcm", stored, BitsStored=14, **tags)
    path = by_gdcm(path, tmp_path / "b.dcm", syntax) if syntax else path
    expected = read_dicom(path).pixels
    radiograph = read_dicom(changed(path, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(radiograph.pixels, expected)
    assert "bad_bits_stored" in radiograph.issues


def overlay(stored, position):
    """A rectangle in one unused bit of an image's pixels."""
    drawn = stored.copy()
    drawn[5:20, 8:30] |= stored.dtype.type(1 << position)
    return drawn


@pytest.mark.parametrize("syntax", [None, "RLELossless", "JPEGLosslessProcess14_1", "JPEGLSLossless"])
def test_an_overlay_in_the_unused_bits_is_not_in_the_picture(tmp_path, syntax):
    stored, tags = smooth(12), window(12, False)
    clean = read_dicom(write(tmp_path / "a.dcm", stored, BitsStored=12, **tags))
    path = write(tmp_path / "b.dcm", overlay(stored, 14), BitsStored=16, **tags)
    path = by_gdcm(path, tmp_path / "c.dcm", syntax) if syntax else path
    dataset = pydicom.dcmread(changed(path, BitsStored=12, HighBit=11))
    for element, value in [(0x0010, 40), (0x0011, 36), (0x0100, 16), (0x0102, 14)]:
        dataset.add_new((0x6000, element), "US", value)
    dataset.save_as(path)
    radiograph = read_dicom(path)
    np.testing.assert_array_equal(radiograph.pixels, clean.pixels)
    assert radiograph.issues == ()


def test_a_bit_of_the_value_is_no_overlay_whatever_a_header_says(tmp_path):
    path = write(tmp_path / "a.dcm", smooth(12) << 4, BitsStored=12, HighBit=15, **window(12, False))
    expected = read_dicom(path).pixels
    dataset = pydicom.dcmread(path)
    dataset.add_new((0x6000, 0x0102), "US", 14)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_dicom(path).pixels, expected)


def test_an_overlay_plane_beside_the_pixels_is_not_drawn(tmp_path):
    path = write(tmp_path / "a.dcm", smooth(8))
    clean = read_dicom(path)
    dataset = pydicom.dcmread(path)
    for element, value in [(0x0010, 40), (0x0011, 36), (0x0100, 1), (0x0102, 0)]:
        dataset.add_new((0x6000, element), "US", value)
    dataset.add_new((0x6000, 0x3000), "OW", b"\xff" * 180)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_dicom(path).pixels, clean.pixels)


# --- palettes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [257, 1], ids=["16-bit entries", "8-bit entries in 16 bits"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_palette_is_read_in_the_order_of_its_bytes(tmp_path, syntax, scale):
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    tags = palette_tags((np.arange(256)[::-1] * scale).astype(order).tobytes())
    shows(write(tmp_path / "a.dcm", film(8), syntax, **tags), 1 - film(8) / 255)


def test_a_real_palette_image_is_the_same_in_both_orders_of_bytes():
    little, big = (get_testdata_file(f"OBXXXX1A{end}.dcm", download=False) for end in ("", "_expb"))
    if little is None:
        pytest.skip("the package pydicom-data is not installed")
    np.testing.assert_array_equal(read_dicom(big).pixels, read_dicom(little).pixels)
    assert read_dicom(big).pixels.std() > 0.05

"""Every transfer syntax gives the pixels that were written, whoever wrote them: GDCM, DCMTK, OpenJPH."""

from __future__ import annotations

import shutil
import subprocess

import gdcm
import numpy as np
import pydicom
import pytest
from tests.dicoms import film, write

from evax.data.dicom import read_dicom

DEPTHS = {  # bits stored, signed
    "8 bits": (8, False),
    "12 bits": (12, False),
    "16 bits": (16, False),
    "12 bits signed": (12, True),
}
GDCM_LOSSLESS = (
    "JPEGLosslessProcess14",
    "JPEGLosslessProcess14_1",
    "JPEGLSLossless",
    "JPEG2000Lossless",
    "RLELossless",
)


def smooth(bits, signed=False, shape=(40, 36)):
    """A picture without jumps, as lossy codecs want it; from the lowest to the highest value."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    wave = np.sin(5 * x) * np.cos(4 * y)
    scaled = (wave - wave.min()) / np.ptp(wave) * (2**bits - 1) - (2 ** (bits - 1) if signed else 0)
    return np.rint(scaled).astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def by_formula(stored, bits, signed, photometric, tags):
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
    """DCMTK as a writer; Debian has it as dcmtk."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} of DCMTK is not installed")
    subprocess.run([command[0], *command[1:], source, target], check=True, capture_output=True)
    return target


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("syntax", GDCM_LOSSLESS)
def test_what_gdcm_writes_without_loss_is_read_as_the_formulas_say(tmp_path, syntax, depth, photometric):
    bits, signed = DEPTHS[depth]
    # without a window 8 bits keep their full scale; a deeper film has an estimated range, see test_dicom.py
    stored, tags = film(bits, signed), window(bits, signed) if bits > 8 else {}
    plain = write(tmp_path / "a.dcm", stored, BitsStored=bits, PhotometricInterpretation=photometric, **tags)
    radiograph = read_dicom(by_gdcm(plain, tmp_path / "b.dcm", syntax))
    np.testing.assert_allclose(
        radiograph.pixels, by_formula(stored, bits, signed, photometric, tags), atol=1e-6
    )
    assert radiograph.issues == ()


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
    radiograph = read_dicom(by_dcmtk(plain, tmp_path / "b.dcm", *DCMTK_LOSSLESS[syntax]))
    np.testing.assert_allclose(
        radiograph.pixels, by_formula(stored, bits, signed, "MONOCHROME2", tags), atol=1e-6
    )
    assert radiograph.issues == ()

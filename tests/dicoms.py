"""DICOM images of given stored values, for the tests of the grey-scale chain and of the codecs."""

from __future__ import annotations

import numpy as np
import pydicom
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from evax.data.dicom.reading import read_dicom

SECRET = "SECRET77"


def write(path, stored, syntax=ExplicitVRLittleEndian, *, remove=(), **tags):
    """A DICOM image with these stored values; `tags` by keyword, `remove` by keyword."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    little = syntax != ExplicitVRBigEndian
    bits = 8 * stored.dtype.itemsize
    values = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": "1.2.3.4",
        "StudyInstanceUID": "1.2.3",
        "PatientID": SECRET,
        "PatientName": SECRET,
        "PatientSex": "F",
        "Modality": "DX",
        "ViewPosition": "PA",
        "PixelSpacing": [0.2, 0.1],
        "SamplesPerPixel": 3 if stored.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if stored.ndim == 3 else "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        **({"PlanarConfiguration": 0} if stored.ndim == 3 else {}),
    } | tags
    values.setdefault("HighBit", values["BitsStored"] - 1)
    for keyword, value in values.items():
        if keyword not in remove:
            setattr(dataset, keyword, value)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == JPEG2000Lossless and "PixelData" not in tags:
        dataset.PixelData = encapsulate([encode_array(stored, bits_stored=values["BitsStored"])])
    elif "PixelData" not in tags:
        dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<" if little else ">")).tobytes()
        if syntax == RLELossless:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.compress(RLELossless)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if bits == 8 or syntax.is_encapsulated else "OW"
    if "PixelData" in remove:
        del dataset.PixelData
    pydicom.dcmwrite(
        path,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=little,
        enforce_file_format=True,
    )
    return path


def changed(path, **tags):
    """The same pixel bytes under another header."""
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def shows(path, expected, issues=None, *, atol=1e-6):
    """The image, whose pixels must be the expected ones, and its issues, where they are given."""
    radiograph = read_dicom(path)
    np.testing.assert_allclose(radiograph.pixels, expected, atol=atol)
    assert issues is None or radiograph.issues == tuple(issues)
    return radiograph


def palette_tags(entries):
    """Tags of an image in these 256 entries of 16 bits, for each colour alike."""
    names = [f"{name}PaletteColorLookupTable" for name in ("Red", "Green", "Blue")]
    tags = {f"{name}Data": entries for name in names} | {f"{name}Descriptor": [256, 0, 16] for name in names}
    return {"PhotometricInterpretation": "PALETTE COLOR"} | tags


def lookup_table(entries, first, bits, *, little=True):
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 2**16, first, bits]
    item.add_new("LUTData", "OW", np.asarray(entries, dtype="<u2" if little else ">u2").tobytes())
    return item


def code_item(value):
    item = Dataset()
    item.CodeValue = value
    return item


def film(bits=12, signed=False, shape=(36, 34), seed=0):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    stored = np.random.default_rng(seed).integers(low, high, shape)
    stored.flat[:2] = low, high - 1
    return stored.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")

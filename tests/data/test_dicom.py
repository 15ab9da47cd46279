"""Conformance of the grey-scale chain (golden pixels by the standard's formulas), refusals, descriptions."""

from __future__ import annotations

import io
import math
import struct
import warnings

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HEVCMP51,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from tests.dicoms import SECRET, film, lookup_table, write

from evax.data.dicom import is_dicom, read_header
from evax.data.dicom.reading import read_dicom
from evax.data.pictures import read_image
from evax.errors import DataError

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big_endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg2000": JPEG2000Lossless,
}


# --- the grey-scale chain ---------------------------------------------------------------------------


def window_tags(kind, low, high, little):
    if kind == "none":
        return {}
    if kind == "lut":
        entries = np.round(4095 * np.linspace(0, 1, (high - low) // 2) ** 2).astype(int)
        return {"VOILUTSequence": [lookup_table(entries, low + (high - low) // 4, 12, little=little)]}
    tags = {"WindowCenter": low + 0.4 * (high - low), "WindowWidth": 0.5 * (high - low)}
    return tags if kind == "linear" else tags | {"VOILUTFunction": kind}


def golden(kind, stored, low, high):
    """The formulas of PS3.3 C.11.2.1, value by value, on stored values without rescale."""
    center, width = low + 0.4 * (high - low), 0.5 * (high - low)

    def one(x):
        if kind == "lut":
            last = (high - low) // 2 - 1
            entry = min(max(x - (low + (high - low) // 4), 0), last)
            return round(4095 * (entry / last) ** 2) / 4095
        if kind == "SIGMOID":
            return 1 / (1 + math.exp(-4 * (x - center) / width))
        if kind == "LINEAR_EXACT":
            if x <= center - width / 2:
                return 0.0
            return 1.0 if x > center + width / 2 else (x - center) / width + 0.5
        if kind == "linear":
            if x <= center - 0.5 - (width - 1) / 2:
                return 0.0
            if x > center - 0.5 + (width - 1) / 2:
                return 1.0
            return (x - (center - 0.5)) / (width - 1) + 0.5
        if high - low > 255:
            bottom, top = np.percentile(stored, [0.1, 99.9], method="inverted_cdf").astype(float)
        else:
            bottom, top = low, high
        return min(max((x - bottom) / (top - bottom), 0), 1)

    return np.array([[one(int(x)) for x in row] for row in stored])


@pytest.mark.parametrize("kind", ["none", "linear", "LINEAR_EXACT", "SIGMOID", "lut"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pixels_follow_the_formulas_of_the_standard(tmp_path, syntax, bits, signed, kind):
    stored = film(bits, signed)
    low, high = int(stored.min()), int(stored.max())
    tags = window_tags(kind, low, high, little=syntax != "big_endian")
    expected = golden(kind, stored, low, high)
    for photometric, truth in [("MONOCHROME2", expected), ("MONOCHROME1", 1 - expected)]:
        path = write(
            tmp_path / f"{photometric}.dcm",
            stored,
            SYNTAXES[syntax],
            BitsStored=bits,
            PhotometricInterpretation=photometric,
            **tags,
        )
        radiograph = read_dicom(path)
        assert radiograph.pixels.dtype == np.float32
        np.testing.assert_allclose(radiograph.pixels, truth, atol=1e-6)
        assert radiograph.issues == (("no_window",) if kind == "none" and bits > 8 else ())


def test_windows_are_in_units_after_the_rescale(tmp_path):
    stored = film(12)
    path = write(
        tmp_path / "a.dcm",
        stored,
        BitsStored=12,
        RescaleSlope=0.5,
        RescaleIntercept=-1000,
        WindowCenter=100,
        WindowWidth=401,
    )
    expected = np.clip((stored * 0.5 - 1000 - 99.5) / 400 + 0.5, 0, 1)
    np.testing.assert_allclose(read_dicom(path).pixels, expected, atol=1e-6)


def test_a_negative_slope_turns_the_image_over(tmp_path):
    stored = film(12)
    path = write(tmp_path / "a.dcm", stored, BitsStored=12, RescaleSlope=-1, RescaleIntercept=4095)
    upright = write(tmp_path / "b.dcm", 4095 - stored, BitsStored=12)
    np.testing.assert_allclose(read_dicom(path).pixels, read_dicom(upright).pixels, atol=1e-6)


def test_modality_lut_comes_before_the_window(tmp_path):
    stored = film(8)
    entries = np.arange(200) * 300
    tags = {
        "ModalityLUTSequence": [lookup_table(entries, 20, 16)],
        "WindowCenter": 30000,
        "WindowWidth": 40001,
    }
    path = write(tmp_path / "a.dcm", stored, **tags)
    units = entries[np.clip(stored.astype(int) - 20, 0, 199)]
    np.testing.assert_allclose(
        read_dicom(path).pixels, np.clip((units - 29999.5) / 40000 + 0.5, 0, 1), atol=1e-6
    )


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_lookup_tables_are_read_as_words_and_as_numbers(tmp_path, syntax):
    item = Dataset()
    item.LUTDescriptor = [4, 0, 8]
    item.add_new("LUTData", "US", [0, 10, 100, 255])
    path = write(
        tmp_path / "a.dcm", np.arange(4, dtype="u2")[None], syntax, BitsStored=12, VOILUTSequence=[item]
    )
    np.testing.assert_allclose(read_dicom(path).pixels * 255, [[0, 10, 100, 255]], atol=1e-4)


def test_a_lookup_table_may_have_an_entry_for_each_of_65536_values(tmp_path):
    table = lookup_table(np.arange(65536)[::-1], 0, 16)
    path = write(tmp_path / "a.dcm", film(16), VOILUTSequence=[table])
    np.testing.assert_allclose(read_dicom(path).pixels, 1 - film(16) / 65535, atol=1e-6)


def test_a_lookup_table_that_understates_its_bits_is_not_clipped(tmp_path):
    path = write(tmp_path / "a.dcm", film(8), VOILUTSequence=[lookup_table(np.arange(256) * 16, 0, 8)])
    np.testing.assert_allclose(read_dicom(path).pixels, film(8) / 255, atol=1e-6)


def test_lookup_table_of_a_rescaled_image_may_start_below_zero(tmp_path):
    stored = np.arange(100, dtype="u2")[None]
    table = lookup_table(
        np.arange(101) * 40, 65536 - 50, 12
    )  # -50, written as US because pixels are unsigned
    path = write(
        tmp_path / "a.dcm",
        stored,
        BitsStored=12,
        RescaleSlope=1,
        RescaleIntercept=-50,
        VOILUTSequence=[table],
    )
    np.testing.assert_allclose(read_dicom(path).pixels, stored * 40 / 4095, atol=1e-6)


def test_a_voi_lut_is_preferred_to_a_window_and_the_first_window_to_the_second(tmp_path):
    stored = film(8)
    windows = {"WindowCenter": [100, 20], "WindowWidth": [51, 10]}
    both = write(tmp_path / "a.dcm", stored, VOILUTSequence=[lookup_table(range(256), 0, 8)], **windows)
    np.testing.assert_allclose(read_dicom(both).pixels, stored / 255, atol=1e-6)
    first = write(tmp_path / "b.dcm", stored, **windows)
    np.testing.assert_allclose(read_dicom(first).pixels, np.clip((stored - 99.5) / 50 + 0.5, 0, 1), atol=1e-6)


@pytest.mark.parametrize("syntax", ["explicit", "big_endian", "rle"])
def test_bits_that_are_not_stored_are_masked(tmp_path, syntax):
    stored = film(12)
    overlay = stored | 0x5000
    clean = read_dicom(write(tmp_path / "a.dcm", stored, SYNTAXES[syntax], BitsStored=12))
    masked = read_dicom(write(tmp_path / "b.dcm", overlay, SYNTAXES[syntax], BitsStored=12))
    np.testing.assert_array_equal(masked.pixels, clean.pixels)


def test_a_high_bit_at_the_top_shifts_the_values_down(tmp_path):
    stored = film(12)
    clean = read_dicom(write(tmp_path / "a.dcm", stored, BitsStored=12))
    shifted = read_dicom(write(tmp_path / "b.dcm", stored << 4, BitsStored=12, HighBit=15))
    np.testing.assert_array_equal(shifted.pixels, clean.pixels)


def test_too_few_bits_stored_do_not_wrap_a_compressed_image_around(tmp_path):
    ramp = np.linspace(0, 60000, 1600).astype("u2").reshape(40, 40)
    path = tmp_path / "a.dcm"
    write(path, ramp, JPEG2000Lossless, WindowCenter=30000, WindowWidth=60000)
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.save_as(path)
    assert (np.diff(read_dicom(path).pixels.ravel()) >= 0).all()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", [None, JPEG2000Lossless])
def test_eight_bits_in_sixteen_keep_their_full_scale_without_a_window(tmp_path, syntax, photometric):
    stored = film(8).astype("u2")
    path = tmp_path / "a.dcm"
    tags = {"BitsStored": 8, "HighBit": 7, "PhotometricInterpretation": photometric}
    write(path, stored, *([syntax] if syntax else []), **tags)
    expected = stored / 255 if photometric == "MONOCHROME2" else 1 - stored / 255
    np.testing.assert_allclose(read_dicom(path).pixels, expected, atol=1e-6)


def test_one_bit_images_are_black_and_white(tmp_path):
    stored = np.array([[0, 1, 1, 0, 1, 0, 0, 1]], dtype="u1")
    path = write(tmp_path / "a.dcm", stored, BitsAllocated=1, BitsStored=1, PixelData=b"\x96\0")
    np.testing.assert_array_equal(read_dicom(path).pixels, stored)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
def test_padding_is_black_and_does_not_decide_the_range(tmp_path, photometric, signed):
    stored = film(12, signed)
    frame, bare = np.zeros(stored.shape, bool), stored.copy()
    frame[:3] = True
    low, high = int(stored.min()) + 500, int(stored.max()) - 500
    bare = np.clip(bare, low, high).astype(stored.dtype)
    padded = np.where(frame, stored.min(), bare).astype(stored.dtype)
    tags = {"BitsStored": 12, "PhotometricInterpretation": photometric}
    radiograph = read_dicom(write(tmp_path / "a.dcm", padded, PixelPaddingValue=int(stored.min()), **tags))
    assert (radiograph.pixels[frame] == 0).all()
    assert "padding" in radiograph.issues
    alone = read_dicom(write(tmp_path / "b.dcm", bare[3:], **tags))
    np.testing.assert_allclose(radiograph.pixels[3:], alone.pixels, atol=1e-6)


def test_padding_may_be_a_range(tmp_path):
    stored = np.arange(256, dtype="u1").reshape(16, 16)
    path = write(tmp_path / "a.dcm", stored, PixelPaddingValue=250, PixelPaddingRangeLimit=240)
    pixels = read_dicom(path).pixels
    assert (pixels.ravel()[240:251] == 0).all()
    assert (pixels.ravel()[[239, 251]] > 0.9).all()


def test_negative_padding_may_be_written_as_unsigned(tmp_path):
    stored = film(12, signed=True)
    stored[0] = -2000
    path = write(tmp_path / "a.dcm", stored, BitsStored=12, PixelPaddingValue=-2000)
    signed, unsigned = b"\x28\0\x20\x01SS", b"\x28\0\x20\x01US"
    assert signed in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(signed, unsigned))
    radiograph = read_dicom(path)
    assert "padding" in radiograph.issues
    assert (radiograph.pixels[0] == 0).all()


def test_a_window_that_shows_only_padding_is_ignored(tmp_path):
    stored = np.clip(film(12), 0, 2000)
    stored[0] = 3000
    window = {"WindowCenter": 3000, "WindowWidth": 500}
    radiograph = read_dicom(
        write(tmp_path / "a.dcm", stored, BitsStored=12, PixelPaddingValue=3000, **window)
    )
    assert radiograph.issues == ("padding", "bad_window")
    assert radiograph.pixels.std() > 0.2


def test_a_padding_value_no_pixel_has_is_no_issue(tmp_path):
    path = write(tmp_path / "a.dcm", np.full((4, 4), 7, "u1") + np.eye(4, dtype="u1"), PixelPaddingValue=200)
    assert read_dicom(path).issues == ()


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 60000, "WindowWidth": 100},
        {"WindowCenter": 10, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": 1},
        {"WindowCenter": 2000},
        {"WindowCenter": 2000, "WindowWidth": 500, "VOILUTFunction": "CUBIC"},
        {"VOILUTSequence": [lookup_table([], 0, 12)]},
    ],
)
def test_a_window_that_shows_nothing_is_ignored_and_reported(tmp_path, window):
    stored = film(12)
    expected = read_dicom(write(tmp_path / "a.dcm", stored, BitsStored=12))
    radiograph = read_dicom(write(tmp_path / "b.dcm", stored, BitsStored=12, **window))
    assert radiograph.issues == ("bad_window",)
    np.testing.assert_array_equal(radiograph.pixels, expected.pixels)


def test_where_the_first_window_shows_nothing_the_next_is_taken(tmp_path):
    windows = {"WindowCenter": [60000, 2000], "WindowWidth": [100, 1001]}
    radiograph = read_dicom(write(tmp_path / "a.dcm", film(12), BitsStored=12, **windows))
    np.testing.assert_allclose(radiograph.pixels, np.clip((film(12) - 1999.5) / 1000 + 0.5, 0, 1), atol=1e-6)
    tables = [lookup_table([], 0, 12), lookup_table(range(4096), 0, 12)]
    by_table = read_dicom(write(tmp_path / "b.dcm", film(12), BitsStored=12, VOILUTSequence=tables))
    np.testing.assert_allclose(by_table.pixels, film(12) / 4095, atol=1e-6)
    assert radiograph.issues == by_table.issues == ("bad_window",)


def test_a_window_that_is_no_number_is_ignored(tmp_path):
    path = write(tmp_path / "a.dcm", film(12), BitsStored=12, WindowCenter="1234", WindowWidth="500")
    path.write_bytes(path.read_bytes().replace(b"1234", b"abcd"))
    assert read_dicom(path).issues == ("bad_window",)


def test_a_slope_of_zero_is_ignored_and_reported(tmp_path):
    path = write(tmp_path / "a.dcm", film(8), RescaleSlope=0, RescaleIntercept=0)
    radiograph = read_dicom(path)
    assert radiograph.issues == ("bad_rescale",)
    np.testing.assert_allclose(radiograph.pixels, film(8) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("photometric", "shape", "issues"),
    [
        ("MONOCHROME1", "INVERSE", ()),
        ("MONOCHROME2", "IDENTITY", ()),
        ("MONOCHROME1", "IDENTITY", ("polarity_conflict",)),
        ("MONOCHROME2", "INVERSE", ("polarity_conflict",)),
    ],
)
def test_photometric_interpretation_decides_the_polarity(tmp_path, photometric, shape, issues):
    path = write(
        tmp_path / "a.dcm", film(8), PhotometricInterpretation=photometric, PresentationLUTShape=shape
    )
    radiograph = read_dicom(path)
    expected = film(8) / 255 if photometric == "MONOCHROME2" else 1 - film(8) / 255
    np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)
    assert radiograph.issues == issues


def test_the_rare_values_of_a_nearly_empty_image_are_shown(tmp_path):
    stored = np.full((100, 100), 900, "u2")
    stored[50, 50:52] = 400, 1400
    pixels = read_dicom(write(tmp_path / "a.dcm", stored, BitsStored=12)).pixels
    np.testing.assert_allclose(pixels[50, 49:53], [0.5, 0, 1, 0.5], atol=1e-6)


def test_an_image_of_one_value_is_blank(tmp_path):
    path = write(tmp_path / "a.dcm", np.full((4, 4), 900, "u2"), BitsStored=12)
    assert set(read_dicom(path).issues) == {"no_window", "blank"}


# --- colour -----------------------------------------------------------------------------------------


def test_an_rgb_capture_of_a_grey_image_is_grey(tmp_path):
    grey = film(8)
    radiograph = read_dicom(write(tmp_path / "a.dcm", np.repeat(grey[..., None], 3, axis=2)))
    np.testing.assert_allclose(radiograph.pixels, grey / 255, atol=1e-6)
    assert radiograph.issues == ()


def test_a_coloured_capture_is_reported(tmp_path):
    stored = np.zeros((8, 8, 3), "u1")
    stored[..., 0] = np.arange(8) * 36
    radiograph = read_dicom(write(tmp_path / "a.dcm", stored))
    assert radiograph.issues == ("colour",)
    np.testing.assert_allclose(radiograph.pixels[0], np.arange(8) * 36 * 0.299 / 255, atol=0.003)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize(
    ("highest", "stored_bits", "white", "issues"),
    [
        (4095, 16, 4095, ("narrow_range",)),
        (65535, 16, 65535, ()),
        (3000, 12, 4095, ()),
        (900, 12, 4095, ()),  # dark, and the header says how deep it is
        (4095, 10, 4095, ("bad_bits_stored", "narrow_range")),
    ],
)
def test_a_deep_capture_keeps_its_depth(tmp_path, syntax, highest, stored_bits, white, issues):
    grey = np.linspace(0, highest, 96).astype("u2").reshape(12, 8)
    path = write(tmp_path / "a.dcm", np.dstack([grey] * 3), syntax, BitsStored=stored_bits)
    radiograph = read_dicom(path)
    np.testing.assert_allclose(radiograph.pixels, grey / white, atol=1e-6)
    assert radiograph.issues == issues


def test_the_colours_of_a_deep_capture_become_luminance_at_full_depth(tmp_path):
    stored = np.random.default_rng(0).integers(0, 4096, (12, 8, 3)).astype("u2")
    radiograph = read_dicom(write(tmp_path / "a.dcm", stored, BitsStored=12))
    expected = stored @ np.array([0.299, 0.587, 0.114]) / 4095
    np.testing.assert_allclose(radiograph.pixels, expected, atol=0.51 / 4095)
    assert radiograph.issues == ("colour",)


def test_luma_and_palette_captures_are_grey(tmp_path):
    grey = film(8)
    ybr = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], axis=2)
    luma = write(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(read_dicom(luma).pixels, grey / 255, atol=1.01 / 255)
    entries = (np.arange(256, dtype="<u2") * 257).tobytes()
    names = [f"{name}PaletteColorLookupTable" for name in ("Red", "Green", "Blue")]
    tags = {f"{name}Data": entries for name in names} | {f"{name}Descriptor": [256, 0, 16] for name in names}
    palette = write(tmp_path / "b.dcm", grey, PhotometricInterpretation="PALETTE COLOR", **tags)
    np.testing.assert_allclose(read_dicom(palette).pixels, grey / 255, atol=1e-6)


def test_a_jpeg_capture_in_colour_space_ybr_is_grey(tmp_path):
    grey = np.tile(np.arange(0, 256, 4, dtype="u1"), (64, 1))
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(buffer, "JPEG", quality=95)
    path = write(
        tmp_path / "a.dcm",
        np.repeat(grey[..., None], 3, axis=2),
        JPEGBaseline8Bit,
        PhotometricInterpretation="YBR_FULL_422",
        PixelData=encapsulate([buffer.getvalue()]),
    )
    radiograph = read_dicom(path)
    np.testing.assert_allclose(radiograph.pixels, grey / 255, atol=0.02)
    assert "colour" not in radiograph.issues


# --- refusals ---------------------------------------------------------------------------------------


BITS_ABOVE = r"Bits Stored \(0028,0101\) is 20, more than Bits Allocated 16"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: write(p, film(), remove=["PixelData"]), "lacks its pixel data"),
        (
            lambda p: write(
                p, film(), remove=["PixelData", "Rows", "Columns"], SOPClassUID=EncapsulatedPDFStorage
            ),
            "Encapsulated PDF Storage",
        ),
        (lambda p: write(p, film(shape=(4, 4)), Rows=2, NumberOfFrames=2), "2 frames"),
        (lambda p: write(p, film(shape=(4, 4)), Rows=20000, Columns=20000), "100 megapixels"),
        (
            lambda p: write(p, film(), Rows=400),
            r"its pixels have 2448 bytes, its header announces one frame of 27200: Rows \(0028,0010\) is 400",
        ),
        *(
            (lambda p, syntax=syntax: write(p, film(), syntax, BitsStored=20, HighBit=19), BITS_ABOVE)
            for syntax in (ExplicitVRLittleEndian, ExplicitVRBigEndian)
        ),
        (
            lambda p: write(p, film(8), BitsStored=12),
            r"Bits Stored \(0028,0101\) is 12, more than Bits Alloc",
        ),
        (lambda p: write(p, film(), BitsStored=0, HighBit=0), r"Bits Stored \(0028,0101\) is 0, less than 1"),
        (lambda p: write(p, film(), BitsAllocated=32, BitsStored=32), "32 bits"),
        (
            lambda p: write(p, film(), remove=["PhotometricInterpretation"]),
            "lacks Photometric Interpretation",
        ),
        (
            lambda p: write(p, film(), PhotometricInterpretation="MONOCHROME 1"),
            "which of its values is white",
        ),
        (lambda p: write(p, film(), PhotometricInterpretation="RGB"), "which of its values is white"),
        (
            lambda p: write(p, film(8), HEVCMP51, PixelData=encapsulate([b"abcd"])),
            r"transfer syntax that cannot be decoded here \(HEVC",
        ),
        (
            lambda p: write(p, film(8), pydicom.uid.UID("1.2.3.99"), PixelData=b"ab"),
            r"transfer syntax that cannot be decoded here \(unknown\)",
        ),
        (lambda p: write(p, film(8), JPEGBaseline8Bit, PixelData=encapsulate([b"abcd"])), "damaged"),
        (lambda p: p.write_bytes(b"no film at all, but long enough to look inside" * 9), "not a DICOM file"),
        (lambda p: p.write_bytes(b"tinyULxx"), "not a DICOM file"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: None, "No such file"),
        (lambda p: p.mkdir(), "folder"),
    ],
)
def test_what_is_no_single_image_is_refused_with_name_and_reason(tmp_path, make, reason, caplog, recwarn):
    path = tmp_path / "film.dcm"
    make(path)
    with pytest.raises(DataError, match=reason) as refusal:
        read_dicom(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert SECRET not in str(refusal.value) + caplog.text + "".join(
        str(warning.message) for warning in recwarn
    )


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_a_truncated_dicom_is_refused_with_its_name(tmp_path, syntax, kept):
    path = write(tmp_path / "film.dcm", film(shape=(64, 64)), SYNTAXES[syntax], BitsStored=12)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"film\.dcm"):
        read_image(path)


def jpeg_film(path, **tags):
    buffer = io.BytesIO()
    Image.fromarray(film(8)).save(buffer, "JPEG")
    return write(path, film(8), JPEGBaseline8Bit, PixelData=encapsulate([buffer.getvalue()]), **tags)


@pytest.mark.parametrize(
    "tags",
    [
        {"Rows": 20},
        {"Columns": 40},
    ],
)
def test_a_jpeg_frame_of_another_size_is_refused_before_it_is_decoded(tmp_path, tags):
    with pytest.raises(DataError, match="its compressed frame holds 36 rows and 34 columns"):
        read_dicom(jpeg_film(tmp_path / "a.dcm", **tags))


@pytest.mark.parametrize(
    ("whole", "broken"),
    [
        (b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x6a"),  # 106 bits per sample
        (b"\xff\xdb", b"\x04\xdb"),  # no marker
    ],
)
def test_a_damaged_jpeg_frame_does_not_end_the_process(tmp_path, whole, broken):
    path = jpeg_film(tmp_path / "a.dcm")
    assert whole in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(whole, broken))
    with pytest.raises(DataError, match="damaged"):
        read_dicom(path)


def test_a_compressed_image_without_transfer_syntax_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm", film(8), JPEG2000Lossless)
    path.write_bytes(bare(path))
    with pytest.raises(DataError, match="does not name its transfer syntax"):
        read_dicom(path)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    tail=st.binary(max_size=20),
    keep=st.integers(0, 4000),
)
def test_damaged_bytes_end_in_an_image_or_a_data_error_without_the_patient(
    tmp_path_factory, flips, tail, keep
):
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    write(path, film(8), WindowCenter=100, WindowWidth=100, VOILUTSequence=[lookup_table(range(256), 0, 8)])
    content = bytearray(path.read_bytes()[: max(keep, 400)] + tail)
    for position, value in flips:
        content[position % len(content)] = value
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_header(path)
            pixels = read_dicom(path).pixels
    except DataError as error:
        assert SECRET not in str(error)  # noqa: PT017
        assert "Type-check" not in str(error)  # noqa: PT017  # a mistake of ours, not of the file
    else:
        assert 0 <= pixels.min() <= pixels.max() <= 1


# --- files without their first part -----------------------------------------------------------------


def bare(path):
    """The data set alone: no preamble, no file meta information."""
    length = int.from_bytes(path.read_bytes()[140:144], "little")
    return path.read_bytes()[144 + length :]


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big_endian"])
def test_a_bare_data_set_is_read_with_an_issue(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", film(12), SYNTAXES[syntax], BitsStored=12)
    whole = read_dicom(path)
    path.write_bytes(bare(path))
    assert is_dicom(path)
    radiograph = read_image(path)
    np.testing.assert_array_equal(radiograph.pixels, whole.pixels)
    assert radiograph.issues == ("no_transfer_syntax", *whole.issues)


def test_a_file_that_lacks_only_its_preamble_is_read(tmp_path):
    path = write(tmp_path / "a.dcm", film(12), BitsStored=12)
    whole = read_dicom(path)
    path.write_bytes(path.read_bytes()[132:])
    assert read_image(path).issues == whole.issues


def group_length(syntax, group, length):
    """The element (group,0000) that old files begin with."""
    order = ">" if syntax == "big_endian" else "<"
    if syntax == "implicit":
        return struct.pack("<HHII", group, 0, 4, length)
    return struct.pack(f"{order}HH2sHI", group, 0, b"UL", 4, length)


@pytest.mark.parametrize("length", [0, 4, 260, 0x41424344, 2**32 - 1])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big_endian"])
def test_a_bare_data_set_that_begins_with_its_group_length_is_read(tmp_path, syntax, length):
    path = write(tmp_path / "a.dcm", film(12), SYNTAXES[syntax], BitsStored=12)
    whole = read_dicom(path)
    (tmp_path / "bare").write_bytes(group_length(syntax, 8, length) + bare(path))
    radiograph = read_image(tmp_path / "bare")
    np.testing.assert_array_equal(radiograph.pixels, whole.pixels)
    assert radiograph.issues == ("no_transfer_syntax", *whole.issues)
    assert read_header(tmp_path / "bare").patient_id == SECRET


def test_meta_information_without_preamble_and_group_length_is_read(tmp_path):
    path = write(tmp_path / "a.dcm", film(12), BitsStored=12)
    whole = read_dicom(path)
    path.write_bytes(path.read_bytes()[144:])
    np.testing.assert_array_equal(read_image(path).pixels, whole.pixels)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    start=st.sampled_from([b"", b"\x08\0", b"\0\x08", b"\x02\0", b"\x08\0\0\0\x04\0\0\0", b"\x08\0\x05\0CS"]),
    rest=st.binary(min_size=8, max_size=300),
)
def test_bytes_that_are_no_elements_are_no_dicom(tmp_path_factory, start, rest):
    path = tmp_path_factory.getbasetemp() / "junk"
    path.write_bytes(start + rest)
    assert not is_dicom(path)


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big_endian"])
def test_elements_out_of_order_or_beyond_the_file_are_no_dicom(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", film(12), SYNTAXES[syntax], BitsStored=12)
    whole = bare(path)
    for content in (group_length(syntax, 8, 9) * 2, whole[:20], group_length(syntax, 6, 9) + whole):
        path.write_bytes(content)
        assert not is_dicom(path)


def test_dicom_is_recognised_by_content_not_by_suffix(tmp_path):
    path = write(tmp_path / "film.png", film(8))
    assert is_dicom(path)
    assert read_image(path).view == "PA"
    other = tmp_path / "film.dcm"
    Image.fromarray(film(8)).save(other, "PNG")
    assert not is_dicom(other)
    np.testing.assert_allclose(read_image(other).pixels, film(8) / 255, atol=1e-6)


# --- descriptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "spacing_mm"),
    [
        ({}, (0.2, 0.1)),
        ({"ImagerPixelSpacing": [0.4, 0.3]}, (0.2, 0.1)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.4, 0.3]}, (0.4, 0.3)),
        ({"PixelSpacing": None, "NominalScannedPixelSpacing": [0.6, 0.5]}, (0.6, 0.5)),
        ({"PixelSpacing": None}, None),
    ],
)
def test_spacing_is_taken_from_the_best_element(tmp_path, tags, spacing_mm):
    radiograph = read_dicom(write(tmp_path / "a.dcm", film(8), **tags))
    assert radiograph.spacing_mm == spacing_mm
    assert radiograph.issues == (() if spacing_mm else ("no_spacing",))


def view_code(value):
    item = Dataset()
    item.CodeValue = value
    return {"ViewPosition": "", "ViewCodeSequence": [item]}


@pytest.mark.parametrize(
    ("tags", "view", "issues"),
    [
        ({"ViewPosition": "PA"}, "PA", ()),
        ({"ViewPosition": "AP"}, "AP", ()),
        ({"ViewPosition": "LL"}, "LATERAL", ("lateral",)),
        ({"ViewPosition": "LATERAL"}, "LATERAL", ("lateral",)),
        ({"ViewPosition": "RLD"}, "LATERAL", ("lateral",)),
        ({"ViewPosition": ""}, None, ("unknown_view",)),
        ({"ViewPosition": "RLO"}, "OTHER", ("other_view",)),
        (view_code("R-10206"), "AP", ()),
        (view_code("272479007"), "PA", ()),
        (view_code("399173006"), "LATERAL", ("lateral",)),
        ({"Modality": "CT"}, "PA", ("modality_CT",)),
        ({"Modality": "SECRET"}, "PA", ("modality_unknown",)),
        ({"Modality": "CR"}, "PA", ()),
        ({"BodyPartExamined": "CHEST"}, "PA", ()),
        ({"BodyPartExamined": "PORT CXR"}, "PA", ()),
        ({"BodyPartExamined": "hand"}, "PA", ("body_part_HAND",)),
        ({"BurnedInAnnotation": "YES"}, "PA", ("burned_in_annotation",)),
        ({"BurnedInAnnotation": "NO"}, "PA", ()),
        ({"PatientOrientation": ["L", "F"]}, "PA", ()),
        ({"PatientOrientation": ["LH", "FL"]}, "PA", ()),
        ({"PatientOrientation": ["R", "F"]}, "PA", ("mirrored",)),
        ({"PatientOrientation": ["F", "R"]}, "PA", ("rotated",)),
        ({"PatientOrientation": ["R", "H"]}, "PA", ("rotated",)),
        ({"PatientOrientation": ["A", "F"], "ViewPosition": "LL"}, "LATERAL", ("lateral",)),
        ({"PresentationIntentType": "FOR PROCESSING"}, "PA", ("for_processing",)),
    ],
)
def test_view_and_kind_of_image_are_reported(tmp_path, tags, view, issues):
    path = write(tmp_path / "a.dcm", film(8), **tags)
    radiograph = read_dicom(path)
    assert (radiograph.view, radiograph.issues) == (view, issues)
    assert read_header(path).view == view


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        ({"PatientAge": "045Y"}, 45),
        ({"PatientAge": "006M"}, 0.5),
        ({"PatientAge": "002W"}, 0),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "030M"}, 2),
        ({"PatientAge": "700D"}, 22 / 12),
        ({"PatientAge": "089Y"}, 89),
        ({"PatientAge": "094Y"}, 90),
        ({"PatientAge": "999Y"}, math.nan),
        ({"PatientBirthDate": "19700101", "StudyDate": "20200101"}, 50),
        ({"PatientBirthDate": "19700102", "StudyDate": "20200101"}, 49),
        ({"PatientBirthDate": "20190315", "StudyDate": "20200314"}, 11 / 12),
        ({"PatientBirthDate": "19200315", "StudyDate": "20200314"}, 90),
        ({"PatientAge": "", "PatientBirthDate": "20200101", "StudyDate": "19700101"}, math.nan),
        ({"PatientBirthDate": "19700101"}, math.nan),
        ({}, math.nan),
    ],
)
def test_age_is_in_whole_years_of_infants_in_whole_months_at_most_90_or_unknown(tmp_path, tags, age):
    header = read_header(write(tmp_path / "a.dcm", film(8), **tags))
    assert header.age == pytest.approx(age, abs=1e-9, nan_ok=True)


def test_the_header_describes_the_image_and_does_not_show_the_patient(tmp_path):
    path = write(tmp_path / "a.dcm", film(8), BodyPartExamined="CHEST", NumberOfFrames=1)
    header = read_header(path)
    assert header.patient_id == SECRET
    assert SECRET not in repr(header)
    assert (header.study_uid, header.image_uid, header.sex) == ("1.2.3", "1.2.3.4", "F")
    assert (header.modality, header.body_part, header.frames) == ("DX", "CHEST", 1)


def test_the_header_of_a_report_has_no_frames_and_unknown_texts_are_empty(tmp_path):
    path = write(tmp_path / "a.dcm", film(8), PatientSex="O", remove=["Rows", "PatientID", "PixelData"])
    header = read_header(path)
    assert (header.frames, header.patient_id, header.sex) == (0, "", "")


def test_reading_a_header_does_not_need_the_pixels(tmp_path):
    path = write(tmp_path / "a.dcm", film(8, shape=(200, 200)))
    path.write_bytes(path.read_bytes()[:1500])
    assert read_header(path).patient_id == SECRET


def test_values_against_the_standard_are_not_quoted_in_warnings(tmp_path, recwarn):
    path = write(tmp_path / "a.dcm", film(8), PatientBirthDate="19700101", StudyDate="20200101")
    path.write_bytes(path.read_bytes().replace(b"19700101", SECRET.encode()))
    assert math.isnan(read_header(path).age)
    read_dicom(path)
    assert not [warning for warning in recwarn if SECRET in str(warning.message)]


# --- real images -------------------------------------------------------------------------------------


def real_film(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("the package pydicom-data is not installed")
    return path


def test_a_real_image_is_the_same_in_three_transfer_syntaxes():
    plain, lossless, lossy = (read_dicom(real_film(f"RG1_{kind}.dcm")) for kind in ("UNCR", "J2KR", "J2KI"))
    np.testing.assert_array_equal(lossless.pixels, plain.pixels)
    assert np.abs(lossy.pixels - plain.pixels).mean() < 0.003
    assert plain.pixels.shape == (1955, 1841)
    assert plain.view == lossless.view == lossy.view == "PA"
    spine, lung = plain.pixels[800:1100, 850:950].mean(), plain.pixels[700:900, 350:450].mean()
    assert spine > lung + 0.2  # bright = dense


def test_a_real_image_agrees_with_pydicoms_own_window():
    path = real_film("RG1_UNCR.dcm")
    dataset = pydicom.dcmread(path)
    oracle = pydicom.pixels.apply_voi_lut(
        pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset), dataset
    )
    np.testing.assert_allclose(read_dicom(path).pixels, 1 - oracle / (2**15 - 1), atol=1e-6)


@pytest.mark.real
def test_the_tag_decides_the_polarity_and_that_the_pixels_contradict_it_is_said(shared):
    """The second file is the first with a MONOCHROME1 tag although its pixels are not inverted."""
    right, wrong = (read_image(next((shared / "dicom").glob(name))) for name in ("1.2.276*.dcm", "Fake*.dcm"))
    np.testing.assert_allclose(right.pixels, 1 - wrong.pixels, atol=1e-6)
    assert right.pixels[:, 448:576].mean() > right.pixels[300:600, 200:350].mean()  # mediastinum, right lung
    assert "looks_inverted" in wrong.issues
    assert "looks_inverted" not in right.issues


@pytest.mark.parametrize(
    ("keyword", "vr"),
    [("SOPClassUID", "UI"), ("HighBit", "LO"), ("PixelRepresentation", "LO"), ("Rows", "IS")],
)
def test_no_refusal_and_no_warning_quotes_a_text_of_the_header(tmp_path, capfd, caplog, recwarn, keyword, vr):
    path = write(tmp_path / "a.dcm", film())
    with pydicom.config.disable_value_validation():
        odd = pydicom.dcmread(path)
        tag = odd[keyword].tag
        del odd[keyword]
        if keyword == "SOPClassUID":
            del odd["Rows"]
        # as bytes, which are written as they are
        odd[tag] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(tag), vr, len(SECRET), SECRET.encode(), 0, False, True
        )
        odd[(8, 5)] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(8, 5), "CS", len(SECRET), SECRET.encode(), 0, False, True
        )
        odd.save_as(path)
    assert SECRET.encode() in path.read_bytes()
    capfd.readouterr(), recwarn.clear()
    with pytest.raises(DataError) as refusal:
        read_image(path)
    said = capfd.readouterr()
    assert SECRET not in str(refusal.value) + said.out + said.err + caplog.text
    assert not [warning for warning in recwarn if SECRET in str(warning.message)]


def test_a_compressed_image_whose_end_is_cut_off_is_called_so(tmp_path):
    path = write(tmp_path / "a.dcm", film(), JPEG2000Lossless)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="lacks its pixel data, or their end"):
        read_image(path)

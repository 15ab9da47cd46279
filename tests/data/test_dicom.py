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
from tests.dicoms import SECRET, code_item, film, lookup_table, shows, write

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
PLAIN = ["explicit", "implicit", "big_endian"]
EIGHT, TWELVE = film(8), film(12)


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
        bottom, top = low, high
        if high - low > 255:
            bottom, top = np.percentile(stored, [0.1, 99.9], method="inverted_cdf").astype(float)
        return min(max((x - bottom) / (top - bottom), 0), 1)

    return np.array([[one(int(x)) for x in row] for row in stored])


@pytest.mark.parametrize("kind", ["none", "linear", "LINEAR_EXACT", "SIGMOID", "lut"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pixels_follow_the_formulas_of_the_standard(tmp_path, syntax, bits, signed, kind):
    stored = film(bits, signed)
    low, high = int(stored.min()), int(stored.max())
    tags = window_tags(kind, low, high, little=syntax != "big_endian") | {"BitsStored": bits}
    expected = golden(kind, stored, low, high)
    issues = ("no_window",) if kind == "none" and bits > 8 else ()
    for name, truth in [("MONOCHROME2", expected), ("MONOCHROME1", 1 - expected)]:
        path = write(tmp_path / name, stored, SYNTAXES[syntax], PhotometricInterpretation=name, **tags)
        assert shows(path, truth, issues).pixels.dtype == np.float32


def linear(values, center, width):
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def case(name, stored, expected, *issues, **tags):
    return pytest.param(stored, tags, expected, issues, id=name)


RAMP = np.arange(100, dtype="u2")[None]
SPARSE = np.full((100, 100), 900, "u2")
SPARSE[50, 50:52] = 400, 1400
HUNDREDS = np.arange(200) * 300
IDENTITY = lookup_table(range(256), 0, 8)
TWO_WINDOWS = {"WindowCenter": [100, 20], "WindowWidth": [51, 10]}


@pytest.mark.parametrize(
    ("stored", "tags", "expected", "issues"),
    [
        case("windows are in units after the rescale", TWELVE, linear(TWELVE * 0.5 - 1000, 100, 401),
             BitsStored=12, RescaleSlope=0.5, RescaleIntercept=-1000, WindowCenter=100, WindowWidth=401),
        case("a modality LUT comes before the window",
             EIGHT, linear(HUNDREDS[np.clip(EIGHT.astype(int) - 20, 0, 199)], 30000, 40001),
             ModalityLUTSequence=[lookup_table(HUNDREDS, 20, 16)], WindowCenter=30000, WindowWidth=40001),
        case("a lookup table may have an entry for each of 65536 values", film(16), 1 - film(16) / 65535,
             VOILUTSequence=[lookup_table(np.arange(65536)[::-1], 0, 16)]),
        case("a lookup table that understates its bits is not clipped", EIGHT, EIGHT / 255,
             VOILUTSequence=[lookup_table(np.arange(256) * 16, 0, 8)]),
        # it starts at -50, written as US because pixels are unsigned
        case("a lookup table of a rescaled image may start below zero", RAMP, RAMP * 40 / 4095,
             BitsStored=12, RescaleSlope=1, RescaleIntercept=-50,
             VOILUTSequence=[lookup_table(np.arange(101) * 40, 65536 - 50, 12)]),
        case("a VOI LUT is preferred to a window", EIGHT, EIGHT / 255,
             VOILUTSequence=[IDENTITY], **TWO_WINDOWS),
        case("the first window is preferred to the second", EIGHT, linear(EIGHT, 100, 51), **TWO_WINDOWS),
        case("where the first window shows nothing the next is taken",
             TWELVE, linear(TWELVE, 2000, 1001), "bad_window",
             BitsStored=12, WindowCenter=[60000, 2000], WindowWidth=[100, 1001]),
        case("where the first lookup table is empty the next is taken", TWELVE, TWELVE / 4095, "bad_window",
             BitsStored=12, VOILUTSequence=[lookup_table([], 0, 12), lookup_table(range(4096), 0, 12)]),
        case("a slope of zero is ignored and reported", EIGHT, EIGHT / 255, "bad_rescale",
             RescaleSlope=0, RescaleIntercept=0),
        case("one bit images are black and white", np.array([[0, 1, 1, 0, 1, 0, 0, 1]], "u1"),
             [[0, 1, 1, 0, 1, 0, 0, 1]], BitsAllocated=1, BitsStored=1, PixelData=b"\x96\0"),
        case("the rare values of a nearly empty image are shown",
             SPARSE, np.select([SPARSE == 400, SPARSE == 1400], [0, 1], 0.5), "no_window", BitsStored=12),
        case("an RGB capture of a grey image is grey", np.repeat(EIGHT[..., None], 3, axis=2), EIGHT / 255),
    ],
)  # fmt: skip
def test_an_image_is_shown_as_the_standard_says_and_what_is_odd_is_reported(
    tmp_path, stored, tags, expected, issues
):
    shows(write(tmp_path / "a.dcm", stored, **tags), expected, issues)


def test_a_negative_slope_turns_the_image_over(tmp_path):
    path = write(tmp_path / "a.dcm", TWELVE, BitsStored=12, RescaleSlope=-1, RescaleIntercept=4095)
    shows(path, read_dicom(write(tmp_path / "b.dcm", 4095 - TWELVE, BitsStored=12)).pixels)


@pytest.mark.parametrize("syntax", PLAIN)
def test_lookup_tables_are_read_as_words_and_as_numbers(tmp_path, syntax):
    item = Dataset()
    item.LUTDescriptor = [4, 0, 8]
    item.add_new("LUTData", "US", [0, 10, 100, 255])
    stored = np.arange(4, dtype="u2")[None]
    path = write(tmp_path / "a.dcm", stored, SYNTAXES[syntax], BitsStored=12, VOILUTSequence=[item])
    np.testing.assert_allclose(read_dicom(path).pixels * 255, [[0, 10, 100, 255]], atol=1e-4)


@pytest.mark.parametrize(
    ("syntax", "stored", "tags"),
    [*((SYNTAXES[name], TWELVE | 0x5000, {}) for name in ("explicit", "big_endian", "rle")),
     (ExplicitVRLittleEndian, TWELVE << 4, {"HighBit": 15})],
    ids=["explicit", "big endian", "RLE", "values at the top of their cells"],
)  # fmt: skip
def test_bits_that_are_not_stored_are_masked_and_a_high_bit_at_the_top_shifts_down(
    tmp_path, syntax, stored, tags
):
    clean = read_dicom(write(tmp_path / "a.dcm", TWELVE, syntax, BitsStored=12))
    found = read_dicom(write(tmp_path / "b.dcm", stored, syntax, BitsStored=12, **tags))
    np.testing.assert_array_equal(found.pixels, clean.pixels)
    assert found.issues == clean.issues


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", ["explicit", "jpeg2000"])
def test_eight_bits_in_sixteen_keep_their_full_scale_without_a_window(tmp_path, syntax, photometric):
    tags = {"BitsStored": 8, "HighBit": 7, "PhotometricInterpretation": photometric}
    path = write(tmp_path / "a.dcm", EIGHT.astype("u2"), SYNTAXES[syntax], **tags)
    shows(path, EIGHT / 255 if photometric == "MONOCHROME2" else 1 - EIGHT / 255)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
def test_padding_is_black_and_does_not_decide_the_range(tmp_path, photometric, signed):
    stored = film(12, signed)
    padding = int(stored.min())
    bare = np.clip(stored, padding + 500, int(stored.max()) - 500).astype(stored.dtype)
    padded = bare.copy()
    padded[:3] = padding
    tags = {"BitsStored": 12, "PhotometricInterpretation": photometric}
    radiograph = read_dicom(write(tmp_path / "a.dcm", padded, PixelPaddingValue=padding, **tags))
    assert (radiograph.pixels[:3] == 0).all()
    assert "padding" in radiograph.issues
    alone = read_dicom(write(tmp_path / "b.dcm", bare[3:], **tags))
    np.testing.assert_allclose(radiograph.pixels[3:], alone.pixels, atol=1e-6)


def test_padding_may_be_a_range(tmp_path):
    stored = np.arange(256, dtype="u1").reshape(16, 16)
    path = write(tmp_path / "a.dcm", stored, PixelPaddingValue=250, PixelPaddingRangeLimit=240)
    pixels = read_dicom(path).pixels.ravel()
    assert (pixels[240:251] == 0).all()
    assert (pixels[[239, 251]] > 0.9).all()


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
    stored = np.clip(TWELVE, 0, 2000)
    stored[0] = 3000
    tags = {"BitsStored": 12, "PixelPaddingValue": 3000, "WindowCenter": 3000, "WindowWidth": 500}
    radiograph = read_dicom(write(tmp_path / "a.dcm", stored, **tags))
    assert radiograph.issues == ("padding", "bad_window")
    assert radiograph.pixels.std() > 0.2


def test_a_padding_value_no_pixel_has_is_no_issue(tmp_path):
    path = write(tmp_path / "a.dcm", np.full((4, 4), 7, "u1") + np.eye(4, dtype="u1"), PixelPaddingValue=200)
    assert read_dicom(path).issues == ()


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 60000, "WindowWidth": 100}, {"WindowCenter": 10, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": 1}, {"WindowCenter": 2000},
        {"WindowCenter": 2000, "WindowWidth": 500, "VOILUTFunction": "CUBIC"},
        {"VOILUTSequence": [lookup_table([], 0, 12)]},
    ],
)  # fmt: skip
def test_a_window_that_shows_nothing_is_ignored_and_reported(tmp_path, window):
    expected = read_dicom(write(tmp_path / "a.dcm", TWELVE, BitsStored=12))
    radiograph = read_dicom(write(tmp_path / "b.dcm", TWELVE, BitsStored=12, **window))
    assert radiograph.issues == ("bad_window",)
    np.testing.assert_array_equal(radiograph.pixels, expected.pixels)


def test_a_window_that_is_no_number_is_ignored(tmp_path):
    path = write(tmp_path / "a.dcm", TWELVE, BitsStored=12, WindowCenter="1234", WindowWidth="500")
    path.write_bytes(path.read_bytes().replace(b"1234", b"abcd"))
    assert read_dicom(path).issues == ("bad_window",)


@pytest.mark.parametrize(
    ("photometric", "shape", "issues"),
    [
        ("MONOCHROME1", "INVERSE", ()), ("MONOCHROME2", "IDENTITY", ()),
        ("MONOCHROME1", "IDENTITY", ("polarity_conflict",)),
        ("MONOCHROME2", "INVERSE", ("polarity_conflict",)),
    ],
)  # fmt: skip
def test_photometric_interpretation_decides_the_polarity(tmp_path, photometric, shape, issues):
    tags = {"PhotometricInterpretation": photometric, "PresentationLUTShape": shape}
    expected = EIGHT / 255 if photometric == "MONOCHROME2" else 1 - EIGHT / 255
    shows(write(tmp_path / "a.dcm", EIGHT, **tags), expected, issues)


def test_an_image_of_one_value_is_blank(tmp_path):
    path = write(tmp_path / "a.dcm", np.full((4, 4), 900, "u2"), BitsStored=12)
    assert set(read_dicom(path).issues) == {"no_window", "blank"}


# --- colour -----------------------------------------------------------------------------------------


def test_a_coloured_capture_is_reported(tmp_path):
    stored = np.zeros((8, 8, 3), "u1")
    stored[..., 0] = np.arange(8) * 36
    shows(write(tmp_path / "a.dcm", stored), stored[..., 0] * 0.299 / 255, ("colour",), atol=0.003)


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
    shows(path, grey / white, issues)


def test_the_colours_of_a_deep_capture_become_luminance_at_full_depth(tmp_path):
    stored = np.random.default_rng(0).integers(0, 4096, (12, 8, 3)).astype("u2")
    expected = stored @ np.array([0.299, 0.587, 0.114]) / 4095
    shows(write(tmp_path / "a.dcm", stored, BitsStored=12), expected, ("colour",), atol=0.51 / 4095)


def test_a_luma_capture_is_grey(tmp_path):
    ybr = np.stack([EIGHT, np.full_like(EIGHT, 128), np.full_like(EIGHT, 128)], axis=2)
    shows(write(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL"), EIGHT / 255, atol=1.01 / 255)


def jpeg_film(path, pixels=EIGHT, quality=75, **tags):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return write(path, pixels, JPEGBaseline8Bit, PixelData=encapsulate([buffer.getvalue()]), **tags)


def test_a_jpeg_capture_in_colour_space_ybr_is_grey(tmp_path):
    grey = np.tile(np.arange(0, 256, 4, dtype="u1"), (64, 1))
    rgb = np.repeat(grey[..., None], 3, axis=2)
    path = jpeg_film(tmp_path / "a.dcm", rgb, quality=95, PhotometricInterpretation="YBR_FULL_422")
    assert "colour" not in shows(path, grey / 255, atol=0.02).issues


# --- refusals ---------------------------------------------------------------------------------------

BITS_ABOVE = r"Bits Stored \(0028,0101\) is 20, more than Bits Allocated 16"
CANNOT = r"transfer syntax that cannot be decoded here \("
SMALL = film(shape=(4, 4))
NO_FILMS = [  # stored, how it is written, reason
    (TWELVE, {"remove": ["PixelData"]}, "lacks its pixel data"),
    (TWELVE, {"remove": ["PixelData", "Rows", "Columns"], "SOPClassUID": EncapsulatedPDFStorage},
     "Encapsulated PDF Storage"),
    (SMALL, {"Rows": 2, "NumberOfFrames": 2}, "2 frames"),
    (SMALL, {"Rows": 20000, "Columns": 20000}, "100 megapixels"),
    (TWELVE, {"Rows": 400},
     r"its pixels have 2448 bytes, its header announces one frame of 27200: Rows \(0028,0010\) is 400"),
    (TWELVE, {"syntax": ExplicitVRLittleEndian, "BitsStored": 20, "HighBit": 19}, BITS_ABOVE),
    (TWELVE, {"syntax": ExplicitVRBigEndian, "BitsStored": 20, "HighBit": 19}, BITS_ABOVE),
    (EIGHT, {"BitsStored": 12}, r"Bits Stored \(0028,0101\) is 12, more than Bits Alloc"),
    (TWELVE, {"BitsStored": 0, "HighBit": 0}, r"Bits Stored \(0028,0101\) is 0, less than 1"),
    (TWELVE, {"BitsAllocated": 32, "BitsStored": 32}, "32 bits"),
    (TWELVE, {"remove": ["PhotometricInterpretation"]}, "lacks Photometric Interpretation"),
    (TWELVE, {"PhotometricInterpretation": "MONOCHROME 1"}, "which of its values is white"),
    (TWELVE, {"PhotometricInterpretation": "RGB"}, "which of its values is white"),
    (EIGHT, {"syntax": HEVCMP51, "PixelData": encapsulate([b"abcd"])}, CANNOT + "HEVC"),
    (EIGHT, {"syntax": pydicom.uid.UID("1.2.3.99"), "PixelData": b"ab"}, CANNOT + r"unknown\)"),
    (EIGHT, {"syntax": JPEGBaseline8Bit, "PixelData": encapsulate([b"abcd"])}, "damaged"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        *((lambda p, stored=stored, how=how: write(p, stored, **how), reason)
          for stored, how, reason in NO_FILMS),
        (lambda p: p.write_bytes(b"no film at all, but long enough to look inside" * 9), "not a DICOM file"),
        (lambda p: p.write_bytes(b"tinyULxx"), "not a DICOM file"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: None, "No such file"),
        (lambda p: p.mkdir(), "folder"),
    ],
)  # fmt: skip
def test_what_is_no_single_image_is_refused_with_name_and_reason(tmp_path, make, reason, caplog, recwarn):
    path = tmp_path / "film.dcm"
    make(path)
    with pytest.raises(DataError, match=reason) as refusal:
        read_dicom(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert SECRET not in str(refusal.value) + caplog.text + "".join(str(w.message) for w in recwarn)


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_a_truncated_dicom_is_refused_with_its_name(tmp_path, syntax, kept):
    path = write(tmp_path / "film.dcm", film(shape=(64, 64)), SYNTAXES[syntax], BitsStored=12)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"film\.dcm"):
        read_image(path)


def test_a_compressed_image_whose_end_is_cut_off_is_called_so(tmp_path):
    path = write(tmp_path / "a.dcm", film(), JPEG2000Lossless)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="lacks its pixel data, or their end"):
        read_image(path)


@pytest.mark.parametrize("tags", [{"Rows": 20}, {"Columns": 40}])
def test_a_jpeg_frame_of_another_size_is_refused_before_it_is_decoded(tmp_path, tags):
    with pytest.raises(DataError, match="its compressed frame holds 36 rows and 34 columns"):
        read_dicom(jpeg_film(tmp_path / "a.dcm", **tags))


@pytest.mark.parametrize(
    ("whole", "broken"),
    [(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x6a"), (b"\xff\xdb", b"\x04\xdb")],
    ids=["106 bits per sample", "no marker"],
)
def test_a_damaged_jpeg_frame_does_not_end_the_process(tmp_path, whole, broken):
    path = jpeg_film(tmp_path / "a.dcm")
    assert whole in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(whole, broken))
    with pytest.raises(DataError, match="damaged"):
        read_dicom(path)


def test_a_compressed_image_without_transfer_syntax_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm", EIGHT, JPEG2000Lossless)
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
    write(path, EIGHT, WindowCenter=100, WindowWidth=100, VOILUTSequence=[IDENTITY])
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


@pytest.mark.parametrize("missing", [132, 144], ids=["preamble", "preamble and group length"])
def test_a_file_that_lacks_only_its_beginning_is_read(tmp_path, missing):
    path = write(tmp_path / "a.dcm", TWELVE, BitsStored=12)
    whole = read_dicom(path)
    path.write_bytes(path.read_bytes()[missing:])
    radiograph = read_image(path)
    np.testing.assert_array_equal(radiograph.pixels, whole.pixels)
    assert radiograph.issues == whole.issues


def group_length(syntax, group, length):
    """The element (group,0000) that old files begin with."""
    order = ">" if syntax == "big_endian" else "<"
    if syntax == "implicit":
        return struct.pack("<HHII", group, 0, 4, length)
    return struct.pack(f"{order}HH2sHI", group, 0, b"UL", 4, length)


@pytest.mark.parametrize("length", [None, 0, 4, 260, 0x41424344, 2**32 - 1])
@pytest.mark.parametrize("syntax", PLAIN)
def test_a_bare_data_set_is_read_with_an_issue_whatever_its_group_length(tmp_path, syntax, length):
    path = write(tmp_path / "a.dcm", TWELVE, SYNTAXES[syntax], BitsStored=12)
    whole = read_dicom(path)
    path.write_bytes((b"" if length is None else group_length(syntax, 8, length)) + bare(path))
    assert is_dicom(path)
    radiograph = read_image(path)
    np.testing.assert_array_equal(radiograph.pixels, whole.pixels)
    assert radiograph.issues == ("no_transfer_syntax", *whole.issues)
    assert read_header(path).patient_id == SECRET


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    start=st.sampled_from([b"", b"\x08\0", b"\0\x08", b"\x02\0", b"\x08\0\0\0\x04\0\0\0", b"\x08\0\x05\0CS"]),
    rest=st.binary(min_size=8, max_size=300),
)
def test_bytes_that_are_no_elements_are_no_dicom(tmp_path_factory, start, rest):
    path = tmp_path_factory.getbasetemp() / "junk"
    path.write_bytes(start + rest)
    assert not is_dicom(path)


@pytest.mark.parametrize("syntax", PLAIN)
def test_elements_out_of_order_or_beyond_the_file_are_no_dicom(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", TWELVE, SYNTAXES[syntax], BitsStored=12)
    whole = bare(path)
    for content in (group_length(syntax, 8, 9) * 2, whole[:20], group_length(syntax, 6, 9) + whole):
        path.write_bytes(content)
        assert not is_dicom(path)


def test_dicom_is_recognised_by_content_not_by_suffix(tmp_path):
    path = write(tmp_path / "film.png", EIGHT)
    assert is_dicom(path)
    assert read_image(path).view == "PA"
    other = tmp_path / "film.dcm"
    Image.fromarray(EIGHT).save(other, "PNG")
    assert not is_dicom(other)
    np.testing.assert_allclose(read_image(other).pixels, EIGHT / 255, atol=1e-6)


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
    radiograph = read_dicom(write(tmp_path / "a.dcm", EIGHT, **tags))
    assert radiograph.spacing_mm == spacing_mm
    assert radiograph.issues == (() if spacing_mm else ("no_spacing",))


def view_code(value):
    return {"ViewPosition": "", "ViewCodeSequence": [code_item(value)]}


@pytest.mark.parametrize(
    ("tags", "view", "issues"),
    [
        *(({"ViewPosition": view}, view, ()) for view in ("PA", "AP")),
        *(({"ViewPosition": view}, "LATERAL", ("lateral",)) for view in ("LL", "LATERAL", "RLD")),
        ({"ViewPosition": ""}, None, ("unknown_view",)),
        ({"ViewPosition": "RLO"}, "OTHER", ("other_view",)),
        (view_code("R-10206"), "AP", ()),
        (view_code("272479007"), "PA", ()),
        (view_code("399173006"), "LATERAL", ("lateral",)),
        ({"Modality": "CT"}, "PA", ("modality_CT",)),
        ({"Modality": "SECRET"}, "PA", ("modality_unknown",)),
        ({"Modality": "CR"}, "PA", ()),
        *(({"BodyPartExamined": part}, "PA", ()) for part in ("CHEST", "PORT CXR")),
        ({"BodyPartExamined": "hand"}, "PA", ("body_part_HAND",)),
        ({"BurnedInAnnotation": "YES"}, "PA", ("burned_in_annotation",)),
        ({"BurnedInAnnotation": "NO"}, "PA", ()),
        *(({"PatientOrientation": sides}, "PA", ()) for sides in (["L", "F"], ["LH", "FL"])),
        ({"PatientOrientation": ["R", "F"]}, "PA", ("mirrored",)),
        *(({"PatientOrientation": sides}, "PA", ("rotated",)) for sides in (["F", "R"], ["R", "H"])),
        ({"PatientOrientation": ["A", "F"], "ViewPosition": "LL"}, "LATERAL", ("lateral",)),
        ({"PresentationIntentType": "FOR PROCESSING"}, "PA", ("for_processing",)),
    ],
)
def test_view_and_kind_of_image_are_reported(tmp_path, tags, view, issues):
    path = write(tmp_path / "a.dcm", EIGHT, **tags)
    radiograph = read_dicom(path)
    assert (radiograph.view, radiograph.issues) == (view, issues)
    assert read_header(path).view == view


def born(day, study):
    return {"PatientBirthDate": day, "StudyDate": study}


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        *(({"PatientAge": written}, age) for written, age in [
            ("045Y", 45), ("006M", 0.5), ("002W", 0), ("018M", 1.5), ("030M", 2), ("700D", 22 / 12),
            ("089Y", 89), ("094Y", 90), ("999Y", math.nan),
        ]),
        (born("19700101", "20200101"), 50), (born("19700102", "20200101"), 49),
        (born("20190315", "20200314"), 11 / 12), (born("19200315", "20200314"), 90),
        ({"PatientAge": "", **born("20200101", "19700101")}, math.nan),
        ({"PatientBirthDate": "19700101"}, math.nan), ({}, math.nan),
    ],
)  # fmt: skip
def test_age_is_in_whole_years_of_infants_in_whole_months_at_most_90_or_unknown(tmp_path, tags, age):
    header = read_header(write(tmp_path / "a.dcm", EIGHT, **tags))
    assert header.age == pytest.approx(age, abs=1e-9, nan_ok=True)


def test_the_header_describes_the_image_and_does_not_show_the_patient(tmp_path):
    header = read_header(write(tmp_path / "a.dcm", EIGHT, BodyPartExamined="CHEST", NumberOfFrames=1))
    assert header.patient_id == SECRET
    assert SECRET not in repr(header)
    assert (header.study_uid, header.image_uid, header.sex) == ("1.2.3", "1.2.3.4", "F")
    assert (header.modality, header.body_part, header.frames) == ("DX", "CHEST", 1)


def test_the_header_of_a_report_has_no_frames_and_unknown_texts_are_empty(tmp_path):
    path = write(tmp_path / "a.dcm", EIGHT, PatientSex="O", remove=["Rows", "PatientID", "PixelData"])
    header = read_header(path)
    assert (header.frames, header.patient_id, header.sex) == (0, "", "")


def test_reading_a_header_does_not_need_the_pixels(tmp_path):
    path = write(tmp_path / "a.dcm", film(8, shape=(200, 200)))
    path.write_bytes(path.read_bytes()[:1500])
    assert read_header(path).patient_id == SECRET


def test_values_against_the_standard_are_not_quoted_in_warnings(tmp_path, recwarn):
    path = write(tmp_path / "a.dcm", EIGHT, **born("19700101", "20200101"))
    path.write_bytes(path.read_bytes().replace(b"19700101", SECRET.encode()))
    assert math.isnan(read_header(path).age)
    read_dicom(path)
    assert not [warning for warning in recwarn if SECRET in str(warning.message)]


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
        for place, kind in ((tag, vr), (pydicom.tag.Tag(8, 5), "CS")):  # as bytes, written as they are
            text = (pydicom.tag.Tag(place), kind, len(SECRET), SECRET.encode(), 0, False, True)
            odd[place] = pydicom.dataelem.RawDataElement(*text)
        odd.save_as(path)
    assert SECRET.encode() in path.read_bytes()
    capfd.readouterr(), recwarn.clear()
    with pytest.raises(DataError) as refusal:
        read_image(path)
    said = capfd.readouterr()
    assert SECRET not in str(refusal.value) + said.out + said.err + caplog.text
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
    dataset = pydicom.dcmread(path := real_film("RG1_UNCR.dcm"))
    units = pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset)
    shows(path, 1 - pydicom.pixels.apply_voi_lut(units, dataset) / (2**15 - 1))


@pytest.mark.real
def test_the_tag_decides_the_polarity_and_that_the_pixels_contradict_it_is_said(shared):
    """The second file is the first with a MONOCHROME1 tag although its pixels are not inverted."""
    right, wrong = (read_image(next((shared / "dicom").glob(name))) for name in ("1.2.276*.dcm", "Fake*.dcm"))
    np.testing.assert_allclose(right.pixels, 1 - wrong.pixels, atol=1e-6)
    assert right.pixels[:, 448:576].mean() > right.pixels[300:600, 200:350].mean()  # mediastinum, right lung
    assert "looks_inverted" in wrong.issues
    assert "looks_inverted" not in right.issues

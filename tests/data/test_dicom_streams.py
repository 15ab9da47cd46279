"""Compressed images and their headers: pictures as uncompressed, contradictions named, bounds kept."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pydicom
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    HTJ2K,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from tests.data.test_dicom_conformance import by_dcmtk, by_formula, by_gdcm, smooth, window
from tests.dicoms import changed, lookup_table, shows, write

from evax.data.dicom import read_header
from evax.data.dicom.reading import read_dicom
from evax.data.pictures import read_image
from evax.errors import DataError

GREY = smooth(8)


def compressed(path, stored, frame, syntax=JPEG2000Lossless, **tags):
    """An image whose header is of `stored` and of `tags`, and whose frame says what it says."""
    return write(path, stored, syntax, PixelData=encapsulate([frame]), **tags)


def j2k_film(path, stored, bits, values=None, **tags):
    """The same, whose frame holds `values`, else `stored`, with this depth in JPEG 2000."""
    frame = encode_array(stored if values is None else values, bits_stored=bits)
    return compressed(path, stored, frame, **tags)


def jpeg(pixels, quality=98, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue()


# --- the same law for every syntax ------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    bits=st.integers(7, 16),
    signed=st.booleans(),
    at_the_top=st.booleans(),
    encoding=st.sampled_from(["RLE", "cells", "signed cells", "values"]),
)
def test_a_compressed_image_is_read_as_its_uncompressed_twin(
    tmp_path_factory, bits, signed, at_the_top, encoding
):
    """Whatever Bits Stored, High Bit and sign, and whether the stream holds whole cells or the values."""
    assume(bits > 8 or encoding != "RLE")  # pydicom writes broken segments for 8 bits in cells of 16
    folder, high = tmp_path_factory.getbasetemp(), 15 if at_the_top else bits - 1
    values = smooth(bits, signed).astype("i2" if signed else "u2")
    cells = values << (high + 1 - bits)
    tags = window(bits, signed) | {"BitsStored": bits, "HighBit": high}
    native = read_dicom(write(folder / "native.dcm", cells, **tags))
    expected = by_formula(values, bits, signed, tags)
    np.testing.assert_allclose(native.pixels, expected, atol=1e-6)
    path = folder / "compressed.dcm"
    if encoding == "RLE":
        write(path, cells, RLELossless, **tags)
    elif encoding == "values" and not at_the_top:
        j2k_film(path, cells, bits, values, **tags)
    else:
        dtype = "i2" if encoding == "signed cells" else "u2"
        j2k_film(path, cells, 16, cells.view(dtype), **tags)
    radiograph = read_dicom(path)
    np.testing.assert_array_equal(radiograph.pixels, native.pixels)
    if encoding == "cells":
        assert radiograph.issues == (("sign_conflict",) if signed else ())


@pytest.mark.parametrize("bits", [6, 8, 10, 14])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "command", [("dcmcjpeg", "+e1"), ("dcmcjpls", "+el"), ("dcmcrle",)], ids=lambda c: c[0]
)
def test_values_at_the_top_of_their_cells_are_read_as_dcmtk_writes_them(tmp_path, command, signed, bits):
    values = smooth(bits, signed).astype("i2" if signed else "u2")
    tags = window(bits, signed) | {"BitsStored": bits, "HighBit": 15}
    plain = write(tmp_path / "a.dcm", values << (16 - bits), **tags)
    radiograph = read_dicom(by_dcmtk(plain, tmp_path / "b.dcm", *command))
    np.testing.assert_allclose(radiograph.pixels, by_formula(values, bits, signed, tags), atol=1e-6)


# --- depth and sign that contradict the header ------------------------------------------------------


@pytest.mark.parametrize("stream_bits", [8, 10])
@pytest.mark.parametrize("header_bits", [12, 16])
def test_a_stream_shallower_than_its_header_is_shown_at_its_own_depth(tmp_path, header_bits, stream_bits):
    stored = smooth(stream_bits).astype("u2")
    alone = read_dicom(j2k_film(tmp_path / "a.dcm", stored, stream_bits, BitsStored=stream_bits))
    tags = {"WindowCenter": 2 ** (header_bits - 1), "WindowWidth": 2**header_bits, "BitsStored": header_bits}
    radiograph = read_dicom(j2k_film(tmp_path / "b.dcm", stored, stream_bits, **tags))
    np.testing.assert_array_equal(radiograph.pixels, alone.pixels)
    assert radiograph.issues == ("bits_conflict", "bad_window")


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
def test_an_eight_bit_jpeg_under_a_deeper_header_is_an_eight_bit_image(tmp_path, syntax):
    tags = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
    path = compressed(tmp_path / "a.dcm", GREY.astype("u2"), jpeg(GREY), syntax, **tags)
    shows(path, GREY / 255, ("bits_conflict", "bad_window"), atol=0.02)


def test_a_window_in_the_stream_s_own_units_is_kept(tmp_path):
    tags = {"BitsStored": 16, **window(12, False)}
    path = j2k_film(tmp_path / "a.dcm", smooth(12), 12, **tags)
    shows(path, by_formula(smooth(12), 12, False, tags), ("bits_conflict",))


def test_a_lookup_table_of_the_header_s_depth_is_not_applied_to_a_shallower_stream(tmp_path):
    tags = {"BitsStored": 12, "VOILUTSequence": [lookup_table(np.arange(4096), 0, 12)]}
    shows(j2k_film(tmp_path / "a.dcm", GREY.astype("u2"), 8, GREY, **tags), GREY / 255)


def test_a_stream_deeper_than_its_cells_is_shown_whole(tmp_path):
    tags = window(12, False) | {"BitsAllocated": 8, "BitsStored": 8}
    path = j2k_film(tmp_path / "a.dcm", GREY, 12, smooth(12), **tags)
    shows(path, by_formula(smooth(12), 12, False, tags), ("bits_conflict",))


@pytest.mark.parametrize("signed", [False, True])
def test_where_stream_and_header_differ_in_sign_the_picture_without_jumps_is_shown(tmp_path, signed):
    values = smooth(12, signed)
    tags = window(12, signed) | {"BitsStored": 12, "PixelRepresentation": int(not signed)}
    path = j2k_film(tmp_path / "a.dcm", values, 12, **tags)
    shows(path, by_formula(values, 12, signed, tags), ("sign_conflict",))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("slope", [1, 2])
def test_a_window_in_the_units_of_the_sign_that_the_stream_has_not_is_passed_over(tmp_path, signed, slope):
    """The image then has the contrast of its uncompressed twin without a window."""
    values = smooth(12, signed)
    tags = {"BitsStored": 12, "RescaleSlope": slope, "RescaleIntercept": 5}
    twin = read_dicom(write(tmp_path / "a.dcm", values, **tags))
    tags |= {"WindowCenter": slope * (2048 if signed else 0) + 5, "WindowWidth": slope * 4096}
    tags["PixelRepresentation"] = int(not signed)
    radiograph = read_dicom(j2k_film(tmp_path / "b.dcm", values, 12, **tags))
    np.testing.assert_array_equal(radiograph.pixels, twin.pixels)
    assert radiograph.issues == ("sign_conflict", "bad_window")


NOISE = np.random.default_rng(1).integers(0, 4096, (40, 36)).astype("u2")


@pytest.mark.parametrize("stream", ["JPEG-LS", "JPEG 2000", "signed JPEG 2000", "12-bit JPEG"])
@pytest.mark.parametrize("pixels", [NOISE, smooth(12)], ids=["noise", "smooth"])
def test_values_of_a_stream_beyond_bits_stored_are_not_cut_however_noisy(tmp_path, stream, pixels):
    signed = stream.startswith("signed")
    values = (pixels.astype("i4") - 2048).astype("i2") if signed else pixels
    tags = window(12, signed)
    path = write(tmp_path / "a.dcm", values, BitsStored=12, **tags)
    if stream == "12-bit JPEG":
        path = by_dcmtk(path, tmp_path / "b.dcm", "dcmcjpeg", "+ee")
    elif stream == "JPEG-LS":
        path = by_dcmtk(path, tmp_path / "b.dcm", "dcmcjpls", "+el", "+pc")
    else:
        path = j2k_film(path, values, 12, BitsStored=12, **tags)
    whole = read_dicom(path)
    assert whole.issues == ()
    radiograph = read_dicom(changed(path, BitsStored=10, HighBit=9))
    np.testing.assert_array_equal(radiograph.pixels, whole.pixels)
    assert radiograph.issues[0] == "bits_conflict"


@pytest.mark.parametrize("syntax", ["native", "cells"])
@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05])
def test_an_image_whose_noise_alone_exceeds_bits_stored_keeps_all_its_bits(tmp_path, syntax, noise):
    grain = np.random.default_rng(0).normal(0, noise, (80, 72))
    values = (np.clip(smooth(16, shape=(80, 72)) / 65535 + grain, 0, 1) * 65535).astype("u2")
    whole = read_dicom(write(tmp_path / "a.dcm", values, **window(16, False)))
    tags = window(16, False) | {"BitsStored": 12}
    path = write(tmp_path / "b.dcm", values, **tags)
    if syntax == "cells":
        path = j2k_film(path, values, 16, **tags)
    radiograph = read_dicom(path)
    np.testing.assert_array_equal(radiograph.pixels, whole.pixels)
    assert radiograph.issues == ("bits_conflict",) * (syntax == "cells") + ("bad_bits_stored", *whole.issues)


@pytest.mark.parametrize("noise", [0, 0.1])
def test_rubbish_above_bits_stored_of_whole_cells_is_cut_and_named(tmp_path, noise):
    rng = np.random.default_rng(0)
    values = (np.clip(smooth(12) / 4095 + rng.normal(0, noise, (40, 36)), 0, 1) * 4095).astype("u2")
    tags = window(12, False) | {"BitsStored": 12}
    clean = read_dicom(write(tmp_path / "a.dcm", values, **tags))
    cells = values | (rng.integers(0, 16, values.shape) << 12).astype("u2")
    radiograph = read_dicom(j2k_film(tmp_path / "b.dcm", cells, 16, **tags))
    np.testing.assert_array_equal(radiograph.pixels, clean.pixels)
    assert radiograph.issues == ("bits_conflict",)
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "c.dcm", cells, **tags)).pixels, clean.pixels)


@pytest.mark.parametrize("bits", [0, 20])
def test_a_stream_says_how_deep_it_is_where_bits_stored_is_impossible(tmp_path, bits):
    tags = window(12, False) | {"HighBit": 11}
    whole = read_dicom(write(tmp_path / "a.dcm", smooth(12), BitsStored=12, **tags))
    radiograph = read_dicom(j2k_film(tmp_path / "b.dcm", smooth(12), 12, **tags, BitsStored=bits))
    np.testing.assert_array_equal(radiograph.pixels, whole.pixels)
    assert radiograph.issues == ("bits_conflict",)


def test_a_high_bit_that_the_cells_do_not_have_is_named_and_not_used(tmp_path):
    shows(write(tmp_path / "a.dcm", GREY, HighBit=15), GREY / 255, ("bits_conflict",))


def test_eight_bit_pixels_under_a_window_of_twelve_bits_keep_their_full_scale(tmp_path):
    shows(write(tmp_path / "a.dcm", GREY, WindowCenter=2048, WindowWidth=4096), GREY / 255, ("bad_window",))


# --- colour -----------------------------------------------------------------------------------------

RGB = np.repeat(GREY[..., None], 3, axis=2)
PHOTOMETRIC = ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT"]


def without_jfif(frame):
    return frame[:2] + frame[4 + int.from_bytes(frame[4:6], "big") :]


def with_adobe(frame, transform):
    return frame[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) + frame[2:]


def untransformed(pixels):
    """A JPEG whose components are red, green and blue, although a JFIF marker says otherwise."""
    image = Image.frombytes("YCbCr", pixels.shape[1::-1], pixels.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=98, subsampling=0)
    return buffer.getvalue()


JPEGS = {  # frame, what it is
    "JFIF": (lambda rgb: jpeg(rgb, subsampling=0), "YBR"),
    "JFIF, 4:2:0": (lambda rgb: jpeg(rgb, subsampling=2), "YBR"),
    "no marker": (lambda rgb: without_jfif(jpeg(rgb, subsampling=0)), "YBR"),
    "no marker, 4:2:2": (lambda rgb: without_jfif(jpeg(rgb, subsampling=1)), "YBR"),
    "Adobe 1": (lambda rgb: with_adobe(without_jfif(jpeg(rgb, subsampling=0)), 1), "YBR"),
    "Adobe 0": (lambda rgb: with_adobe(without_jfif(untransformed(rgb)), 0), "RGB"),
    "RGB without marker": (lambda rgb: without_jfif(untransformed(rgb)), "RGB"),
    "RGB under JFIF": (untransformed, "RGB"),
}


@pytest.mark.parametrize("photometric", PHOTOMETRIC)
@pytest.mark.parametrize("kind", JPEGS)
def test_a_grey_image_saved_as_colour_jpeg_is_read_whatever_its_header_calls_it(tmp_path, kind, photometric):
    make, truth = JPEGS[kind]
    path = tmp_path / "a.dcm"
    compressed(path, RGB, make(RGB), JPEGBaseline8Bit, PhotometricInterpretation=photometric)
    fits = photometric in {"YBR": ("YBR_FULL", "YBR_FULL_422"), "RGB": ("RGB",)}[truth]
    shows(path, GREY / 255, () if fits else ("colour_conflict",), atol=0.02)


@pytest.mark.parametrize("kind", ["JFIF", "JFIF, 4:2:0", "no marker, 4:2:2", "Adobe 1", "Adobe 0"])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "YBR_PARTIAL_422"])
def test_of_a_coloured_capture_the_markers_of_the_stream_say_what_its_components_are(
    tmp_path, kind, photometric
):
    coloured = np.stack([GREY, 255 - GREY, np.full_like(GREY, 90)], axis=2)
    frame, tags = JPEGS[kind][0](coloured), {"PhotometricInterpretation": photometric}
    path = compressed(tmp_path / "a.dcm", coloured, frame, JPEGBaseline8Bit, **tags)
    radiograph = read_dicom(path)
    expected = np.asarray(Image.fromarray(coloured).convert("L")) / 255
    assert np.abs(radiograph.pixels - expected).mean() < 0.02
    assert radiograph.issues[-1] == "colour"


@pytest.mark.parametrize("wrong", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize(
    "syntax", ["native", "RLELossless", "JPEGLSLossless", "JPEGLosslessProcess14_1", "J2K"]
)
def test_a_grey_image_in_colours_that_its_header_misnames_is_grey_in_every_syntax(tmp_path, syntax, wrong):
    stored = RGB if wrong == "YBR_FULL" else convert_color_space(RGB, "RGB", "YBR_FULL")
    path = write(tmp_path / "a.dcm", stored, PhotometricInterpretation=wrong)
    if syntax == "J2K":
        path = j2k_film(path, stored, 8, PhotometricInterpretation=wrong)
    elif syntax != "native":
        path = by_gdcm(path, tmp_path / "b.dcm", syntax)
    shows(path, GREY / 255, ("colour_conflict",), atol=1.01 / 255)


@pytest.mark.parametrize(
    ("stored", "frame", "tags"),
    [
        (RGB, jpeg(GREY), {}),
        (RGB, jpeg(GREY), {"PhotometricInterpretation": "YBR_FULL_422"}),
        (GREY, jpeg(RGB), {}),
    ],
    ids=["grey under RGB", "grey under YBR", "colours under MONOCHROME2"],
)  # fmt: skip
def test_the_stream_says_how_many_samples_there_are(tmp_path, stored, frame, tags):
    path = compressed(tmp_path / "a.dcm", stored, frame, JPEGBaseline8Bit, **tags)
    shows(path, GREY / 255, ("samples_conflict",), atol=0.02)


# --- missing elements -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ("Rows", r"Rows \(0028,0010\)"),
        ("Columns", r"Columns \(0028,0011\)"),
        ("SamplesPerPixel", r"Samples per Pixel \(0028,0002\)"),
        ("PhotometricInterpretation", r"Photometric Interpretation \(0028,0004\)"),
        ("BitsAllocated", r"Bits Allocated \(0028,0100\)"),
        ("BitsStored", r"Bits Stored \(0028,0101\)"),
        ("PixelRepresentation", r"Pixel Representation \(0028,0103\)"),
    ],
)
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_a_missing_element_is_named_with_its_tag(tmp_path, syntax, keyword, said, empty):
    dataset = pydicom.dcmread(write(tmp_path / "a.dcm", smooth(12), syntax, BitsStored=12))
    setattr(dataset, keyword, None) if empty else delattr(dataset, keyword)
    dataset.save_as(tmp_path / "b.dcm")
    with pytest.raises(DataError, match=f"b.dcm lacks {said}, without which its pixels cannot be read"):
        read_image(tmp_path / "b.dcm")


def test_the_order_of_colours_is_asked_for_only_where_it_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"lacks Planar Configuration \(0028,0006\)"):
        read_image(write(tmp_path / "a.dcm", RGB, remove=["PlanarConfiguration"]))
    path = compressed(tmp_path / "b.dcm", RGB, jpeg(RGB), JPEGBaseline8Bit, remove=["PlanarConfiguration"],
                      PhotometricInterpretation="YBR_FULL_422")  # fmt: skip
    np.testing.assert_allclose(read_image(path).pixels, GREY / 255, atol=0.02)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_a_missing_high_bit_is_the_one_that_the_standard_prescribes(tmp_path, syntax):
    tags = window(12, False) | {"BitsStored": 12}
    whole = read_dicom(write(tmp_path / "a.dcm", smooth(12), syntax, **tags))
    bare = read_dicom(write(tmp_path / "b.dcm", smooth(12), syntax, **tags, remove=["HighBit"]))
    np.testing.assert_array_equal(bare.pixels, whole.pixels)
    assert bare.issues == ()


# --- bounds -----------------------------------------------------------------------------------------


BLACK = np.zeros((200, 180), "u2")


def j2k(edit, shape=BLACK.shape):
    """A JPEG 2000 stream of zeros, changed by edit(stream, where its COD segment begins)."""
    stream = bytearray(encode_array(np.zeros(shape, "u2"), bits_stored=12))
    return bytes(edit(stream, stream.index(b"\xff\x52")) or stream)


def of_size(stream, _, size=60_000):
    stream[8:16] = stream[24:32] = struct.pack(">2I", size, size)


def small_precincts(stream, at):
    levels = stream[at + 9]
    sizes = b"\0" + b"\x11" * levels
    segment = b"\xff\x52" + struct.pack(">HB", 12 + len(sizes), stream[at + 4] | 1) + stream[at + 5 : at + 14]
    return stream[:at] + segment + sizes + stream[at + 14 :]


def small_tiles(stream, _):
    stream[24:32] = struct.pack(">2I", 4, 4)


def many_samples(stream, _):
    stream[40:42] = struct.pack(">H", 16_384)
    stream[4:6] = struct.pack(">H", 38 + 3 * 16_384)
    return stream[:42] + b"\x0b\1\1" * 16_384 + stream[45:]


def many_layers(stream, at):
    stream[at + 6 : at + 8] = b"\xff\xff"


def boxed(stream):
    """A JP2 file of the stream, with a box before it."""
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"
    return signature + struct.pack(">I4s", 20, b"ftyp") + b"jp2 \0\0\0\0jp2 " + b"\0\0\0\0jp2c" + stream


@pytest.mark.parametrize("wrap", [bytes, boxed], ids=["stream", "JP2"])
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2K])
@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (of_size, "holds 60000 rows and 60000 columns, its header announces 200 and 180"),
        (small_tiles, "has 2250 tiles or precincts"),
        (small_precincts, "tiles or precincts"),
        (many_samples, "holds 16384 samples"),
        (many_layers, "more than 1024 layers"),
    ],
)
def test_a_jpeg_2000_frame_beyond_its_header_is_refused_before_it_is_decoded(
    tmp_path, monkeypatch, edit, reason, syntax, wrap
):
    monkeypatch.setattr("openjpeg.utils.decode", lambda *_, **__: pytest.fail("it was decoded"))
    path = compressed(tmp_path / "a.dcm", BLACK, wrap(j2k(edit)), syntax, BitsStored=12)
    with pytest.raises(DataError, match=reason):
        read_image(path)


def precincts_in_a_tile(stream, at):
    whole = small_precincts(bytearray(stream), at)
    segment = whole[at : at + 15 + stream[at + 9]]
    tile = stream.index(b"\xff\x90")
    length = int.from_bytes(stream[tile + 6 : tile + 10], "big") + len(segment)
    head = stream[tile : tile + 6] + struct.pack(">I", length) + stream[tile + 10 : tile + 12]
    return stream[:tile] + head + segment + stream[tile + 12 :]


def colour_film(path, photometric, frame=None):
    if frame is None:
        return write(path, RGB, PhotometricInterpretation=photometric)
    return compressed(path, GREY, frame, JPEGBaseline8Bit, PhotometricInterpretation=photometric)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: colour_film(path, "MONOCHROME1", jpeg(RGB)),
         "holds colours, its header announces an inverted grey picture"),
        (lambda path: colour_film(path, "YBR_PARTIAL_422"), "YBR_PARTIAL_422 pixels without compression"),
        (lambda path: compressed(path, BLACK, j2k(precincts_in_a_tile), BitsStored=12),
         "tiles or precincts"),
        (lambda path: compressed(path, GREY, b"\xff\x4f\xff\x51\0\x29"), "has no whole header"),
        (lambda path: compressed(path, GREY, b"\0\0\0\x0cjP  \r\n\x87\n"), "has no code stream"),
        (lambda path: write(path, GREY, PixelData=GREY.tobytes() * 2),
         "its pixels have 2880 bytes, its header announces one frame of 1440"),
    ],
    ids=["inverted colours", "retired subsampling", "precincts in a tile", "header cut off", "empty box",
         "two frames"],
)  # fmt: skip
def test_pixels_that_contradict_their_header_or_lack_it_are_refused_by_name(tmp_path, make, reason):
    with pytest.raises(DataError, match=reason):
        read_image(make(tmp_path / "a.dcm"))


def test_a_jpeg_2000_image_in_boxes_is_read_as_without(tmp_path):
    frame = encode_array(smooth(12), bits_stored=12)
    bare = read_dicom(compressed(tmp_path / "a.dcm", smooth(12), frame, BitsStored=12))
    inside = read_dicom(compressed(tmp_path / "b.dcm", smooth(12), boxed(frame), BitsStored=12))
    np.testing.assert_array_equal(inside.pixels, bare.pixels)


def large_jpeg(marker):
    """The header of a frame of 60 000 rows and columns."""
    start = b"\xff\xd8\xff" + marker + struct.pack(">HBHHB", 11, 8, 60_000, 60_000, 1)
    return start + b"\1\x11\0" + b"\xff\xda\0\x08\1\1\0\0\0\0"


def rle(*segments):
    starts = np.cumsum([64, *map(len, segments)])[:-1].tolist()
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(starts))) + b"".join(segments)


@pytest.mark.parametrize(
    ("syntax", "frame", "reason"),
    [
        *((syntax, large_jpeg(b"\xc3"), "holds 60000 rows and 60000 columns")
          for syntax in (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1)),
        (JPEGLSLossless, large_jpeg(b"\xf7"), "holds 60000 rows and 60000 columns"),
        (RLELossless, rle(b"\x81\0" * 4000), "unpacks to 3072 bytes, its header announces 1440"),
        (RLELossless, rle(b"\x81\0" * 3), "unpacks to 384 bytes"),
        (RLELossless, rle(*[b"\x81\0" * 12] * 2), "holds 2 segments, its header announces 1"),
    ],
)  # fmt: skip
def test_a_jpeg_or_rle_frame_beyond_its_header_is_refused_before_it_is_decoded(
    tmp_path, monkeypatch, syntax, frame, reason
):
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *_, **__: pytest.fail("it was decoded"))
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=reason):
        read_image(compressed(tmp_path / "a.dcm", GREY, frame, syntax))


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "extended"])
def test_a_jpeg_header_on_which_gdcm_would_end_the_process_is_refused(tmp_path, syntax):
    path = write(tmp_path / "a.dcm", smooth(12), BitsStored=12)
    if syntax == "extended":
        path = by_dcmtk(path, tmp_path / "b.dcm", "dcmcjpeg", "+ee")
    else:
        path = by_gdcm(path, tmp_path / "b.dcm", syntax)
    whole = path.read_bytes()
    table = whole.index(b"\xff\xc4")  # cut short: its last bytes lie between two segments
    shorter = (int.from_bytes(whole[table + 2 : table + 4], "big") - 3).to_bytes(2, "big")
    path.write_bytes(whole[: table + 2] + shorter + whole[table + 4 :])
    with pytest.raises(DataError, match="broken marker"):
        read_image(path)
    if (at := whole.find(b"JFIF\0")) > 0:
        path.write_bytes(whole[: at + 5] + b"\x5a" + whole[at + 6 :])
        with pytest.raises(DataError, match="unknown version of JFIF"):
            read_image(path)


def deflated_bomb(path, megabytes):
    """An image in some kilobytes, whose private element inflates to so many megabytes."""
    write(path, GREY, DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    plain = zlib.decompress(content[start:], -15)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    zeros, size = b"\0" * (1 << 20), megabytes << 20
    packed = packer.compress(plain + struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, size))
    packed += b"".join(packer.compress(zeros) for _ in range(megabytes)) + packer.flush()
    path.write_bytes(content[:start] + packed)
    return path


def test_a_deflated_bomb_is_refused_by_its_header_and_by_its_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr("evax.data.dicom.header.LARGEST_INFLATED", 3 << 20)
    path = deflated_bomb(tmp_path / "a.dcm", 9)
    assert path.stat().st_size < 100_000
    for read in (read_header, read_image):
        with pytest.raises(DataError, match="inflates to more than 3 MB"):
            read(path)
    np.testing.assert_allclose(read_image(deflated_bomb(path, 1)).pixels, GREY / 255, atol=1e-6)


PEAK = """
import resource, sys
from evax.data.pictures import read_image
from evax.errors import DataError
read_image(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        read_image(path)
    except DataError:
        continue
    sys.exit(f"{path} was read")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_an_image_of_a_few_kilobytes_takes_no_more_memory_than_its_header_announces(tmp_path):
    shape, whole = (1955, 1841), tmp_path / "whole.dcm"
    stored = np.zeros(shape, "u2")
    compressed(whole, stored, j2k(lambda *_: None, shape), BitsStored=12)
    bombs = [
        compressed(tmp_path / f"{edit.__name__}.dcm", stored, j2k(edit, shape), BitsStored=12)
        for edit in (of_size, small_tiles, small_precincts, many_samples)
    ]
    assert max(path.stat().st_size for path in bombs) < 200_000
    bombs.append(deflated_bomb(tmp_path / "deflated.dcm", 300))
    found = subprocess.run(
        [sys.executable, "-c", PEAK, whole, *bombs], capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 64  # MB above what one whole image takes; 7,100 by the first bomb alone

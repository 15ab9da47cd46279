"""Reading PNG, JPEG and TIFF: scaling, colour, orientation, refusals."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evax.data.pictures import largest_deep_value, read_image, read_picture
from evax.data.radiograph import MAX_PIXELS
from evax.errors import ConfigError, DataError
from picture_files import png, tiff, turned

GREY = np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (12, 10), dtype=np.uint16)


def save(path, pixels, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def shows(path, expected, issues=None, *, bits=None, atol=1e-6):
    """The image, whose pixels must be the expected ones, and its issues, where they are given."""
    radiograph = read_image(path, bits=bits)
    np.testing.assert_allclose(radiograph.pixels, expected, atol=atol)
    assert issues is None or radiograph.issues == tuple(issues)
    return radiograph


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_eight_bit_images_are_divided_by_255_in_every_mode(tmp_path, suffix, mode):
    radiograph = shows(save(tmp_path / f"film.{suffix}", GREY, mode), GREY / 255, ())
    assert radiograph.pixels.dtype == np.float32
    assert (radiograph.view, radiograph.spacing_mm) == (None, None)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_images_are_divided_by_65535(tmp_path, suffix):
    shows(save(tmp_path / f"a.{suffix}", DEEP), DEEP / 65535)


def test_one_bit_images_are_black_and_white(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(GREY > 127))
    np.testing.assert_array_equal(read_image(path).pixels, GREY > 127)


@pytest.mark.parametrize(
    ("highest", "scale", "issues"),
    [
        (250, 255, ("narrow_range",)),
        (3000, 4095, ("narrow_range",)),
        (16383, 16383, ("narrow_range",)),
        (16384, 65535, ()),
        (40000, 65535, ()),
    ],
)
def test_a_detector_depth_in_a_16_bit_file_is_scaled_up_and_a_dark_image_is_not(
    tmp_path, highest, scale, issues
):
    stored = np.linspace(0, highest, 120).astype(np.uint16).reshape(12, 10)
    shows(save(tmp_path / "a.png", stored), stored / scale, issues)


def test_float_tiff_within_0_and_1_is_taken_as_it_is(tmp_path):
    values = (GREY / 300).astype(np.float32)
    radiograph = read_image(save(tmp_path / "a.tif", values))
    np.testing.assert_array_equal(radiograph.pixels, values)
    assert radiograph.issues == ()


def test_float_tiff_in_other_units_is_stretched(tmp_path):
    values = GREY.astype(np.float32) * 10 - 1000
    expected = (values - values.min()) / (values.max() - values.min())
    shows(save(tmp_path / "a.tif", values), expected, ("stretched",))


def test_transparent_parts_are_black(tmp_path):
    seen = np.arange(10) >= 4
    path = save(tmp_path / "a.png", np.dstack([GREY, (seen * 255 + 0 * GREY).astype(np.uint8)]))
    assert (shows(path, GREY * seen / 255, ("transparent",)).pixels[:, :4] == 0).all()


def test_a_colour_picture_is_read_as_luminance_and_reported(tmp_path):
    red = np.dstack([GREY, 0 * GREY, 0 * GREY])
    shows(save(tmp_path / "a.png", red), GREY * 0.299 / 255, ("colour",), atol=0.51 / 255)


def test_faint_tints_and_a_small_coloured_mark_are_not_a_colour_picture(tmp_path):
    tints = np.random.default_rng(0).integers(-12, 13, (40, 40, 3))
    film = (np.full((40, 40, 1), 120) + tints).astype(np.uint8)
    film[:2, :4] = 255, 0, 0
    assert read_image(save(tmp_path / "a.png", film)).issues == ()
    film[:10, :4] = 255, 0, 0
    assert read_image(save(tmp_path / "b.png", film)).issues == ("colour",)


def test_exif_orientation_is_applied(tmp_path):
    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (16, 1))
    path = save(tmp_path / "a.jpg", ramp, exif=exif(6), quality=95)  # to be turned a quarter clockwise
    shows(path, np.rot90(ramp, -1) / 255, atol=0.02)


def test_a_picture_of_one_value_is_blank(tmp_path):
    assert read_image(save(tmp_path / "a.png", np.full((5, 5), 70, np.uint8))).issues == ("blank",)


# --- depth: 16-bit files, guessed or named ------------------------------------------------------------

TWELVE = np.linspace(0, 4095, 120).astype(np.uint16).reshape(12, 10)


@pytest.mark.parametrize("write", [png, tiff])
def test_a_dark_image_is_as_dark_as_its_detector_saw_it_when_the_depth_is_named(tmp_path, write):
    shows(write(tmp_path / "a", TWELVE // 5), (TWELVE // 5) / 4095, (), bits=12)
    shows(tmp_path / "a", (TWELVE // 5) / 1023, ("narrow_range",))


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 3)])
def test_values_above_the_named_depth_are_white_and_reported(tmp_path, shape):
    stored = np.resize(TWELVE.repeat(3) if len(shape) == 3 else TWELVE, shape)
    stored[:2, :2] = 65535
    grey = stored if stored.ndim == 2 else stored[..., 0]
    shows(png(tmp_path / "a.png", stored), np.minimum(grey, 4095) / 4095, ("above_bits",), bits=12)


def test_the_named_depth_does_not_concern_files_that_state_another(tmp_path):
    kinds = [
        save(tmp_path / "a.png", GREY),
        save(tmp_path / "b.tif", (GREY / 255).astype(np.float32)),
        tiff(tmp_path / "c.tif", TWELVE // 5, bits=12),
        tiff(tmp_path / "e.tif", TWELVE // 5, bits=12, compressed=True),
        save(tmp_path / "d.png", Image.fromarray(GREY > 127)),
    ]
    for path in kinds:
        plain, named = read_image(path), read_image(path, bits=10)
        np.testing.assert_array_equal(plain.pixels, named.pixels)
        assert plain.issues == named.issues == ()
        assert largest_deep_value(path) is None
    shows(kinds[2], (TWELVE // 5) / 4095)


def test_the_largest_deep_value_is_that_of_what_a_black_screen_shows(tmp_path):
    assert largest_deep_value(png(tmp_path / "a.png", TWELVE)) == 4095
    hidden = np.stack([TWELVE, np.where(TWELVE > 3000, 0, 65535)], axis=2).astype(np.uint16)
    assert largest_deep_value(png(tmp_path / "b.png", hidden)) == TWELVE[TWELVE <= 3000].max()


@pytest.mark.parametrize("bits", [0, 17])
def test_a_depth_that_no_16_bit_file_has_is_refused(tmp_path, bits):
    with pytest.raises(ConfigError, match=f"bits must lie between 1 and 16, got {bits}"):
        read_image(png(tmp_path / "a.png", TWELVE), bits=bits)


# --- 16-bit colours and alpha ---------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [TWELVE, DEEP], ids=["12 bits", "16 bits"])
@pytest.mark.parametrize(
    ("write", "layers", "options"),  # layers: grey, and alpha
    [
        (png, "ggg", {}), (png, "ggg", {"filtered": False}), (png, "ga", {}), (png, "ggga", {}),
        (tiff, "ggg", {"photometric": 2}), (tiff, "ggg", {"photometric": 2, "planar": 2}),
        (tiff, "ggg", {"photometric": 2, "compressed": True, "order": ">"}),
        (tiff, "ggga", {"photometric": 2, "extra": [2]}),
        (tiff, "ggga", {"photometric": 2, "extra": [2], "planar": 2, "order": ">"}),
    ],
)  # fmt: skip
def test_a_grey_image_saved_with_16_bit_colours_is_the_same_as_in_one_channel(
    tmp_path, write, layers, options, depth
):
    channels = {"g": depth, "a": np.full(depth.shape, 65535, np.uint16)}
    one = read_image(png(tmp_path / "a.png", depth))
    more = read_image(write(tmp_path / "b", np.dstack([channels[name] for name in layers]), **options))
    np.testing.assert_array_equal(one.pixels, more.pixels)
    assert one.issues == more.issues == (("narrow_range",) if depth is TWELVE else ())


def test_16_bit_colours_become_their_luminance_at_full_depth(tmp_path):
    colours = np.random.default_rng(2).integers(0, 65536, (12, 10, 3), dtype=np.uint16)
    expected = colours @ np.array([0.299, 0.587, 0.114]) / 65535
    shows(png(tmp_path / "a.png", colours), expected, ("colour",), atol=1 / 65535)


def test_16_bit_transparency_is_laid_over_black(tmp_path):
    alpha = np.where(np.arange(10) < 4, 0, 65535).astype(np.uint16) + np.zeros_like(DEEP)
    seen = np.where(alpha == 65535, DEEP, 0) / 65535
    marked = np.where(alpha == 65535, np.minimum(DEEP, 65000), 65001).astype(np.uint16)
    for path, expected in [
        (png(tmp_path / "a.png", np.dstack([DEEP, alpha])), seen),
        (png(tmp_path / "b.png", np.dstack([DEEP, DEEP, DEEP, alpha])), seen),
        (png(tmp_path / "c.png", marked, chunks=[(b"tRNS", (65001).to_bytes(2, "big"))]),
         np.where(alpha == 65535, marked, 0) / 65535),
    ]:  # fmt: skip
        shows(path, expected, ("transparent",))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colours_are_turned_as_exif_says(tmp_path, orientation):
    colours = np.random.default_rng(3).integers(0, 65536, (12, 10, 3), dtype=np.uint16)
    plain = turned(read_image(png(tmp_path / "a.png", colours)).pixels, orientation)
    chunks = [(b"eXIf", exif(orientation).tobytes()[6:])]
    for path in (png(tmp_path / "b.png", colours, chunks=chunks),
                 tiff(tmp_path / "a.tif", colours, photometric=2, orientation=orientation)):  # fmt: skip
        np.testing.assert_array_equal(read_image(path).pixels, plain)


# --- every kind of TIFF ---------------------------------------------------------------------------------

LAYOUTS = [  # photometric interpretation, planar configuration, channels, extra samples
    (0, 1, 1, ()), (1, 1, 1, ()), (1, 1, 2, (2,)), (1, 2, 2, (2,)), (1, 1, 2, (0,)), (1, 1, 2, (1,)),
    (2, 1, 3, ()), (2, 2, 3, ()), (2, 1, 4, (2,)), (2, 2, 4, (2,)), (2, 1, 4, (1,)), (2, 1, 4, (0,)),
    (2, 2, 4, (0,)), (5, 1, 4, ()), (5, 2, 4, ()),
]  # fmt: skip
MUST_BE_READ = {("u1", 0, 1), ("u1", 1, 1), ("u1", 2, 1), ("u2", 1, 1), ("u2", 2, 1), ("f4", 1, 1)}
NAMES = {"u": "unsigned integers", "i": "signed integers", "f": "floats"}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "f2", "f4", "f8"])
def test_a_tiff_gives_its_values_or_is_refused_by_the_name_of_its_kind(tmp_path, kind, order):
    dtype, chance = np.dtype(kind), np.random.default_rng(0)
    for photometric, planar, channels, extra in LAYOUTS:
        if dtype.kind == "f":
            stored = chance.random((9, 7, channels)).astype(dtype)
        else:
            lowest = 0 if dtype.kind == "u" else -100
            stored = chance.integers(lowest, min(np.iinfo(dtype).max, 60000), (9, 7, channels)).astype(dtype)
        for compressed in (False, True):
            path = tiff(
                tmp_path / "a.tif", stored if channels > 1 else stored[..., 0],
                order=order, photometric=photometric, planar=planar, extra=extra, compressed=compressed,
            )  # fmt: skip
            try:
                picture = read_picture(path)
            except DataError as refusal:
                rare = 1 in extra or photometric == 1 < channels
                assert rare or (kind, photometric, planar) not in MUST_BE_READ
                assert f"is a TIFF of {8 * dtype.itemsize}-bit {NAMES[dtype.kind]}" in str(refusal)  # noqa: PT017
                assert "save it as PNG or TIFF with 8 or 16 bits" in str(refusal)  # noqa: PT017
                continue
            colours = stored[..., : {1: 1, 2: 3}.get(photometric, 1)]
            if photometric == 0 and not picture.white_is_zero:
                colours = np.iinfo(dtype).max - colours
            if 1 in extra:  # multiplied by its alpha: over black it is what is stored, but for rounding
                capped = np.minimum(colours.astype(int), stored[..., -1:])
                assert np.abs(np.atleast_3d(picture.over_black()) - capped).max() <= 1
                continue
            if photometric == 5:
                assert kind == "u1"  # ink; Pillow turns it into colours
                continue
            np.testing.assert_array_equal(np.atleast_3d(picture.values), colours)
            if 2 in extra:
                np.testing.assert_allclose(picture.alpha, stored[..., -1] / np.iinfo(dtype).max, atol=1e-6)
            else:
                assert picture.alpha is None


def unknown_compression(path):
    old, new = (struct.pack("<HHIH", 259, 3, 1, number) for number in (1, 34887))
    path.write_bytes(tiff(path, GREY).read_bytes().replace(old, new))


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_a_tiff_whose_white_is_zero_is_inverted_in_its_own_depth(tmp_path, kind):
    stored = TWELVE if kind == "u2" else GREY if kind == "u1" else (GREY / 255).astype(np.float32)
    full = {"u1": 255, "u2": 4095, "f4": 1}[kind]
    shows(tiff(tmp_path / "a.tif", stored, photometric=0), 1 - stored / full)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.integers(1, 9), st.integers(1, 9), st.sampled_from([255, 65535]), st.sampled_from(range(1, 9)),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_an_array_gives_the_same_picture_in_every_format(
    tmp_path_factory, height, width, full, orientation, seed
):
    folder = tmp_path_factory.getbasetemp()
    dtype = np.uint8 if full == 255 else np.uint16
    grey = np.random.default_rng(seed).integers(0, full, (height, width), dtype=dtype, endpoint=True)
    grey.flat[0] = full  # so that no depth is guessed
    three, opaque = np.dstack([grey] * 3), np.full_like(grey, full)
    chunks = [(b"eXIf", exif(orientation).tobytes()[6:])]
    paths = [
        png(folder / "1", grey, chunks=chunks),
        png(folder / "2", three, chunks=chunks),
        png(folder / "3", np.dstack([grey, opaque]), chunks=chunks),
        png(folder / "4", np.dstack([three, opaque]), chunks=chunks),
        tiff(folder / "5", grey, orientation=orientation),
        tiff(folder / "6", grey, order=">", compressed=True, orientation=orientation),
        tiff(folder / "7", three, photometric=2, orientation=orientation),
        tiff(folder / "8", three, photometric=2, order=">", planar=2, orientation=orientation),
        tiff(folder / "9", np.dstack([three, opaque]), photometric=2, extra=(2,), orientation=orientation),
        tiff(folder / "10", full - grey, photometric=0, orientation=orientation),
        tiff(folder / "11", (grey / full).astype(np.float32), orientation=orientation),
    ]
    for path in paths:
        shows(path, turned(grey / full, orientation))


# --- refusals ---------------------------------------------------------------------------------------


def huge(path, width, height):
    """A PNG that claims this size and holds next to nothing."""
    size = struct.pack(">II", 10, 12)
    content = bytearray(png(path, GREY).read_bytes())
    assert content[16:24] == size
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


def truncated(path, share, **options):
    save(path, np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8), **options)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def two_pages(path, kind="TIFF"):
    Image.fromarray(GREY).save(path, kind, save_all=True, append_images=[Image.fromarray(255 - GREY)])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: os.mkfifo(path), "device or pipe"),
        (lambda path: path.write_bytes(b"a text is no film, however long " * 9), "is not a readable"),
        (lambda path: save(path, GREY, format="BMP"), "is not a readable"),
        (lambda path: truncated(path, 0.5, format="PNG"), "damaged"),
        (lambda path: truncated(path, 0.5, format="JPEG"), "truncated"),
        (lambda path: truncated(path, 0.5, format="TIFF"), "damaged|not a readable"),
        (two_pages, "2 pages"),
        (lambda path: two_pages(path, "PNG"), "2 pages"),
        (lambda path: huge(path, 10_001, 10_000), "100 megapixels"),
        (lambda path: huge(path, 60_000, 60_000), "too large"),
        (lambda path: save(path, np.array([[0, 70_000]], np.int32), format="TIFF"), "0 to 70000"),
        (lambda path: tiff(path, np.array([[5, 2**32 - 7]], np.uint32)), "from 5 to 4294967289"),
        (lambda path: tiff(path, np.array([[9, 2**31]], np.uint32), compressed=True), "9 to 2147483648"),
        (lambda path: save(path, np.array([[0, np.nan]], np.float32), format="TIFF"), "NaN"),
        (lambda path: tiff(path, GREY, photometric=None),
         "TIFF of 8-bit unsigned integers .photometric interpretation missing"),
        (lambda path: path.write_bytes(b"MM\0+\0\x08\0\0" + (16).to_bytes(8, "big") + bytes(60)),
         "film.png is a big-endian BigTIFF, a kind that is not supported"),
        (unknown_compression, "TIFF of 8-bit unsigned integers .compression 34887"),
    ],
)  # fmt: skip
def test_what_is_no_single_picture_is_refused_with_name_and_reason(tmp_path, make, reason):
    path = tmp_path / "film.png"
    make(path)
    with pytest.raises(DataError, match=reason) as refusal:
        read_image(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unreadable_file_is_refused(tmp_path):
    path = save(tmp_path / "a.png", GREY)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match="Permission denied"):
        read_image(path)


def test_pillows_own_limit_stays_on():
    assert Image.MAX_IMAGE_PIXELS is not None
    assert Image.MAX_IMAGE_PIXELS <= MAX_PIXELS


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "TIFF"]),
    flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4),
    tail=st.binary(max_size=20),
    keep=st.integers(0, 2000),
)
def test_damaged_bytes_end_in_an_image_or_a_data_error(tmp_path_factory, kind, flips, tail, keep):
    path = tmp_path_factory.getbasetemp() / "damaged"
    save(path, GREY, format=kind)
    content = bytearray(path.read_bytes()[: keep + 8] + tail)
    for position, value in flips:
        content[position % len(content)] = value
    path.write_bytes(content)
    try:
        pixels = read_image(path).pixels
    except DataError as error:
        assert "Type-check" not in str(error)  # noqa: PT017  # a mistake of ours, not of the file
    else:
        assert 0 <= pixels.min() <= pixels.max() <= 1


def test_reading_a_png_loads_no_heavy_library(tmp_path):
    path = save(tmp_path / "a.png", GREY)
    code = (
        "import sys, evax.data.preprocess, evax.data.pictures as room; room.read_image(sys.argv[1]);"
        "print([name for name in ('pydicom', 'pandas', 'torch', 'jaxtyping') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.real
@pytest.mark.parametrize(
    "folder", ["chestxray14-sample", "kermany-pneumonia", "kermany-lungs", "hannover-covid19"]
)
def test_real_images_are_read_without_an_issue(shared, folder):
    for path in sorted((shared / folder / "images").iterdir())[:5]:
        radiograph = read_image(path)
        assert radiograph.issues == ()
        assert radiograph.pixels.std() > 0.08

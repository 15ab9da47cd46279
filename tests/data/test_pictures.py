"""Reading PNG, JPEG and TIFF: scaling, colour, orientation, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evax.data.pictures import read_image
from evax.data.radiograph import MAX_PIXELS
from evax.errors import DataError

GREY = np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (12, 10), dtype=np.uint16)


def save(path, pixels, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_eight_bit_films_are_divided_by_255_in_every_mode(tmp_path, suffix, mode):
    radiograph = read_image(save(tmp_path / f"film.{suffix}", GREY, mode))
    assert radiograph.pixels.dtype == np.float32
    np.testing.assert_allclose(radiograph.pixels, GREY / 255, atol=1e-6)
    assert (radiograph.issues, radiograph.view, radiograph.spacing_mm) == ((), None, None)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_films_are_divided_by_65535(tmp_path, suffix):
    np.testing.assert_allclose(
        read_image(save(tmp_path / f"a.{suffix}", DEEP)).pixels, DEEP / 65535, atol=1e-6
    )


def test_big_endian_tiff_is_read(tmp_path):
    path = tmp_path / "a.tif"
    Image.frombytes("I;16B", (10, 12), DEEP.astype(">u2").tobytes()).save(path)
    np.testing.assert_allclose(read_image(path).pixels, DEEP / 65535, atol=1e-6)


def test_one_bit_films_are_black_and_white(tmp_path):
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
def test_a_detector_depth_in_a_16_bit_file_is_scaled_up_and_a_dark_film_is_not(
    tmp_path, highest, scale, issues
):
    stored = np.linspace(0, highest, 120).astype(np.uint16).reshape(12, 10)
    radiograph = read_image(save(tmp_path / "a.png", stored))
    np.testing.assert_allclose(radiograph.pixels, stored / scale, atol=1e-6)
    assert radiograph.issues == issues


def test_float_tiff_within_0_and_1_is_taken_as_it_is(tmp_path):
    values = (GREY / 300).astype(np.float32)
    radiograph = read_image(save(tmp_path / "a.tif", values))
    np.testing.assert_array_equal(radiograph.pixels, values)
    assert radiograph.issues == ()


def test_float_tiff_in_other_units_is_stretched(tmp_path):
    values = GREY.astype(np.float32) * 10 - 1000
    radiograph = read_image(save(tmp_path / "a.tif", values))
    expected = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)
    assert radiograph.issues == ("stretched",)


@pytest.mark.parametrize("pixels", [GREY, DEEP, (GREY / 255).astype(np.float32)])
def test_a_tiff_whose_white_is_zero_is_inverted(tmp_path, pixels):
    path = tmp_path / "a.tif"
    save(path, pixels)
    content = path.read_bytes()
    tag = (262).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    assert content.count(tag) == 1
    path.write_bytes(content.replace(tag + b"\1\0", tag + b"\0\0"))
    scale = {"uint8": 255, "uint16": 65535, "float32": 1}[pixels.dtype.name]
    np.testing.assert_allclose(read_image(path).pixels, 1 - pixels / scale, atol=1e-6)


def test_transparent_parts_are_black(tmp_path):
    grey_alpha = np.stack([GREY, np.where(np.arange(10) < 4, 0, 255) + 0 * GREY], axis=2).astype(np.uint8)
    radiograph = read_image(save(tmp_path / "a.png", grey_alpha))
    assert (radiograph.pixels[:, :4] == 0).all()
    np.testing.assert_allclose(radiograph.pixels[:, 4:], GREY[:, 4:] / 255, atol=1e-6)
    assert radiograph.issues == ("transparent",)


def test_a_colour_picture_is_read_as_luminance_and_reported(tmp_path):
    red = np.zeros((12, 10, 3), np.uint8)
    red[..., 0] = GREY
    radiograph = read_image(save(tmp_path / "a.png", red))
    np.testing.assert_allclose(radiograph.pixels, GREY * 0.299 / 255, atol=0.51 / 255)
    assert radiograph.issues == ("colour",)


def test_faint_tints_and_a_small_coloured_mark_are_not_a_colour_picture(tmp_path):
    tints = np.random.default_rng(0).integers(-12, 13, (40, 40, 3))
    film = (np.full((40, 40, 1), 120) + tints).astype(np.uint8)
    film[:2, :4] = 255, 0, 0
    assert read_image(save(tmp_path / "a.png", film)).issues == ()
    film[:10, :4] = 255, 0, 0
    assert read_image(save(tmp_path / "b.png", film)).issues == ("colour",)


def test_exif_orientation_is_applied(tmp_path):
    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (16, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    path = save(tmp_path / "a.jpg", ramp, exif=exif, quality=95)
    np.testing.assert_allclose(read_image(path).pixels, np.rot90(ramp, -1) / 255, atol=0.02)


def test_a_picture_of_one_value_is_blank(tmp_path):
    assert read_image(save(tmp_path / "a.png", np.full((5, 5), 70, np.uint8))).issues == ("blank",)


# --- refusals ---------------------------------------------------------------------------------------


def huge_png(width, height):
    """A PNG that claims this size and holds next to nothing."""

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def truncated(path, share, **options):
    save(path, np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8), **options)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def two_pages(path):
    page = Image.fromarray(GREY)
    page.save(path, "TIFF", save_all=True, append_images=[page])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: os.mkfifo(path), "device or pipe"),
        (
            lambda path: path.write_bytes(b"a text is no film, however long " * 9),
            "is not a readable",
        ),
        (lambda path: save(path, GREY, format="BMP"), "is not a readable"),
        (lambda path: truncated(path, 0.5, format="PNG"), "damaged"),
        (lambda path: truncated(path, 0.5, format="JPEG"), "truncated"),
        (lambda path: truncated(path, 0.5, format="TIFF"), "damaged|not a readable"),
        (two_pages, "2 pages"),
        (lambda path: path.write_bytes(huge_png(10_001, 10_000)), "100 megapixels"),
        (lambda path: path.write_bytes(huge_png(60_000, 60_000)), "too large"),
        (lambda path: save(path, np.array([[0, 70_000]], np.int32), format="TIFF"), "0 to 70000"),
        (lambda path: save(path, np.array([[0, np.nan]], np.float32), format="TIFF"), "NaN"),
    ],
)
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
def test_damaged_bytes_end_in_a_film_or_a_data_error(tmp_path_factory, kind, flips, tail, keep):
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
def test_real_films_are_read_without_an_issue(shared, folder):
    for path in sorted((shared / folder / "images").iterdir())[:5]:
        radiograph = read_image(path)
        assert radiograph.issues == ()
        assert radiograph.pixels.std() > 0.08

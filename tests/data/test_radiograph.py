"""What an array must be to count as an image, and what is refused with the way out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evax.data.preprocess import Preprocess
from evax.data.radiograph import ROUNDING, Radiograph, checked_pixels
from evax.errors import DataError
from evax.explain.overlay import outlined, overlay

FILM = np.random.default_rng(0).random((20, 16), dtype=np.float32)
CHAIN = Preprocess(store_size=16, input_size=16)
WRONG = [
    (FILM * 255, "got .* to 25.*: subtract the value of black, then divide by that of white"),
    (FILM * 4095, "divide by that of white"),
    (FILM * 2048 - 1024, "got -10.* to .*: subtract the value of black"),
    (FILM - 0.01, "Pixels lie in .0, 1."),
    (np.where(FILM > 0.5, np.float32(np.nan), FILM), "got nan to nan: replace what is not a finite number"),
    (np.where(FILM > 0.5, np.float32(np.inf), FILM), "replace what is not a finite number"),
    ((FILM * 255).astype(np.uint8), "got uint8: convert them to float32 and divide by the value of white"),
    ((FILM * 4095).astype(np.int16), "got int16"),
    (FILM > 0.5, "got bool"),
    (np.stack([FILM] * 3), r"shape \(3, 20, 16\): pass one image at a time"),
    (FILM[0], r"shape \(16,\)"),
    (FILM[:0], r"shape \(0, 16\)"),
    (FILM.tolist(), "a NumPy array, got list"),
    (torch.from_numpy(FILM), "a NumPy array, got Tensor"),
]


@pytest.mark.parametrize(("pixels", "reason"), WRONG)
def test_anything_but_grey_pixels_in_0_to_1_is_refused_with_the_way_out(pixels, reason):
    with pytest.raises(DataError, match=reason):
        checked_pixels(pixels)  # types are checked before it when tests call Radiograph
    if getattr(pixels, "dtype", None) == np.float32:
        with pytest.raises(DataError, match=reason):
            Radiograph(pixels)


@pytest.mark.parametrize("pixels", [pixels for pixels, _ in WRONG if isinstance(pixels, np.ndarray)])
def test_values_that_would_wrap_around_in_8_bits_are_refused_by_the_chain(pixels):
    with pytest.raises(DataError):
        CHAIN.to_store(pixels)


def test_float64_and_float16_become_float32_and_float32_is_not_copied():
    for dtype in (np.float64, np.float16):
        pixels = checked_pixels(FILM.astype(dtype))
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels, FILM, atol=1e-3)
    assert Radiograph(FILM).pixels is FILM


def test_a_rounding_error_beyond_black_or_white_is_clipped():
    pixels = Radiograph(np.array([[-ROUNDING / 2, 1 + ROUNDING / 2, 0.5]], np.float32)).pixels
    assert pixels.tolist() == [[0, 1, 0.5]]


@pytest.mark.parametrize("spacing", [(0.15, 0.0), (-1.0, 1.0), (float("nan"), 0.1), (float("inf"), 0.1)])
def test_a_spacing_that_is_no_two_positive_numbers_is_refused(spacing):
    with pytest.raises(DataError, match="two positive numbers, or None"):
        Radiograph(FILM, spacing)
    assert Radiograph(FILM, (0.15, 0.2)).spacing_mm == (0.15, 0.2)


@given(
    arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)),
    st.none() | st.floats(-2, 3, width=32) | st.sampled_from([float("nan"), float("inf"), 255.0]),
)
def test_an_array_is_accepted_exactly_when_every_value_lies_in_0_to_1(pixels, other):
    if other is not None:
        pixels[1, 2] = other
    inside = bool(((pixels >= -ROUNDING) & (pixels <= 1 + ROUNDING)).all())
    try:
        stored = CHAIN.to_store(Radiograph(pixels).pixels)
    except DataError:
        assert not inside
    else:
        assert inside
        assert stored.min() >= np.floor(max(0, pixels.min()) * 255)
        assert stored.max() <= np.ceil(min(1, pixels.max()) * 255)


def test_a_stored_image_that_is_not_8_bit_and_square_in_shape_is_refused():
    for wrong in (FILM, np.zeros((3, 16, 16), np.uint8), np.zeros((16, 16), np.uint16)):
        with pytest.raises(DataError, match="A stored image has shape .side, side. and type uint8, got"):
            CHAIN.to_input(wrong)


def test_a_picture_of_values_outside_0_to_1_is_not_drawn():
    heat = np.zeros_like(FILM)
    for film, map_ in ((FILM * 255, heat), (FILM, heat + 2)):
        with pytest.raises(DataError, match="Pixels lie in"):
            overlay(film, map_)
    with pytest.raises(DataError, match="divide by that of white"):
        outlined(FILM * 255, [])


def test_a_map_of_another_image_is_not_drawn():
    with pytest.raises(DataError, match=r"The map has shape \(16, 20\) and the image \(20, 16\)"):
        overlay(FILM, np.zeros((16, 20), np.float32))

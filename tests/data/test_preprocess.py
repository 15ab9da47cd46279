"""Image -> store -> network input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from evax.data.preprocess import Preprocess
from evax.data.radiograph import Radiograph
from evax.errors import ConfigError

SMALL = Preprocess(store_size=48, input_size=32, mean=0.4, std=0.2)


def noise(side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def ramp(height, width):
    return np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))


def test_store_pixels_are_eight_bit_squares_of_the_whole_image():
    stored = SMALL.to_store(ramp(100, 300))
    assert (stored.shape, stored.dtype) == ((48, 48), np.uint8)
    centers = (np.arange(48) + 0.5) / 48  # aspect is not kept: the ramp spans the square
    np.testing.assert_allclose(stored[20], centers * 255, atol=1.5)


def test_shrinking_is_smoothed():
    stripes = np.tile(np.array([0, 1], dtype=np.float32), (480, 240))
    stored = SMALL.to_store(stripes)
    assert np.ptp(stored[:, 2:-2]) <= 2
    assert abs(float(stored.mean()) - 127.5) < 2


def test_an_image_of_store_size_is_only_rounded():
    film = np.random.default_rng(0).random((48, 48), dtype=np.float32)
    np.testing.assert_array_equal(SMALL.to_store(film), np.rint(film * 255).astype(np.uint8))


def test_eight_bit_images_survive_the_store_unchanged():
    film = np.arange(48 * 48, dtype=np.uint16).reshape(48, 48).astype(np.uint8)
    np.testing.assert_array_equal(SMALL.to_store(np.divide(film, 255, dtype=np.float32)), film)


def test_input_is_resized_in_eight_bits_then_normalised():
    film = noise(48)
    resized = np.asarray(Image.fromarray(film).resize((32, 32), Image.Resampling.BILINEAR))
    network_input = SMALL.to_input(film)
    assert (network_input.shape, network_input.dtype) == ((32, 32), np.float32)
    np.testing.assert_allclose(network_input, (resized / 255 - 0.4) / 0.2, atol=1e-5)


def test_input_of_equal_size_is_not_resized():
    film = noise(32)
    np.testing.assert_allclose(SMALL.to_input(film) * 0.2 + 0.4, film / 255, atol=1e-6)


def test_training_and_deployment_see_the_same_pixels():
    radiograph = Radiograph(np.random.default_rng(0).random((90, 70), dtype=np.float32))
    stored = SMALL.to_store(radiograph.pixels)
    deployed = SMALL.to_network_input(radiograph)
    np.testing.assert_allclose(deployed, (SMALL.view(stored) / 255 - 0.4) / 0.2, atol=1e-5)


def test_a_whole_image_of_the_right_size_is_itself():
    film = noise(48)
    np.testing.assert_array_equal(Preprocess(48, 48).view(film), film)
    assert SMALL.view(film).shape == (32, 32)


@pytest.mark.parametrize(
    ("store", "resized", "side"), [(336, 256, 224), (256, 256, 224), (336, 224, 224), (96, 61, 32)]
)
def test_a_central_crop_is_torchvision_s_resize_and_center_crop(store, resized, side):
    film = noise(store, seed=1)
    chain = Preprocess(store, side, resize_size=resized)
    theirs = v2.Compose([v2.Resize(resized, v2.InterpolationMode.BICUBIC), v2.CenterCrop(side)])
    np.testing.assert_array_equal(chain.view(film), np.asarray(theirs(Image.fromarray(film))))
    normalised = (chain.view(film) / 255 - chain.mean) / chain.std
    np.testing.assert_allclose(chain.to_input(film), normalised, atol=1e-5)


def test_the_seen_part_of_an_image_is_given_in_fractions():
    assert Preprocess().seen == (0.0, 1.0)
    assert Preprocess(336, 224, resize_size=256).seen == (16 / 256, 240 / 256)


COLOUR = Preprocess(64, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("chain", [SMALL, replace(SMALL, resize_size=40), COLOUR])
def test_the_card_round_trip_is_exact(chain):
    assert Preprocess.from_json(json.loads(json.dumps(chain.to_json()))) == chain


def test_a_card_mentions_a_central_crop_only_where_there_is_one():
    assert set(SMALL.to_json()) == {"store_size", "input_size", "mean", "std"}  # an older evax reads it
    assert Preprocess() == Preprocess(336, 224, 0.49185243, 0.28509309)


def test_a_central_crop_belongs_to_its_input_size():
    cropped = replace(SMALL, resize_size=40)
    assert cropped.at(32) == cropped
    assert cropped.at(48) == replace(SMALL, input_size=48)


def test_three_means_make_three_channels_of_one_grey_image_alike_for_arrays_and_tensors():
    film = noise(32)
    network_input = COLOUR.to_input(film)
    assert (network_input.shape, network_input.dtype) == ((3, 32, 32), np.float32)
    for channel, (mean, std) in enumerate(zip(COLOUR.mean, COLOUR.std, strict=True)):
        np.testing.assert_allclose(network_input[channel], (film / 255 - mean) / std, atol=1e-5)
    batch = COLOUR.normalise(torch.from_numpy(film)[None, None].float() / 255)
    assert batch.shape == (1, 3, 32, 32)
    np.testing.assert_allclose(batch[0].numpy(), network_input, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"store_size": 0}, "store_size must lie between 16 and 4096 pixels, got 0"),
        ({"input_size": 224.0}, "input_size of the card must be a number, whole for sizes, got 224.0"),
        ({"input_size": True}, "input_size of the card"),
        ({"input_size": 5000}, "input_size must lie between"),
        ({"mean": 125.0}, "mean .* got 125.0; divide by 255"),
        ({"mean": float("nan")}, "mean .* got nan"),
        ({"std": 0.0}, "std .* got 0.0"),
        ({"std": 58.0}, "std .* divide by 255"),
        ({"std": "0.2"}, "std of the card must be a number"),
        ({"mean": [0.5, 0.5]}, "mean of the card must be a number"),
        ({"mean": [0.5, 0.5, 0.5]}, "one number each, or three each, got"),
        ({"std": [0.5, 0.5, 0.0], "mean": [0.5, 0.5, 0.5]}, "std .* got .*0.0"),
        ({"input_size": [32, 32, 32]}, "input_size of the card"),
        ({"resize_size": 31}, "resize_size must lie between input_size, 32, and 4096 pixels, got 31"),
        ({"resize_size": 40.0}, "resize_size of the card must be a number, whole"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    content = SMALL.to_json() | change
    with pytest.raises(ConfigError, match=message):
        Preprocess.from_json(content)


def test_a_card_with_other_names_is_refused():
    with pytest.raises(ConfigError, match=r"'sdt'.*Did you mean 'std'"):
        Preprocess.from_json(SMALL.to_json() | {"sdt": 0.1})
    with pytest.raises(ConfigError, match="lacks mean, std"):
        Preprocess.from_json({"store_size": 336, "input_size": 224})

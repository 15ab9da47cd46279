"""timm's RandAugment with chance as an argument."""

import random
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from timm.data.auto_augment import AugmentOp

from evax.data.augment import TWO_SIDED, CropConfig, RandAugment, applied, training_view
from evax.data.preprocess import Preprocess

# the operations of facts 4.2 in its order, and what magnitude 6 of 10 means by their definitions, at sign +1
AT_SIX = {
    "AutoContrast": None, "Equalize": None, "Invert": None, "Rotate": 18.0, "PosterizeIncreasing": 2,
    "SolarizeIncreasing": 103, "SolarizeAdd": 66, "ColorIncreasing": 1.54, "ContrastIncreasing": 1.54,
    "BrightnessIncreasing": 1.54, "SharpnessIncreasing": 1.54, "ShearX": 0.18, "ShearY": 0.18,
    "TranslateXRel": 0.27, "TranslateYRel": 0.27,
}  # fmt: skip
OPERATIONS = list(AT_SIX)


@pytest.fixture(scope="module")
def augment():
    return RandAugment(fill=125)


@pytest.fixture(scope="module")
def crop():
    noise = np.random.default_rng(0).integers(0, 120, (48, 48), dtype=np.uint8)
    return noise + np.arange(0, 96, 2, dtype=np.uint8)


def chance(seed):
    return np.random.default_rng(seed)


def test_operations_and_their_settings_are_those_of_the_paper_s_recipe(augment):
    assert [operation.name for operation in augment.operations] == OPERATIONS
    assert augment.layers == 2
    for operation in augment.operations:
        assert (operation.prob, operation.magnitude, operation.magnitude_std) == (0.5, 6, 0.5)
        assert operation.kwargs == {"fillcolor": 125, "resample": Image.Resampling.BICUBIC}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_operation_does_what_timm_s_does_at_the_same_draws(augment, crop, name, sign):
    """Theirs on a colour copy of the grey image, as the released code opens images."""
    ours = next(operation for operation in augment.operations if operation.name == name)
    theirs = AugmentOp(
        name, prob=1.0, magnitude=6,
        hparams={"img_mean": (125,) * 3, "interpolation": Image.Resampling.BICUBIC, "magnitude_std": 0.5},
    )  # fmt: skip
    with (
        patch.object(random, "gauss", lambda mean, deviation: 6.7),
        patch.object(random, "random", lambda: 0.9 if sign < 0 else 0.1),
    ):
        expected = np.asarray(theirs(Image.fromarray(crop).convert("RGB")))
    found = applied(ours, Image.fromarray(crop), 6.7, sign)
    for channel in range(3):
        np.testing.assert_array_equal(np.asarray(found), expected[..., channel])


@pytest.mark.parametrize("name", OPERATIONS)
def test_magnitudes_are_those_of_the_recipe(augment, crop, name):
    operation = next(item for item in augment.operations if item.name == name)
    seen = []
    with patch.object(operation, "aug_fn", lambda picture, *strength, **_: seen.append(strength) or picture):
        applied(operation, Image.fromarray(crop), 6.0, 1.0)
        applied(operation, Image.fromarray(crop), 99.0, -1.0)
        applied(operation, Image.fromarray(crop), 10.0, -1.0)
    assert seen[0] == (() if AT_SIX[name] is None else (pytest.approx(AT_SIX[name]),))
    assert seen[1] == seen[2]  # cut to 10
    if name in TWO_SIDED:
        assert seen[2][0] < TWO_SIDED[name][0] < seen[0][0]


def test_two_operations_are_drawn_and_each_is_left_out_half_the_time(augment, crop):
    counts = dict.fromkeys(OPERATIONS, 0)

    def counting(name):
        def count(picture, *strength, **settings):
            counts[name] += 1
            return picture

        return count

    patched = [patch.object(item, "aug_fn", counting(item.name)) for item in augment.operations]
    for each in patched:
        each.start()
    draws = 1500
    for seed in range(draws):
        augment(crop, chance(seed))
    for each in patched:
        each.stop()
    assert sum(counts.values()) / draws == pytest.approx(1.0, abs=0.08)  # 2 x 0.5
    assert all(count / draws == pytest.approx(1 / 15, abs=0.03) for count in counts.values())


def test_the_same_seed_epoch_and_image_give_the_same_picture_and_global_chance_is_left_alone(crop):
    chain = Preprocess(store_size=48, input_size=32)
    random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    views = [training_view("randaugment", CropConfig(), chain, seed) for seed in (0, 0, 1)]
    one, same, other = ([view(crop, epoch, 3) for epoch in range(12)] for view in views)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))
    plain = training_view("crop", CropConfig(), chain, 0)
    changed = [(picture != plain(crop, epoch, 3)).any() for epoch, picture in enumerate(one)]
    assert any(changed)
    assert not all(changed)  # a quarter of the crops stay as they are
    assert before == (random.getstate(), np.random.get_state()[1].tolist())

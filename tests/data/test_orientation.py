"""Images that are inverted or turned are told from those that are not, on phantoms and on real images."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from tests.dicoms import write

from evax.data.orientation import LEFT_HALF, SIDE, orientation_issues
from evax.data.phantom import make_phantom
from evax.data.pictures import read_image

FALSE_ALARMS = 0.001  # at most, of real images that lie as they should


@pytest.fixture(scope="module")
def chests():
    return [make_phantom(7, index).pixels.astype(np.float32)[::4, ::4] for index in range(4)]


def test_upright_phantoms_raise_no_alarm(chests):
    assert [orientation_issues(chest) for chest in chests] == [[]] * len(chests)


def test_inverted_phantoms_are_recognised_whatever_their_contrast(chests):
    for chest in chests:
        assert orientation_issues(1 - chest) == orientation_issues((1 - chest) ** 3) == ["looks_inverted"]


@pytest.mark.parametrize("turns", [1, 3])
def test_phantoms_on_their_side_are_recognised(chests, turns):
    for chest in chests:
        lying = np.ascontiguousarray(np.rot90(chest, turns))
        assert orientation_issues(lying) == ["looks_rotated"]
        assert orientation_issues(1 - lying) == ["looks_inverted", "looks_rotated"]


def test_what_shows_no_chest_raises_no_alarm():
    noise = np.random.default_rng(0).random((200, 200), dtype=np.float32)
    assert orientation_issues(noise) == orientation_issues(1 - noise) == []
    assert orientation_issues(np.full((200, 200), 0.5, np.float32)) == []
    assert orientation_issues(np.tile(np.float32([[0, 1], [1, 0]]), (20, 20))) == []


def test_the_mean_chest_is_that_of_the_phantoms(chests):
    means = [chest[: len(chest) // SIDE * SIDE, : len(chest[0]) // SIDE * SIDE] for chest in chests]
    small = [mean.reshape(SIDE, len(mean) // SIDE, SIDE, len(mean[0]) // SIDE).mean((1, 3)) for mean in means]
    left = np.array(LEFT_HALF)
    assert np.corrcoef(np.mean(small, 0).ravel(), np.hstack([left, left[:, ::-1]]).ravel())[0, 1] > 0.9


def test_an_image_whose_tag_contradicts_its_pixels_is_named_and_shown_as_its_tag_says(chests, tmp_path):
    stored, path = np.rint(chests[0] * 255).astype(np.uint8), tmp_path / "a.dcm"
    right = read_image(write(path, stored))
    wrong = read_image(write(path, stored, PhotometricInterpretation="MONOCHROME1"))
    assert (right.issues, wrong.issues) == ((), ("looks_inverted",))
    np.testing.assert_allclose(wrong.pixels, 1 - right.pixels, atol=1e-6)
    # of a hand, or of an image from the side, nobody knows how it should look
    for other in ({"BodyPartExamined": "HAND"}, {"ViewPosition": "LL"}):
        tags = other | {"PhotometricInterpretation": "MONOCHROME1"}
        assert "looks_inverted" not in read_image(write(path, stored, **tags)).issues


@pytest.mark.real
@pytest.mark.long
def test_real_images_raise_at_most_one_alarm_in_a_thousand(shared):
    alarms, inverted, films = Counter(), Counter(), 0
    for name in ("chestxray14-sample", "kermany-pneumonia", "hannover-covid19"):
        for path in sorted((shared / name / "images").iterdir()):
            pixels = read_image(path).pixels
            alarms.update(orientation_issues(pixels))
            inverted.update(orientation_issues(1 - pixels))
            films += 1
    assert films > 6000
    assert alarms["looks_inverted"] <= FALSE_ALARMS * films
    assert alarms["looks_rotated"] <= FALSE_ALARMS * films
    assert inverted["looks_inverted"] > 0.98 * films

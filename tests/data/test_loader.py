"""Crops and batches: chance is keyed by (seed, epoch, image), so a run can stop, go on and use any threads."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evax.data.augment import CROP, MASK, CropConfig, image_chance, random_crop, training_view
from evax.data.building import build_store
from evax.data.loader import Films, ImageOrder, training_batches, whole_batches
from evax.data.manifest import Manifest
from evax.data.preprocess import Preprocess
from evax.data.store import open_store
from evax.errors import ConfigError

SIDE = 256
SMALL = Preprocess(store_size=32, input_size=16)
RAMP = np.tile(np.arange(SIDE, dtype=np.uint8), (SIDE, 1))  # the value of a pixel is its column
SEEDS = st.integers(0, 2**31)


def chance(seed=0, epoch=0, film=0, purpose=CROP):
    return image_chance(seed, epoch, film, purpose)


def cut(config, seed):
    """Left, top, width, height of the crop that this seed cuts, in pixels, measured on ramps."""
    sides = []
    for film in (RAMP, RAMP.T):
        pixels = random_crop(film, 64, config, chance(seed)).astype(float)
        line = pixels.mean(axis=0) if film is RAMP else pixels.mean(axis=1)
        middle = np.arange(4, 60)  # the filter is cut off at the border
        slope, start = np.polyfit(middle + 0.5, line[4:60] + 0.5, 1)
        sides.append((start, 64 * slope))
    (left, width), (top, height) = sides
    return left, top, width, height


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    area=st.tuples(st.floats(0.1, 0.7), st.floats(0.1, 1)).map(sorted).map(tuple),
    aspect=st.tuples(st.floats(0.5, 1), st.floats(1, 2)),
)
def test_a_crop_keeps_to_its_area_and_aspect(seed, area, aspect):
    area = (min(area[0], 1 / aspect[1], aspect[0]), area[1])  # see the next test
    left, top, width, height = cut(CropConfig(area=area, aspect=aspect, flip=0.0), seed)
    assert area[0] - 0.02 <= width * height / SIDE**2 <= area[1] + 0.02
    assert aspect[0] / 1.02 <= width / height <= aspect[1] * 1.02
    assert min(left, top) >= -1
    assert max(left + width, top + height) <= SIDE + 1


def test_a_scaled_image_is_cut_at_the_input_s_size():
    config = CropConfig(scale=(0.4, 1.6), flip=0.0)
    crops = np.array([cut(config, seed) for seed in range(60)])
    widths, heights = crops[:, 2], crops[:, 3]
    np.testing.assert_allclose(widths, heights, atol=2)
    assert widths.min() == pytest.approx(64 / 1.6, abs=4)  # the image of 256 pixels at 409, 64 of them
    assert widths.max() == pytest.approx(64 / 0.4, abs=8)
    assert np.median(64 / widths) == pytest.approx(1.0, abs=0.15)
    whole = cut(CropConfig(scale=(0.1, 0.1), flip=0.0), seed=1)[2]
    assert whole == pytest.approx(SIDE, abs=2)  # not more than all


@pytest.mark.parametrize(("aspect", "longer"), [(2.0, 0), (0.5, 1)])
def test_a_crop_that_would_not_fit_is_narrowed_to_the_image(aspect, longer):
    sides = cut(CropConfig(area=(1.0, 1.0), aspect=(aspect, aspect), flip=0.0), seed=3)[2:]
    assert sides[longer] == pytest.approx(SIDE, abs=2)
    assert sides[1 - longer] == pytest.approx(SIDE / np.sqrt(2), abs=2)


def test_areas_and_aspects_fill_their_ranges_evenly():
    config = CropConfig(area=(0.2, 0.6), aspect=(0.8, 1.25), flip=0.0)
    crops = np.array([cut(config, seed) for seed in range(200)])
    areas, aspects = crops[:, 2] * crops[:, 3] / SIDE**2, np.log(crops[:, 2] / crops[:, 3])
    np.testing.assert_allclose(np.quantile(areas, [0.02, 0.5, 0.98]), [0.208, 0.4, 0.592], atol=0.04)
    np.testing.assert_allclose(np.quantile(aspects, [0.02, 0.5, 0.98]), [-0.21, 0, 0.21], atol=0.04)
    free = SIDE - crops[:, 2]
    assert np.median(crops[:, 0] / free) == pytest.approx(0.5, abs=0.1)


@settings(deadline=None)
@given(SEEDS)
def test_a_mirrored_crop_is_the_same_crop_turned_over(seed):
    film = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    plain, mirrored = (random_crop(film, 24, CropConfig(flip=flip), chance(seed)) for flip in (0.0, 1.0))
    np.testing.assert_array_equal(plain[:, ::-1], mirrored)


def test_the_share_of_mirrored_crops_is_the_one_asked_for():
    crops = [random_crop(RAMP, 16, CropConfig(flip=0.25), chance(seed)) for seed in range(400)]
    assert np.mean([crop[0, 0] > crop[0, -1] for crop in crops]) == pytest.approx(0.25, abs=0.07)


def test_a_crop_of_the_whole_image_at_its_own_size_is_the_image():
    film = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    whole = CropConfig(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)
    np.testing.assert_array_equal(random_crop(film, 48, whole, chance()), film)


def test_seed_epoch_image_and_purpose_each_change_the_numbers():
    keys = [(), (1,), (0, 1), (0, 0, 1), (0, 0, 0, MASK), (0, 1, 1)]
    assert len({tuple(chance(*key).random(4)) for key in keys}) == len(keys)
    assert chance(5, 2, 7).random() == chance(5, 2, 7).random()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("area", (0.5, 0.2), r"area must rise within \(0, 1\], got \(0.5, 0.2\)"),
        ("area", (0.0, 1.0), "area must rise"),
        ("area", (0.5, 1.5), "area must rise"),
        ("aspect", (0.0, 1.0), r"aspect must be above 0 and rise, got \(0.0, 1.0\)"),
        ("aspect", (2.0, 1.0), "aspect must be above 0 and rise"),
        ("flip", 1.5, r"flip is a chance in \[0, 1\], got 1.5"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(option, value, message):
    with pytest.raises(ConfigError, match=message):
        CropConfig(**{option: value})


# --- batches ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Ten images, each of one grey: 0, 20, ... 180."""
    folder = tmp_path_factory.mktemp("greys")
    names = [f"{grey:03}.png" for grey in range(0, 200, 20)]
    for name in names:
        Image.new("L", (32, 32), int(name[:3])).save(folder / name)
    table = pd.DataFrame({"image": names, "patient": names})
    table = table.assign(study="", view="", sex="", age=np.nan, split=["train"] * 7 + ["val"] * 3)
    manifest = Manifest(table=table, findings=(), exclusive=False, source="greys", root=folder)
    build_store(manifest, folder / "store", size=32)
    return open_store(folder / "store")


def batches(films, steps=range(6), **options):
    options = {"batch_size": 4, "size": 16, "crop": CropConfig(), "seed": 0, "workers": 2} | options
    return list(training_batches(films, steps=steps, **options))


def greys(images):
    return images[:, 0, 0, 0].tolist()


def test_a_list_of_images_joins_the_chosen_rows_of_its_stores(store):
    films = Films([(store, np.array([8, 2])), (store, store.rows("val"))])
    assert [int(films.pixels(film)[0, 0]) for film in range(len(films))] == [160, 40, 140, 160, 180]


@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_every_epoch_shows_every_image_once_in_an_order_of_its_own(store, batch_size):
    films = Films([(store, np.arange(10))])
    found = batches(films, range(-(-50 // batch_size)), batch_size=batch_size)
    seen = [pair for batch in found for pair in zip(batch.epochs.tolist(), batch.films.tolist(), strict=True)]
    orders = [[film for of, film in seen[:50] if of == epoch] for epoch in range(5)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert [of for of, _ in seen[:50]] == sorted(of for of, _ in seen[:50])
    assert len({tuple(order) for order in orders}) == 5


def test_the_images_are_those_of_the_images_a_batch_names(store):
    films = Films([(store, store.rows("train"))])
    for batch in batches(films):
        assert batch.images.shape == (4, 1, 16, 16)
        assert greys(batch.images) == [20 * film for film in batch.films]
    assert [batch.step for batch in batches(films)] == list(range(6))


def test_an_image_gets_another_crop_in_every_epoch(phantom_store):
    films = Films([(open_store(phantom_store), np.array([0]))])
    crops = [batch.images for batch in batches(films, batch_size=1)]
    assert all((one != other).any() for one, other in pairwise(crops))


def test_stores_with_shares_are_shown_so_often_and_none_of_their_images_twice_before_all_others():
    order = ImageOrder([30, 10], seed=4, shares=(1, 3))  # 10 and 30 of the 40 images of an epoch
    places = [order.place(position) for position in range(120)]
    for epoch in range(3):
        films = [film for _, film in places[40 * epoch : 40 * (epoch + 1)]]
        assert sum(film < 30 for film in films) == 10
    assert (
        len(set(places)) == 120
    )  # every visit of an image has a number of its own, and with it crop and mask
    assert sorted(film for _, film in places if film < 30) == list(range(30))
    assert sorted(film for visit, film in places if visit == 2 and film >= 30) == list(range(30, 40))
    again = ImageOrder([30, 10], seed=4, shares=(1, 3))
    assert [again.place(position) for position in range(80, 120)] == places[80:]
    assert [ImageOrder([30, 10], seed=5, shares=(1, 3)).place(p) for p in range(40)] != places[:40]


def test_the_slices_of_all_processes_are_the_batch_of_one(store):
    films, options = Films([(store, np.arange(10))]), {"batch_size": 6, "seed": 1, "workers": 1}
    shares = [{}, *({"rank": rank, "processes": 3} for rank in range(3))]
    every = [batches(films, range(4), **options, **share) for share in shares]
    for whole, *slices in zip(*every, strict=True):
        for name in ("films", "epochs", "images"):
            joined = np.concatenate([getattr(part, name) for part in slices])
            np.testing.assert_array_equal(joined, getattr(whole, name))


def assert_same(one, other):
    for name in ("step", "films", "epochs", "images"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_run_that_goes_on_sees_what_the_uninterrupted_one_would_have_seen(phantom_store):
    films = Films([(open_store(phantom_store), np.arange(7))])
    whole, resumed = batches(films, range(9)), batches(films, range(4, 9))
    for one, other in zip(whole[4:], resumed, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize(
    "options", [{"workers": 1}, {"workers": 5}, {"crop": training_view("crop", CropConfig(), SMALL, seed=0)}]
)
def test_neither_threads_nor_crops_given_as_a_view_change_anything(phantom_store, options):
    films = Films([(open_store(phantom_store), np.arange(7))])
    for one, other in zip(batches(films), batches(films, **options), strict=True):
        assert_same(one, other)


def test_another_seed_gives_another_order_and_other_crops(phantom_store):
    films = Films([(open_store(phantom_store), np.arange(7))])
    one, other = batches(films)[0], batches(films, seed=1)[0]
    assert one.films.tolist() != other.films.tolist()
    alone = Films([(open_store(phantom_store), np.array([3]))])
    assert (batches(alone)[0].images != batches(alone, seed=1)[0].images).any()


def test_a_loop_that_is_left_early_ends_its_threads(store):
    before, films = threading.active_count(), Films([(store, np.arange(10))])
    options = {"batch_size": 4, "size": 16, "crop": CropConfig(), "seed": 0, "workers": 3}
    stream = training_batches(films, steps=range(10**9), **options)
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def test_whole_images_come_in_order_and_the_last_batch_is_smaller(store):
    found = list(whole_batches(store.pixels, np.array([9, 0, 4, 1, 7]), batch_size=2, preprocess=SMALL))
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert [grey for batch in found for grey in greys(batch)] == [180, 0, 80, 20, 140]
    assert found[0].shape == (2, 1, 16, 16)


def test_training_can_see_images_as_evaluation_does(phantom_store):
    store = open_store(phantom_store)
    films = Films([(store, np.arange(4))])
    chain = Preprocess(store_size=96, input_size=16, resize_size=24)
    shown = batches(films, range(2), crop=training_view("none", CropConfig(), chain, seed=0))
    for batch in shown:
        for film, image in zip(batch.films, batch.images, strict=True):
            np.testing.assert_array_equal(image[0], chain.view(store.pixels(int(film))))

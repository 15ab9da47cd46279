"""The depth of 16-bit pictures is decided once per store and remembered by what learns from it."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dicoms
import evax
from evax.data import depth
from evax.data.building import build_store
from evax.data.depth import common_bits
from evax.data.preprocess import Preprocess
from evax.data.sources import read_source
from evax.data.unlabelled import common_preprocess
from evax.data.workers import ImageReaders
from evax.deploy.bundle import starting_preprocess
from evax.errors import ConfigError, DataError
from evax.jobs.prepare import prepare
from evax.options.data import PrepareConfig
from picture_files import png

SIDE = 24


def deep(path, white, seed=0, marker=None):
    """A picture of all values up to `white` in a file of 16 bits, maybe with a burnt-in marker."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.linspace(0, white, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
    pixels = np.random.default_rng(seed).permuted(pixels)
    if marker:
        pixels[:2, :2] = [[marker], [marker - 7]]  # 4 of 576, not of one value
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


def stored(raw, out, **options):
    return build_store(read_source("folders", raw, {}), out, size=SIDE, **options)


class Here(ImageReaders):
    """Reads in this process, for speed."""

    def __init__(self):
        pass

    def each(self, task, items):
        return map(task, items)


def decided(folder, whites, **options):
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(len(whites))]
    for number, (path, white) in enumerate(zip(paths, whites, strict=True)):
        deep(path, white, number, **options)
    return common_bits(paths, Here())


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_dark_picture_keeps_its_darkness_beside_brighter_ones_of_the_store(raw, tmp_path, suffix):
    dark = deep(raw / f"a.{suffix}", 975)
    deep(raw / f"b.{suffix}", 4095, 1)
    store = stored(raw, tmp_path / "store")
    assert store.bits == 12
    np.testing.assert_array_equal(store.pixels(0), np.rint(dark / 4095 * 255))
    assert store.manifest.table["issues"].tolist() == ["", ""]


def test_a_marker_burnt_into_one_picture_or_all_is_cut_to_white_and_named(raw, tmp_path):
    marked = deep(raw / "a.png", 4000, marker=65535)
    deep(raw / "b.png", 3900, 1)
    store = stored(raw, tmp_path / "store")
    assert store.bits == 12
    np.testing.assert_array_equal(store.pixels(0), np.rint(np.minimum(marked, 4095) / 4095 * 255))
    assert store.manifest.table["issues"].tolist() == ["above_bits", ""]
    assert decided(tmp_path / "marked", [4000, 3500, 3900], marker=65535) == 12


@pytest.mark.parametrize(
    ("whites", "bits"),
    [
        ([255], 8),
        ([60_000, 20_000], 16),
        ([15_000, 900, 900, 900], 14),  # dark pictures do not make it shallower
        ([4000] * 19 + [60_000], 12),  # one deeper picture of twenty does not make it deeper
        ([4000] * 17 + [60_000] * 3, 16),
        ([0], None),
    ],
)
def test_the_depth_is_the_largest_that_more_than_a_few_pictures_need(raw, whites, bits):
    assert decided(raw, whites) == bits


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([200, 900, 3000, 12_000, 50_000]), min_size=1, max_size=12), st.randoms())
def test_the_depth_does_not_depend_on_the_order_of_the_pictures(tmp_path_factory, whites, chance):
    folder = tmp_path_factory.getbasetemp() / "order"
    shuffled = chance.sample(whites, len(whites))
    assert decided(folder, whites) == decided(folder, shuffled)


def test_pictures_of_several_depths_are_told_with_counts_and_the_way_out(raw, tmp_path, caplog):
    decided(raw, [4000] * 6 + [60_000] * 4)
    assert "of 10, 6 need 12 bits, 4 need 16 bits. All are read as 16 bits deep" in caplog.text
    assert "prepare each kind in a store of its own, with --bits" in caplog.text
    caplog.clear()
    decided(tmp_path / "other", [4000, 900])  # a dark one is nothing unusual
    assert not caplog.records
    decided(tmp_path / "mixed", [4000, 1000] * 5)
    assert "of 10, 5 need 10 bits, 5 need 12 bits" in caplog.text


def test_8_bit_pictures_and_dicoms_are_not_decoded_twice_and_decide_nothing(tmp_path, monkeypatch):
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(tmp_path / "b.jpg")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "c.tif")
    dicoms.write(tmp_path / "d.dcm", dicoms.film())
    (tmp_path / "e.png").write_bytes(b"")
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("a picture is decoded"))
    assert common_bits(sorted(tmp_path.iterdir()), Here()) is None


def test_at_most_so_many_pictures_are_decoded_evenly_over_all(raw, monkeypatch):
    monkeypatch.setattr(depth, "MOST_LOOKED_AT", 3)
    looked = []
    needed = depth._bits_needed
    monkeypatch.setattr(depth, "_bits_needed", lambda path: looked.append(path.name) or needed(path))
    assert decided(raw, [3000] * 8) == 12
    assert looked == ["000.png", "003.png", "006.png"]


def test_a_mixed_store_reads_8_bit_and_dicom_images_as_ever(raw, tmp_path):
    deep(raw / "a.png", 4095)
    eight = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    Image.fromarray(eight).save(raw / "b.png")
    dicoms.write(raw / "c.dcm", dicoms.film())
    store = stored(raw, tmp_path / "store")
    assert store.bits == 12
    np.testing.assert_array_equal(store.pixels(1), eight)
    expected = Preprocess(store_size=SIDE).to_store(evax.read_image(raw / "c.dcm").pixels)
    np.testing.assert_array_equal(store.pixels(2), expected)


def test_bits_that_are_given_go_before_what_the_pictures_say(raw, tmp_path, caplog):
    pixels = deep(raw / "a.png", 900)
    deep(raw / "b.png", 60_000)
    config = PrepareConfig(raw=raw, out=tmp_path / "store", source="folders", size=SIDE, bits=14)
    store = evax.open_store(prepare(config))
    assert (store.bits, store.card["bits"]) == (14, 14)
    np.testing.assert_array_equal(store.pixels(0), np.rint(pixels / (2**14 - 1) * 255))
    assert "1 images hold values above the depth of the store (--bits) and show them white" in caplog.text


def test_a_picture_far_below_the_depth_that_is_named_says_so(tmp_path):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray((values // 70).astype(np.uint8)).save(tmp_path / "dark.png")
    for bits, named in ((12, False), (14, False), (15, False), (16, True)):
        assert ("below_bits" in evax.read_image(tmp_path / "deep.png", bits).issues) == named
    assert "below_bits" not in evax.read_image(tmp_path / "dark.png", 16).issues


def test_alpha_as_deep_as_the_grey_beside_it_is_opaque(tmp_path):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    png(tmp_path / "a.png", np.dstack([values] * 3 + [np.full_like(values, 4095)]))
    film = evax.read_image(tmp_path / "a.png", 12)
    assert "transparent" not in film.issues
    np.testing.assert_allclose(film.pixels, values / 4095, atol=1e-6)


@pytest.mark.parametrize("bits", [7, 17])
def test_bits_outside_8_to_16_are_refused(raw, tmp_path, bits):
    with pytest.raises(ConfigError, match=f"bits must lie between 8 and 16, got {bits}"):
        PrepareConfig(raw=tmp_path, out=tmp_path / "store", bits=bits)
    with pytest.raises(ConfigError, match=f"bits must lie between 8 and 16, got {bits}"):
        Preprocess(bits=bits)


def test_an_interrupted_build_keeps_the_depth_that_was_decided(raw, tmp_path):
    deep(raw / "a.png", 900)
    deep(raw / "b.png", 4000)
    whole = stored(raw, tmp_path / "store")
    before = {path.name: path.read_bytes() for path in whole.path.iterdir()}

    def interrupt():
        for name in ("store.json", "shard-00000.arrow", "rejected.csv"):
            (whole.path / name).unlink()

    interrupt()
    deep(raw / "b.png", 60_000)  # would decide otherwise now
    assert stored(raw, tmp_path / "store").bits == 12
    deep(raw / "b.png", 4000)
    interrupt()
    stored(raw, tmp_path / "store", workers=2)
    assert {path.name: path.read_bytes() for path in whole.path.iterdir()} == before


def test_a_store_is_gone_on_with_at_its_own_bits_only(raw, tmp_path):
    deep(raw / "a.png", 4000)
    config = PrepareConfig(raw=raw, out=tmp_path / "store", source="folders", size=SIDE)
    prepare(config)
    prepare(PrepareConfig(**{**vars(config), "bits": 12}))
    with pytest.raises(DataError, match="bits was not given, is 14. Choose another --out or delete it"):
        prepare(PrepareConfig(**{**vars(config), "bits": 14}))


def test_a_store_of_an_earlier_evax_opens_without_a_depth(raw, tmp_path):
    deep(raw / "a.png", 4000)
    store = stored(raw, tmp_path / "store")
    for name in ("store.json", "plan.json"):
        content = json.loads((store.path / name).read_text())
        del content["bits"]
        (store.path / name).write_text(json.dumps(content))
    assert evax.open_store(store.path).bits is None
    assert stored(raw, tmp_path / "store").bits is None


def test_the_chain_keeps_the_depth_of_its_store_and_an_old_card_has_none(raw, tmp_path):
    deep(raw / "a.png", 4000)
    store = stored(raw, tmp_path / "store")
    chain = starting_preprocess("eva_x_tiny_patch16_224", None, store, 32)
    assert chain.bits == common_preprocess([store, store], 32).bits == 12
    assert Preprocess.from_json(json.loads(json.dumps(chain.to_json()))) == chain
    assert "bits" not in Preprocess().to_json()
    with pytest.raises(ConfigError, match="bits of the card must be a number, whole"):
        Preprocess.from_json(chain.to_json() | {"bits": 12.0})


def test_stores_of_several_depths_are_told_with_both_and_none_is_kept(raw, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "evax")
    deep(raw / "a.png", 4000)
    stores = [stored(raw, tmp_path / f"at{bits}", bits=bits) for bits in (12, 14)]
    assert common_preprocess(stores, 32).bits is None
    assert "at12 at 12 bits" in caplog.text
    assert "at14 at 14 bits" in caplog.text


@pytest.mark.parametrize(("white", "bits"), [(4000, 12), (900, 10), (200, 8)])
def test_a_marker_in_a_single_picture_of_unknown_depth_does_not_make_it_black(tmp_path, white, bits):
    pixels = deep(tmp_path / "a.png", white, marker=65535)
    radiograph = evax.read_image(tmp_path / "a.png")
    full = 2**bits - 1
    np.testing.assert_allclose(radiograph.pixels, np.minimum(pixels, full) / full, atol=1e-6)
    assert radiograph.issues == ("narrow_range", "above_bits")


def test_a_picture_of_16_bits_with_few_bright_pixels_keeps_them(tmp_path):
    pixels = deep(tmp_path / "a.png", 16_000, marker=65535)
    np.testing.assert_allclose(evax.read_image(tmp_path / "a.png").pixels, pixels / 65535, atol=1e-6)

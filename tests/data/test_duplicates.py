"""Copies of an image are found whatever was done to them; different images are not taken for copies."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evax.data.building import build_store
from evax.data.duplicates import aligned_correlations, compare_images
from evax.data.manifest import Manifest
from evax.data.sources import read_source
from evax.data.split import assign_splits
from evax.data.store import ImageStore, open_store
from evax.errors import DataError

FILMS = 10  # of the phantoms that get a copy


@pytest.fixture(scope="module")
def store(phantoms, tmp_path_factory):
    """The phantoms at 224 pixels."""
    manifest = assign_splits(read_source("csv", phantoms, {}), 0.25, 0.25, seed=0)
    return build_store(manifest, tmp_path_factory.mktemp("audit") / "phantoms", size=224)


def resized(film):
    return np.asarray(Image.fromarray(film).resize((150, 190), Image.Resampling.BICUBIC))


def encoded_again(film):
    file = io.BytesIO()
    Image.fromarray(film).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file))


def inverted(film):
    return 255 - film


def cropped(film):
    return film[9:-3, 2:-10]  # 1 to 4 % at each edge


def darker(film):
    return np.rint(255 * (film / 255) ** 1.3).astype(np.uint8)


def all_at_once(film):
    return encoded_again(inverted(darker(resized(cropped(film)))))


CHANGES = [resized, encoded_again, inverted, cropped, darker, all_at_once]


@pytest.fixture(scope="module")
def copies(store, tmp_path_factory):
    """A store whose images are changed copies of the first films: image 10 k + n is image n after change k."""
    folder = tmp_path_factory.mktemp("copies")
    names = [f"{number}.png" for number in range(FILMS * len(CHANGES))]
    table = pd.DataFrame({"image": names, "patient": "", "study": "", "view": "", "sex": "", "age": np.nan})
    table["split"] = "train"
    manifest = Manifest(table=table, findings=(), exclusive=False, source="copies", root=folder)
    for number, change in enumerate(CHANGES):
        for row in range(FILMS):
            Image.fromarray(change(store.pixels(row))).save(folder / f"{number * FILMS + row}.png")
    return build_store(manifest, folder / "store", size=224)


@pytest.fixture(scope="module")
def compared(store, copies):
    return compare_images([store, copies])


@pytest.mark.parametrize("number", range(len(CHANGES)), ids=[change.__name__ for change in CHANGES])
def test_every_changed_copy_is_found(compared, number):
    """By itself, or by way of another copy: what counts is that they end up together."""
    groups: dict = {}
    for pair in compared.pairs:
        joined = groups.get(pair.first, {pair.first}) | groups.get(pair.second, {pair.second})
        groups |= dict.fromkeys(joined, joined)
    for row in range(FILMS):
        assert (1, number * FILMS + row) in groups[0, row], f"the copy of image {row}"


def test_only_copies_are_found(compared):
    assert compared.pairs
    for pair in compared.pairs:
        films = {place.row % FILMS if place.store else place.row for place in (pair.first, pair.second)}
        assert len(films) == 1, f"{pair} are different images"


def test_a_negative_is_told_apart_from_a_copy(compared):
    negatives = {CHANGES.index(inverted), CHANGES.index(all_at_once)}
    for pair in compared.pairs:
        is_negative = [place.store == 1 and place.row // FILMS in negatives for place in pair[:2]]
        assert pair.inverted == (is_negative[0] != is_negative[1])


def test_the_very_same_pixels_are_exact_duplicates_and_named_once(store):
    found = compare_images([store, store])
    exact = [(first.row, second.row) for first, second, kind, *_ in found.pairs if kind == "exact"]
    assert exact == [(row, row) for row in range(len(store))]
    assert [pair for pair in found.pairs if pair.kind == "near"] == []


def test_an_image_without_any_detail_resembles_nothing():
    flat, film = np.full((96, 96), 90, np.uint8), np.arange(96 * 96, dtype=np.uint8).reshape(96, 96)
    values = aligned_correlations([flat, flat], [film, flat], np.zeros(2, np.float32))
    assert np.isnan(values).all()


def test_a_store_of_tiny_images_is_refused_with_the_size_that_is_needed(store):
    small = ImageStore(store.path, store.card | {"size": 64}, store.manifest, [])
    with pytest.raises(DataError, match="phantoms keeps images at 64 pixels.*--size 96"):
        compare_images([store, small])


@pytest.mark.real
def test_real_images_of_different_exposures_are_not_paired(shared, tmp_path):
    manifest = read_source("csv", shared / "hannover-covid19", {})
    few = manifest.select(np.arange(len(manifest.table)) < 60)  # 17 patients with several images each
    build_store(few, tmp_path / "store", size=224)
    assert compare_images([open_store(tmp_path / "store")]).pairs == []

import numpy as np
import pytest

import evax
from evax.data.regions import films_with_regions, kinds_of_truth


@pytest.fixture(scope="module")
def store(phantom_store):
    return evax.open_store(phantom_store)


def test_every_box_of_the_wanted_films_and_findings_is_found_once(store):
    rows, finding = store.rows("test"), store.manifest.boxes["finding"].iloc[0]
    films = films_with_regions(store, rows, {finding: "boxes"})
    images = set(store.manifest.table["image"].iloc[rows])
    boxes = store.manifest.boxes
    wanted = boxes[boxes["image"].isin(images) & (boxes["finding"] == finding)]
    assert sum(len(drawn[finding]) for drawn in films.values()) == len(wanted) > 0
    assert set(films) <= set(rows.tolist())
    assert list(films) == sorted(films)


def test_a_film_with_a_mask_is_found_without_reading_the_mask(store):
    finding = next(name for name in store.manifest.findings if len(store.masked_rows(name)))
    films = films_with_regions(store, np.arange(len(store)), {finding: "masks"})
    assert list(films) == store.masked_rows(finding).tolist()
    assert all(drawn == {finding: ()} for drawn in films.values())


def test_auto_looks_at_the_films_that_are_scored(store):
    finding = next(name for name in store.manifest.findings if len(store.masked_rows(name)))
    rows = store.masked_rows(finding)
    others = np.setdiff1d(np.arange(len(store)), rows)
    assert kinds_of_truth(store, rows, (finding,), "auto") == {finding: "masks"}
    assert kinds_of_truth(store, others, (finding,), "auto") == {finding: "boxes"}
    assert kinds_of_truth(store, rows, (finding,), "boxes") == {finding: "boxes"}

"""The table of what stores are made of, and the tests of their differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chi2_contingency, kruskal

from evax.data import statistics
from evax.data.statistics import describe_stores, differences, first_images
from evax.data.store import ImageStore, open_store


@pytest.fixture(scope="module")
def store(phantom_store):
    return open_store(phantom_store)


@pytest.fixture(scope="module")
def other(store):
    """The same pixels with another table: all patients men of 80 with the finding Mass."""
    manifest = replace(store.manifest, table=store.manifest.table.assign(sex="M", age=80.0, Mass=1.0))
    files = [pa.memory_map(str(store.path / name)) for name in store.card["shards"]]
    return ImageStore(store.path, store.card, manifest, [pa.ipc.open_file(file).read_all() for file in files])


def test_the_numbers_of_a_store_are_those_of_its_table_and_pixels(store):
    found, table = describe_stores("phantoms", store), store.manifest.table
    assert found["films"] == 48
    assert found["patients"] == table["patient"].nunique()
    assert found["age"]["quartiles"] == pytest.approx(np.percentile(table["age"], [25, 50, 75]))
    assert found["sex"] == table["sex"].value_counts().to_dict()
    assert sum(found["view"].values()) == sum(found["splits"].values()) == 48
    assert found["findings"]["Mass"] == {"present": int(table["Mass"].sum()), "known": 48}
    both = int(((table["Mass"] == 1) & (table["Effusion"] == 1)).sum())
    names = list(found["findings"])
    assert found["together"][names.index("Mass")][names.index("Effusion")] == both
    assert found["height"]["quartiles"] == np.percentile(table["height"], [25, 50, 75]).tolist()
    assert found["spacing_mm"]["n"] == table["spacing_mm"].notna().sum() > 0
    assert found["film_mean"]["mean"] == pytest.approx(store.mean, abs=1e-3)


def test_a_patient_counts_once_in_the_tests(store):
    rows = first_images(store)
    patients = store.manifest.table["patient"]
    assert patients.iloc[rows].tolist() == list(dict.fromkeys(patients))


def test_stores_of_the_same_images_do_not_differ(store):
    for test in differences([store, store], ["a", "b"]):
        assert test["p"] == pytest.approx(1)
        assert test["effect"] == pytest.approx(0, abs=1e-9)


def test_differences_are_those_of_scipy_with_their_effect_sizes(store, other):
    tests = {test["variable"]: test for test in differences([store, other], ["a", "b"])}
    first, second = (s.manifest.table.iloc[first_images(s)] for s in (store, other))
    age = kruskal(first["age"], second["age"])
    assert tests["age"]["p"] == pytest.approx(age.pvalue)
    assert tests["age"]["effect"] == pytest.approx(age.statistic / (2 * len(first) - 1))
    counts = [[(t["sex"] == sex).sum() for t in (first, second)] for sex in "FM"]
    sex = chi2_contingency(counts, correction=False)
    assert tests["sex"]["p"] == pytest.approx(sex.pvalue)
    assert tests["sex"]["effect"] == pytest.approx((sex.statistic / (2 * len(first))) ** 0.5)
    assert tests["image mean"]["p"] == tests["height"]["p"] == pytest.approx(1)
    assert tests["Mass"]["stores"] == ["a", "b"]


def test_one_store_has_nothing_to_differ_from(store):
    assert differences([store], ["a"]) == []


def test_only_so_many_images_are_measured(store, monkeypatch):
    monkeypatch.setattr(statistics, "PIXEL_FILMS", 10)
    assert describe_stores("phantoms", store)["film_mean"]["n"] == 10

"""What counts as a leak, and which stores a run may use after an audit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evax.data.duplicates import DuplicatePair, Place
from evax.data.leaks import (
    describe_store,
    duplicate_counts,
    image_table,
    leaking_exposures,
    leaks,
    linked_leaks,
    links_between,
    patients_in_both,
    require_audit,
)
from evax.data.manifest import Manifest
from evax.data.store import ImageStore
from evax.errors import DataError
from evax.files import write_json


class Store(ImageStore):
    """A store whose pixels nobody looks at."""

    def __init__(self, *films: str, fingerprint: str = "") -> None:
        """films: split/patient."""
        table = pd.DataFrame([film.split("/") for film in films], columns=["split", "patient"])
        table = table.assign(image=table.index.astype(str), study="", view="", sex="", age=np.nan)
        manifest = Manifest(table=table, findings=(), exclusive=False, source="mine", root=Path())
        card = {"size": 96, "mean": 0.5, "std": 0.2, "fingerprint": fingerprint, "format": 1}
        super().__init__(Path("stores") / fingerprint, card, manifest, [])

    def __len__(self) -> int:
        return len(self.manifest.table)


def near(a, b):
    return DuplicatePair(Place(*a), Place(*b), "near", 0.9, False)


def test_a_test_image_that_is_trained_on_in_another_store_is_a_leak_of_that_store():
    films = image_table([Store("test/a", "train/b"), Store("train/x", "train/y")], [near((0, 0), (1, 1))])
    counts = {"test_films": 1, "films_by_exposure": 1, "films_by_patient": 0, "patients": 0}
    assert leaks(films, same_patients=True) == [{"tested": 0, "trained": 1, **counts}]
    assert len(leaking_exposures(films)) == 1


def test_duplicates_of_duplicates_belong_together():
    stores = [Store("test/a", "/b"), Store("val/c")]
    films = image_table(stores, [near((0, 0), (0, 1)), near((0, 1), (1, 0))])
    assert films["exposure"].nunique() == 1
    assert leaks(films, same_patients=False)[0]["films_by_exposure"] == 1


def test_a_leak_that_no_pair_shows_names_the_images_it_goes_through():
    stores = [Store("test/a", "test/b"), Store("train/c", "val/d"), Store("/e", "train/f")]
    pairs = [near((0, 0), (2, 0)), near((1, 0), (2, 0)), near((0, 1), (1, 1)), near((1, 1), (2, 1))]
    films = image_table(stores, pairs)
    links = linked_leaks(films, pairs)
    assert links == [(Place(0, 0), Place(1, 0), (Place(2, 0),)), (Place(0, 1), Place(2, 1), (Place(1, 1),))]
    for leak, linked in zip(leaks(films, same_patients=False), ([1, 2], [1, 1]), strict=True):
        assert list(links_between(links, leak).values()) == [linked[0], [linked[1]]]


def test_duplicates_within_test_or_within_train_leak_nothing():
    stores = [Store("test/a", "train/b"), Store("test/c", "train/d")]
    films = image_table(stores, [near((0, 0), (1, 0)), near((0, 1), (1, 1))])
    assert leaks(films, same_patients=True) == []
    assert leaking_exposures(films) == set()


def test_a_patient_name_leaks_between_stores_only_if_it_means_the_same_person():
    films = image_table([Store("test/7", "test/8"), Store("train/7", "val/7")], [])
    (leak,) = leaks(films, same_patients=True)
    assert (leak["films_by_patient"], leak["patients"], leak["test_films"]) == (1, 1, 2)
    assert leaks(films, same_patients=False) == []


def test_a_patient_in_test_and_train_of_one_store_always_leaks_and_no_name_never_does():
    films = image_table([Store("test/7", "train/7", "test/", "train/")], [])
    (leak,) = leaks(films, same_patients=False)
    assert leak["films_by_patient"] == 1
    assert patients_in_both(films) == [{"first": [0, "train"], "second": [0, "test"], "patients": 1}]


def test_pairs_are_counted_per_split_and_kind():
    stores = [Store("test/a", "train/b"), Store("train/c", "train/d")]
    pairs = [near((0, 0), (1, 0)), near((0, 0), (1, 1))]
    pairs.append(DuplicatePair(Place(0, 1), Place(1, 0), "exact", 1.0, False))
    assert duplicate_counts(image_table(stores, pairs), pairs) == [
        {"first": [0, "test"], "second": [1, "train"], "exact": 0, "near": 2},
        {"first": [0, "train"], "second": [1, "train"], "exact": 1, "near": 0},
    ]


def test_a_run_may_use_only_stores_that_an_audit_knows_and_passed(tmp_path):
    path = tmp_path / "audit.json"
    stores = [{"fingerprint": "good", "passed": True}, {"fingerprint": "bad", "passed": False}]
    write_json({"kind": "audit", "format": 1, "stores": stores}, path)
    good, bad, new = (Store("train/a", fingerprint=name) for name in ("good", "bad", "new"))
    require_audit(path, [good])
    with pytest.raises(DataError, match="stores/bad failed .*are tested. See .*audit.html"):
        require_audit(path, [good, bad])
    with pytest.raises(DataError, match="does not know stores/new .*run evax audit on all stores again"):
        require_audit(path, [new])
    write_json({"kind": "pretrain"}, path)
    with pytest.raises(DataError, match="is not an audit: give the audit.json"):
        require_audit(path, [good])


def test_images_without_a_named_patient_are_counted_and_a_run_on_them_is_warned(tmp_path, caplog):
    # Store names its images 0, 1, 2, ..: the first patient is its image
    store = Store("train/0", "train/", "train/a", "test/a", fingerprint="half")
    card = describe_store("half", store, 0, [])
    assert (card["films"], card["patients"], card["films_of_unknown_patients"]) == (4, 1, 2)
    write_json({"kind": "audit", "format": 1, "stores": [card]}, tmp_path / "audit.json")
    require_audit(tmp_path / "audit.json", [store])
    assert "but not the patients of 2 of them, who are unknown" in caplog.text


def test_a_study_that_stands_for_a_patient_is_an_unknown_patient_of_a_dicom_tree_only():
    for source, unknown in (("dicom", 1), ("csv:mine", 0)):
        store = Store("train/s", "train/b")
        store.manifest = replace(store.manifest, source=source, table=store.manifest.table.assign(study="s"))
        assert describe_store("", store, 0, [])["films_of_unknown_patients"] == unknown

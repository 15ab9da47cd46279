"""What weights have learned from is recognised by pixels and, where names can be compared, by patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from evax.data.leaks import warn_if_patients_tested
from evax.data.manifest import Manifest
from evax.data.store import ImageStore
from evax.deploy.bundle import (
    OWN_DATA,
    PATIENTS,
    Seen,
    check_test_unseen,
    read_seen,
    save_seen,
    seen_images,
    seen_in,
)
from evax.errors import DataError


def store_of(patients, splits, *, source="csv", namespace="mine", size=4, seed=0):
    """A store with an image of noise for each entry."""
    noise = np.random.default_rng(seed).integers(0, 256, (len(patients), size**2), dtype=np.uint8)
    table = pd.DataFrame({"image": [f"{seed}-{i}.png" for i in range(len(patients))], "patient": patients})
    table = table.assign(study="", view="", sex="", age=np.nan, split=splits)
    path = Path(f"{source}-{namespace}-{size}-{seed}")
    manifest = Manifest(
        table=table, findings=(), exclusive=False, source=source, root=path, namespace=namespace
    )
    card = {"size": size, "mean": 0.5, "std": 0.2, "fingerprint": "f", "format": 1}
    shard = pa.table({"pixels": pa.array([image.tobytes() for image in noise], pa.large_binary())})
    return ImageStore(path, card, manifest, [shard])


PEOPLE, SPLITS = list("abcdef"), ["train", "train", "val", "test", "test", "test"]
TURNED = SPLITS[::-1]


@pytest.fixture
def learned(tmp_path):
    """Keeps what was learned from the train and validation images of a store; returns the weights' folder."""

    def keep(store, name="weights"):
        save_seen(tmp_path / name, seen_in(store, store.rows("train", "val")))
        return tmp_path / name

    return keep


def refused(weights, store, films):
    with pytest.raises(
        DataError, match=f"has learned from {films} of the 3 test images of .*, or from other"
    ):
        check_test_unseen(weights, store, store.rows("test"))


def test_the_same_split_passes_whatever_the_size_and_another_split_is_refused(learned):
    weights = learned(store_of(PEOPLE, SPLITS))
    for size in (4, 6):
        same = store_of(PEOPLE, SPLITS, size=size)
        check_test_unseen(weights, same, same.rows("test"))
        refused(weights, store_of(PEOPLE, TURNED, size=size), 3)


def test_another_image_of_a_patient_is_recognised_by_its_name(learned):
    weights = learned(store_of(PEOPLE, SPLITS))
    refused(weights, store_of(["b", "x", "y", "z", "d", "b"], TURNED, seed=1), 1)


@pytest.mark.parametrize(
    ("source", "namespace"), [("chexpert", "chexpert"), ("dicom", "1f3b"), ("csv", "9a")]
)
def test_equal_names_of_another_namespace_are_other_people(learned, source, namespace):
    weights = learned(store_of(PEOPLE, SPLITS))
    other = store_of(PEOPLE, TURNED, source=source, namespace=namespace, seed=1)
    check_test_unseen(weights, other, other.rows("test"))
    assert not seen_images(weights, other, np.arange(6)).any()


def test_the_merged_corpus_and_its_releases_have_the_same_people(learned):
    merged = [f"chexpert/{name}" for name in PEOPLE]
    weights = learned(store_of(merged, SPLITS, source="merged_520k", namespace="merged_520k"))
    refused(weights, store_of(PEOPLE, TURNED, source="chexpert", namespace="chexpert", size=6), 3)
    other = store_of(PEOPLE, TURNED, source="mimic_cxr", namespace="mimic_cxr", size=6)
    check_test_unseen(weights, other, other.rows("test"))


def test_what_cannot_be_known_is_said_once_and_only_of_own_data(learned, caplog):
    weights = learned(store_of(PEOPLE, SPLITS))
    public = learned(store_of(PEOPLE, SPLITS, source="chexpert", namespace="chexpert"), "public")
    other = store_of(PEOPLE, SPLITS, namespace="other", seed=1)
    for known, store in [
        (weights, store_of(PEOPLE, SPLITS)),
        (weights, store_of(PEOPLE, SPLITS, source="chexpert", namespace="chexpert", seed=1)),
        (weights, store_of(PEOPLE, SPLITS, source="csv:phantoms", namespace="p", seed=1)),
        (public, other),
    ]:
        check_test_unseen(known, store, store.rows("test"))
    assert not caplog.text
    for _ in range(3):
        check_test_unseen(weights, other, other.rows("test"))
    assert caplog.text.count("learned from other images of the test patients of csv-other") == 1
    nameless = store_of(PEOPLE, SPLITS, namespace="", seed=1)
    check_test_unseen(weights, nameless, nameless.rows("test"))
    assert caplog.text.count("evax audit compares the images") == 2
    (weights / PATIENTS).unlink()  # as an earlier evax left it
    again = store_of(PEOPLE, SPLITS, namespace="other", size=6)
    check_test_unseen(weights, again, again.rows("test"))
    assert caplog.text.count("evax audit compares the images") == 3


def test_the_numbers_of_patients_cannot_be_tried_out_without_the_namespace(learned):
    """A namespace is a digest of all names of a table, or of a key, and is not in the bundle."""
    first, second = (seen_in(store_of(PEOPLE, SPLITS, namespace=name), np.arange(6)) for name in "xy")
    assert set(first.patients) & set(second.patients) == {OWN_DATA}
    assert set(store_of(PEOPLE, SPLITS, namespace="").people(np.arange(6))) == {0}


def test_what_was_seen_before_is_kept_and_a_bundle_of_images_alone_is_read(learned, tmp_path):
    weights = learned(store_of(PEOPLE, SPLITS))
    seen = read_seen(weights)
    both = seen.also(seen_in(store_of(["x"], ["train"], seed=2), np.array([0])))
    assert {*seen.films} < {*both.films}
    assert {*seen.patients} < {*both.patients}
    (weights / "patients.u64").unlink()  # as of an earlier version
    refused(weights, store_of(PEOPLE, TURNED), 3)
    (weights / "films.u64").write_bytes(b"123")
    with pytest.raises(
        DataError, match="films.u64 is damaged: it has 3 bytes, no multiple of 8. Copy it again"
    ):
        read_seen(weights)
    assert isinstance(read_seen(None), Seen)


# --- several stores in one training ------------------------------------------------------------------


def test_pre_training_on_stores_that_divide_one_namespace_otherwise_is_warned_of(caplog):
    first, second = store_of(PEOPLE, SPLITS), store_of(PEOPLE, TURNED, size=6)
    message = (
        "3 patients of the test split of csv-mine-4-0 are in the train or validation split of csv-mine-6-0"
    )
    warn_if_patients_tested([first, store_of(PEOPLE, SPLITS, size=6), store_of(list("uvwxyz"), TURNED)])
    warn_if_patients_tested([first, first])
    assert not caplog.text
    warn_if_patients_tested([first, second])
    assert message in caplog.text


def test_equal_names_of_two_tables_are_told_and_names_of_files_are_not(caplog):
    first = store_of(PEOPLE, SPLITS)
    warn_if_patients_tested([first, store_of(PEOPLE, TURNED, source="chexpert", namespace="chexpert")])
    warn_if_patients_tested([first, store_of(PEOPLE, SPLITS, namespace="other")])
    files = [f"0-{number}" for number in range(6)]
    warn_if_patients_tested([store_of(files, SPLITS), store_of(files, TURNED, namespace="other")])
    assert not caplog.text
    warn_if_patients_tested([first, store_of(PEOPLE, TURNED, namespace="")])
    assert "3 patients of the test split of csv-mine-4-0 have names of train or validation" in caplog.text

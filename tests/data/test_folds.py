"""Folds divide people, give every fold its share of each finding, and test every image once."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evax.data.folds import Divider, write_fold
from evax.data.labelled import split_rows, strata_of, stratum_of_each
from evax.data.store import open_store
from evax.errors import DataError


def cohort(seed, patients=40):
    """Patients with one to four images each, and three findings from common to rare, in any combination."""
    rng = np.random.default_rng(seed)
    units = np.repeat([f"p{number}" for number in range(patients)], rng.integers(1, 5, patients))
    return units, (rng.random((len(units), 3)) < (0.5, 0.2, 0.05)).astype(float)


def divider(units, labels, seed=0, only_train=(), validation=0.25):
    return Divider(units, strata_of(labels), ~np.isin(units, list(only_train)), validation, seed)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.booleans())
def test_every_image_is_tested_once_and_no_patient_is_on_two_sides(seed, folds, some_only_train):
    units, labels = cohort(seed)
    only_train = {"p1", "p2"} if some_only_train else set()
    made = divider(units, labels, seed, only_train).equal_folds(folds)
    tested = np.concatenate([fold.test for fold in made])
    assert sorted(tested) == np.flatnonzero(~np.isin(units, list(only_train))).tolist()
    for fold in made:
        parts = [set(units[rows]) for rows in (fold.train, fold.validation, fold.test)]
        assert sum(map(len, parts)) == len(set(units))
        assert set.union(*parts) == set(units)
        assert only_train <= parts[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_folds_are_of_one_size_and_hold_their_share_of_the_rarest_findings_to_within_a_patient(seed, folds):
    units, labels = cohort(seed)
    stratum_of = stratum_of_each(units, strata_of(labels))
    made = divider(units, labels, seed).equal_folds(folds)
    counts = [Counter(stratum_of[patient] for patient in set(units[fold.test])) for fold in made]
    for stratum in set(stratum_of.values()):
        here = [count[stratum] for count in counts]
        assert max(here) - min(here) <= 1
    assert np.ptp([sum(count.values()) for count in counts]) <= 1


def test_an_image_with_several_findings_counts_for_the_rarest_of_them():
    labels = np.array([[1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1], [0, np.nan, 0.0], [1, 1, 0]])
    assert strata_of(labels).tolist() == [2, 0, 1, 0, 3, 1]  # the third is the rarest, then the second


def test_another_seed_makes_other_folds_and_the_same_seed_the_same():
    units, labels = cohort(1)
    first, again, other = (divider(units, labels, seed).equal_folds(3)[0].test for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()


def test_a_hospital_is_left_out_with_all_patients_who_were_ever_there():
    units = np.array(["a", "a", "b", "c", "d", "e", "f", "g"])
    site = ["north", "south", "north", "south", "south", "west", "west", "west"]
    north, south, west = divider(units, np.zeros((8, 1))).folds_by_value(site, "site")
    assert [north.name, south.name, west.name] == ["north", "south", "west"]
    assert north.test.tolist() == [0, 2]
    assert 1 not in [*north.train, *north.validation]  # a's image of the south: a is tested in the north
    assert sorted([*north.train, *north.validation]) == [3, 4, 5, 6, 7]


def test_images_that_only_train_do_so_but_for_the_hospital_that_is_tested():
    units = np.array(["a", "b", "c", "d", "e", "f"])
    site = ["north", "north", "north", "south", "south", "south"]
    north, south = divider(units, np.zeros((6, 1)), only_train={"a", "f"}).folds_by_value(site, "site")
    assert north.test.tolist() == [1, 2]
    assert (0 in north.train, 5 in north.train) == (False, True)
    assert (0 in south.train, 5 in south.train) == (True, False)


def test_images_as_units_are_divided_by_chance_and_leak_patients():
    units, _ = cohort(3)
    films = np.array([f"film{number}" for number in range(len(units))])
    made = Divider(films, None, np.ones(len(films), bool), 0.25, seed=0).equal_folds(5)
    assert sorted(np.concatenate([fold.test for fold in made])) == list(range(len(films)))
    assert all(set(units[fold.train]) & set(units[fold.test]) for fold in made)


def test_what_cannot_be_divided_says_why():
    units, labels = np.array(["a", "b", "c"]), np.zeros((3, 1))
    with pytest.raises(DataError, match="3 patients or images are too few for 4 folds: give fewer folds"):
        divider(units, labels).equal_folds(4)
    with pytest.raises(DataError, match="has 1 test images, 0 training and 1 validation images"):
        divider(units[:2], labels[:2]).equal_folds(2)
    with pytest.raises(DataError, match="1 of the 3 images have no site: name it for all images"):
        divider(units, labels).folds_by_value(["north", "", "south"], "site")
    with pytest.raises(DataError, match="site has 1 values; one is left out at a time, of 2 to 50"):
        divider(units, labels).folds_by_value(["north"] * 3, "site")


def test_a_written_fold_is_read_as_the_split_it_is(phantom_store, tmp_path):
    store = open_store(phantom_store)
    units = store.manifest.table["patient"].to_numpy(dtype=str)
    fold = divider(units, store.manifest.labels()).equal_folds(3)[1]
    write_fold(fold, store, tmp_path / "fold.csv")
    read = split_rows(store, tmp_path / "fold.csv")
    for rows, written in zip(read, (fold.train, fold.validation, fold.test), strict=True):
        assert np.array_equal(rows, written)


def test_the_validation_share_of_a_fold_is_rounded_up_in_exact_arithmetic():
    units = np.array([f"p{number}" for number in range(200)])
    for fold in Divider(units, None, np.ones(200, bool), 0.07, 0).equal_folds(2):
        assert len(fold.validation) == 7  # of 100 patients; 0.07 * 100 is 7.000000000000001 in floats

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evax.evaluation.checks import (
    check_classes,
    check_columns,
    check_direction,
    check_labels,
    check_patients,
    check_sizes,
    check_spread,
    check_strength,
)
from evax.evaluation.subgroups import ENOUGH
from evax.evaluation.suspicion import ClearEnd


def rows(*numbers: int):
    return np.array(numbers, dtype=np.int64)


def test_a_patient_in_two_splits_is_found_by_image_row_and_never_named():
    patients = np.array(["Ada", "Bob", "Cleo", "Bob", "Ada"])
    check = check_patients({"train": rows(0, 1), "validation": rows(2), "test": rows(3, 4)}, patients)
    assert not check.passed
    assert "2 in train and test (image rows 0, 1, 3, 4)" in check.message
    assert "divides by patient" in check.action
    assert not any(name in check.message for name in patients)


@given(st.lists(st.sampled_from("abcdef"), min_size=3, max_size=12), st.data())
@settings(max_examples=30, deadline=None)
def test_the_patients_check_passes_exactly_when_no_patient_is_in_two_splits(names, data):
    patients = np.array(names)
    split = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(names), max_size=len(names))))
    splits = {name: np.flatnonzero(split == k) for k, name in enumerate(("train", "validation", "test"))}
    alone = all(len(set(split[patients == name])) == 1 for name in set(names))
    assert check_patients(splits, patients).passed == alone


@pytest.mark.parametrize(
    ("validation", "test", "passed"),
    [(0.3, 0.35, False), (0.3, 0.45, True), (0.45, 0.3, True), (math.nan, 0.1, True), (0.1, math.nan, True)],
)
def test_a_finding_is_called_backwards_when_both_validation_and_test_say_so(validation, test, passed):
    check = check_direction(["Mass", "Edema"], [0.8, validation], [0.8, test])
    assert check.passed == passed
    assert ("Edema (0.30 on validation, 0.35 on test)" in check.message) == (not passed)


def test_scores_of_a_diverged_training_do_not_tell_images_apart_and_are_named_with_their_split():
    rng = np.random.default_rng(0)
    healthy = 0.01 + 0.0003 * rng.random((200, 2))  # a few steps into a training: 0.03 in log odds
    assert check_spread(["Mass", "Edema"], {"validation": healthy, "test": healthy}).passed
    for same in (0.0, 1.0, 0.3, 0.3 + 1e-5 * rng.random(200)):
        scores = healthy.copy()
        scores[:, 1] = same
        scores[:15, 1] = 0.9
        check = check_spread(["Mass", "Edema"], {"validation": healthy, "test": scores})
        assert not check.passed
        assert "Edema (185 of 200 images in test)" in check.message
        assert "Mass" not in check.message
        assert "--optimizer.lr" in check.action


def test_a_split_with_few_patients_of_a_finding_is_named_however_many_images_they_have():
    patients = np.array([f"p{n % (2 * ENOUGH)}" for n in range(40 * ENOUGH)])
    labels = (np.arange(len(patients)) % 2)[:, None].astype(np.float64)
    every = np.arange(len(patients))
    assert check_sizes(["Mass"], {"test": every}, labels, patients).passed
    few = every[(labels[:, 0] == 0) | (patients == "p1")]
    check = check_sizes(["Mass"], {"validation": every, "test": few}, labels, patients)
    assert not check.passed
    assert "Mass: 1 with it in test." in check.message
    assert "--test" in check.action


@pytest.mark.parametrize(("value", "word"), [(0.0, "absent"), (1.0, "present"), (math.nan, "unknown")])
def test_a_constant_column_is_named_with_what_it_always_says(value, word):
    labels = np.array([[0.0, value], [1.0, value], [math.nan, math.nan]])
    check = check_columns(["Mass", "Hernia"], labels)
    assert not check.passed
    assert f"Hernia is {word} on every training image" in check.message
    assert "Mass" not in check.message
    assert "--findings" in check.action
    assert check_columns(["Mass"], labels[:, :1]).passed


def test_a_long_list_is_cut_and_counted():
    names = [f"finding {number}" for number in range(9)]
    assert "and 3 more" in check_direction(names, [0.1] * 9, [0.1] * 9).message


def test_a_check_that_had_nothing_to_look_at_did_not_pass():
    for check in (
        check_direction(["Mass"], [math.nan], [0.1]),
        check_spread(["Mass"], {"validation": np.full((9, 1), math.nan)}),
        check_labels(["Mass", "Edema"], [None, None], 1000, 5000, False),
    ):
        assert check.passed is None
        assert check.action == ""
    assert "1000 of 5000 training images know none of the 2 findings well enough" in check.message


def test_exclusive_findings_may_overlap_without_a_wrong_label():
    ends = [(ClearEnd(100, 12, 0.03), ClearEnd(100, 22, 0.2))]
    exclusive, free = (check_labels(["Mass"], ends, 100, 100, each) for each in (True, False))
    assert exclusive.message == free.message
    assert "either the labels or a real overlap of these findings" in exclusive.action
    assert "overlap" not in free.action


def test_labels_are_doubted_when_far_more_are_contradicted_than_the_difficulty_explains():
    honest = ClearEnd(100, 4, 0.03), ClearEnd(100, 22, 0.2)
    doubtful = ClearEnd(100, 12, 0.03), honest[1]
    assert check_labels(["Mass"], [honest], 100, 100, False).passed
    check = check_labels(["Mass", "Hernia"], [doubtful, None], 1000, 5000, False)
    assert not check.passed
    assert "Mass, 12 of the 100 images that most clearly lack it are labelled present" in check.message
    assert "its difficulty explains 3" in check.message
    assert "suspicious.csv" in check.action
    some = check_labels(["Mass", "Hernia"], [honest, None], 1000, 5000, False)
    assert some.passed
    assert "1000 of 5000 training images are surest; they know 1 of 2 findings" in some.message


@given(st.integers(2, 5), st.integers(0, 4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_classifier_that_answers_every_image_alike_never_passes(classes, answer, seed):
    chance = np.random.default_rng(seed)
    labels = np.eye(classes)[[*range(classes), *chance.integers(classes, size=40)]]
    scores = chance.random(labels.shape)
    scores[:, answer % classes] = 2
    names = [f"class {k}" for k in range(classes)]
    check = check_classes(names, {"test": (scores, labels)})
    assert check.passed is False
    assert (
        f"{names[answer % classes]} is predicted for {len(labels)} of {len(labels)} test images"
        in check.message
    )
    assert check_classes(names, {"test": (labels, labels)}).passed


@pytest.mark.parametrize(
    ("predicted", "passed", "said"),
    [
        ([0] * 63 + [1], False, "normal is predicted for 63 of 64 test images, of which 34 are normal"),
        ([0] * 34 + [1] * 30, False, "viral is predicted for none of the test images, of which 10 are viral"),
        ([0] * 34 + [1] * 20 + [2] * 10, True, ""),
    ],
)
def test_nearly_all_images_in_one_class_and_a_class_that_is_never_predicted_do_not_pass(
    predicted, passed, said
):
    names, truth = ["normal", "bacterial", "viral"], np.repeat([0, 1, 2], [34, 20, 10])
    check = check_classes(names, {"test": (np.eye(3)[predicted], np.eye(3)[truth])})
    assert check.passed == passed
    assert said in check.message


def test_images_of_one_class_say_nothing_of_the_predicted_classes():
    labels = np.eye(2)[[1] * 30]
    assert (
        check_classes(["normal", "COVID-19"], {"test": (labels, labels)}, "nearest neighbours").passed is None
    )
    wrong = check_classes(["normal", "COVID-19"], {"test": (1 - labels, labels)})
    assert wrong.passed is False


@pytest.mark.parametrize(
    ("strength", "passed"), [(1e-8, False), (1e-3, True), (1.0, False), (10.0, None)], ids=str
)
def test_a_strength_at_an_end_of_what_was_tried_does_not_pass(strength, passed):
    tried = {1e-8: 0.7, 1e-3: 0.6, 1.0: 0.5}
    if passed is None:
        tried = {1.0: math.nan, 10.0: math.nan}
    check = check_strength(strength, tried)
    assert check.passed is passed
    assert (f"{strength:g} is best, an end of the range that was tried, 1e-08 to 1" in check.message) == (
        passed is False
    )

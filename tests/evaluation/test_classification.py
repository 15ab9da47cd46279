from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evax.errors import DataError
from evax.evaluation.classification import (
    auroc,
    average_precision,
    choose_thresholds,
    macro_mean,
    mean_auroc,
    operating_point,
    roc_curve,
    top1_accuracy,
)


@st.composite
def two_groups(draw):
    """Whole-number scores with many ties, and truth with both groups present."""
    positives = draw(arrays(bool, st.integers(2, 40)).filter(lambda flags: flags.any() and not flags.all()))
    return draw(arrays(np.int64, len(positives), elements=st.integers(-8, 8))).astype(float), positives


@given(two_groups())
def test_auroc_counts_pairs_and_half_of_the_ties(problem):
    scores, positives = problem
    pairs = np.sign(scores[positives][:, None] - scores[~positives][None, :])
    assert auroc(scores, positives) == pytest.approx(((pairs + 1) / 2).mean(), abs=1e-12)


@given(two_groups())
def test_a_monotone_map_of_the_scores_changes_no_ranking_metric(problem):
    scores, positives = problem
    mapped = np.exp(scores / 4) - 7
    assert auroc(mapped, positives) == auroc(scores, positives)
    assert average_precision(mapped, positives) == average_precision(scores, positives)


@given(two_groups())
def test_turning_the_scores_round_gives_one_minus_auroc(problem):
    scores, positives = problem
    assert auroc(-scores, positives) == pytest.approx(1 - auroc(scores, positives), abs=1e-12)


@given(two_groups())
def test_the_order_of_the_cases_changes_nothing(problem):
    scores, positives = problem
    assert auroc(scores[::-1], positives[::-1]) == auroc(scores, positives)
    assert average_precision(scores[::-1], positives[::-1]) == average_precision(scores, positives)


@given(two_groups())
def test_the_area_under_the_roc_curve_is_auroc(problem):
    scores, positives = problem
    false_rate, true_rate, thresholds = roc_curve(scores, positives)
    assert np.trapezoid(true_rate, false_rate) == pytest.approx(auroc(scores, positives), abs=1e-12)
    assert (false_rate[0], true_rate[0], thresholds[0]) == (0, 0, math.inf)
    assert (false_rate[-1], true_rate[-1]) == (1, 1)


def test_perfect_and_reversed_scores():
    positives = np.array([False, False, True])
    assert auroc(np.array([0.1, 0.2, 0.3]), positives) == 1.0
    assert auroc(np.array([0.3, 0.2, 0.1]), positives) == 0.0
    assert average_precision(np.array([0.1, 0.2, 0.3]), positives) == 1.0
    assert average_precision(np.array([0.3, 0.2, 0.1]), positives) == pytest.approx(1 / 3)


@pytest.mark.parametrize("positives", [np.zeros(4, bool), np.ones(4, bool), np.zeros(0, bool)])
def test_ranking_metrics_of_one_group_are_nan(positives):
    scores = np.linspace(0, 1, len(positives))
    assert math.isnan(auroc(scores, positives))
    assert math.isnan(average_precision(scores, positives))


def test_the_rate_of_an_empty_group_is_nan_along_the_roc_curve():
    false_rate, true_rate, _ = roc_curve(np.array([0.1, 0.7]), np.array([True, True]))
    assert np.isnan(false_rate).all()
    assert true_rate[-1] == 1


def test_macro_mean_leaves_undefined_findings_out_and_counts_them():
    macro = macro_mean(np.array([0.8, math.nan, 0.6]))
    assert macro.value == pytest.approx(0.7)
    assert (macro.entered, macro.of) == (2, 3)
    assert math.isnan(macro_mean(np.array([math.nan])).value)


def test_operating_point_by_hand():
    point = operating_point(np.array([0.9, 0.5, 0.4, 0.1]), np.array([True, False, True, False]), 0.5)
    assert (point.sensitivity, point.specificity) == (0.5, 0.5)
    assert (point.ppv, point.npv, point.accuracy) == (0.5, 0.5, 0.5)


def test_operating_point_without_alarms_has_no_ppv():
    point = operating_point(np.array([0.2, 0.1]), np.array([True, False]), 0.5)
    assert math.isnan(point.ppv)
    assert (point.sensitivity, point.specificity, point.npv) == (0, 1, 0.5)


def test_operating_point_without_threshold_is_nan():
    assert math.isnan(operating_point(np.array([0.2]), np.array([True]), math.nan).accuracy)


def test_threshold_lies_between_the_groups_it_separates():
    thresholds = choose_thresholds(np.array([[0.1], [0.2], [0.6], [0.9]]), np.array([[0.0], [0], [1], [1]]))
    np.testing.assert_allclose(thresholds, [0.4])


def test_threshold_of_equal_youden_index_is_the_highest_whatever_the_order():
    scores, labels = np.array([0.8, 0.6, 0.4, 0.2]), np.array([1.0, 0, 1, 0])
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        np.testing.assert_allclose(choose_thresholds(scores[order, None], labels[order, None]), [0.7])


def test_threshold_separates_neighbouring_floats():
    low = np.float32(0.3)
    for dtype in (np.float32, np.float64):
        scores = np.array([low, np.nextafter(dtype(low), dtype(1))], dtype=dtype)
        (threshold,) = choose_thresholds(scores[:, None], np.array([[0.0], [1.0]]))
        assert operating_point(scores, np.array([False, True]), float(threshold)).accuracy == 1


def test_threshold_is_nan_without_both_groups_and_ignores_unknown_labels():
    probabilities = np.array([[0.1, 0.1], [0.9, 0.9], [0.5, 0.95]])
    labels = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, math.nan]])
    thresholds = choose_thresholds(probabilities, labels)
    assert math.isnan(thresholds[0])
    assert thresholds[1] == pytest.approx(0.5)


def test_threshold_of_useless_scores_is_finite():
    thresholds = choose_thresholds(np.array([[0.3], [0.3]]), np.array([[0.0], [1.0]]))
    assert thresholds[0] == pytest.approx(0.3)


def test_a_tie_in_top1_goes_to_the_first_finding():
    assert top1_accuracy(np.full((2, 2), 0.5), np.array([[1.0, 0.0], [0.0, 1.0]])) == 0.5


@pytest.mark.parametrize("row", [[1.0, 1.0], [0.0, 0.0], [1.0, math.nan]])
def test_top1_of_findings_that_are_not_exclusive_is_refused(row):
    with pytest.raises(
        DataError, match=r"1 of 2 cases .* exactly one finding \(first: case 1\).*exclusive=False"
    ):
        top1_accuracy(np.full((2, 2), 0.5), np.array([[1.0, 0.0], row]))


def test_uncertain_labels_are_refused_with_the_policies():
    with pytest.raises(
        DataError, match=r"Case 1, finding 0 \(and 0 more\) is labelled -1 .*ones, zeros, ignore"
    ):
        choose_thresholds(np.full((2, 1), 0.5), np.array([[1.0], [-1.0]]))


def test_labels_that_are_no_labels_are_refused():
    with pytest.raises(DataError, match=r"labelled 0\.9; a label is 1, 0 or NaN"):
        choose_thresholds(np.full((2, 1), 0.5), np.array([[1.0], [0.9]]))


def test_nan_scores_are_refused():
    with pytest.raises(DataError, match="1 of 2 scores are NaN"):
        auroc(np.array([0.5, math.nan]), np.array([True, False]))
    with pytest.raises(DataError, match="Case 0, finding 1"):
        choose_thresholds(np.array([[0.5, math.nan]]), np.array([[1.0, 1.0]]))


def test_labels_given_as_flags_are_refused_because_nan_would_be_positive(no_shape_checks):
    with pytest.raises(DataError, match="must be boolean, got float64"):
        auroc(np.array([0.5, 0.1]), np.array([1.0, math.nan]))


def test_shapes_that_do_not_match_are_named():
    with pytest.raises(DataError, match=r"\(3, 2\) and labels \(2, 2\)"):
        choose_thresholds(np.zeros((3, 2)), np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"\(3,\) and positives \(2,\)"):
        auroc(np.zeros(3), np.zeros(2, bool))


def test_mean_auroc_leaves_unknown_labels_and_undefined_findings_out():
    scores = np.array([[0.9, 0.5], [0.1, 0.6], [0.2, 0.7]])
    macro = mean_auroc(scores, np.array([[1.0, 0.0], [0.0, 0.0], [math.nan, 0.0]]))
    assert (macro.value, macro.entered, macro.of) == (1, 1, 2)
    with pytest.raises(DataError, match="labelled -1"):
        mean_auroc(scores, np.array([[1.0, 0.0], [0.0, -1.0], [1.0, 0.0]]))

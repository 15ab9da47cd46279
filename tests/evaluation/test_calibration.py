from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evax.errors import DataError
from evax.evaluation.calibration import brier_score, expected_calibration_error, reliability_curve


def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_a_large_error():
    rng = np.random.default_rng(0)
    probabilities = rng.random(5000)
    positives = rng.random(5000) < probabilities
    assert expected_calibration_error(probabilities, positives) < 0.03
    overconfident = np.where(probabilities > 0.5, 0.99, 0.01)
    assert expected_calibration_error(overconfident, positives) > 0.2


def test_bins_hold_equal_numbers_of_cases_when_scores_are_distinct():
    curve = reliability_curve(np.linspace(0, 1, 100) ** 4, np.arange(100) >= 50, bins=10)
    assert curve.count.tolist() == [10] * 10
    assert curve.observed.tolist() == [0] * 5 + [1] * 5


def test_equal_probabilities_share_a_bin_whatever_the_order():
    rng = np.random.default_rng(1)
    probabilities, positives = np.round(rng.random(200), 1), rng.random(200) < 0.4
    order = rng.permutation(200)
    curve, shuffled = (reliability_curve(probabilities[o], positives[o]) for o in (np.arange(200), order))
    np.testing.assert_array_equal(curve.count, shuffled.count)
    np.testing.assert_array_equal(curve.observed, shuffled.observed)
    constant = reliability_curve(np.full(50, 0.3), np.arange(50) < 20)
    assert constant.count.tolist() == [50]
    assert constant.observed[0] == pytest.approx(0.4)


@given(st.integers(1, 60), st.integers(1, 15), st.integers(0, 1000))
def test_every_case_is_in_one_bin_and_the_curve_rises_in_prediction(cases, bins, seed):
    rng = np.random.default_rng(seed)
    probabilities, positives = np.round(rng.random(cases), 1), rng.random(cases) < 0.5
    curve = reliability_curve(probabilities, positives, bins)
    assert curve.count.sum() == cases
    assert len(curve.count) <= bins
    assert (np.diff(curve.predicted) > 0).all()
    assert np.average(curve.observed, weights=curve.count) == pytest.approx(positives.mean())


def test_the_wilson_interval_of_none_in_ten():
    curve = reliability_curve(np.full(10, 0.1), np.zeros(10, bool))
    assert curve.low[0] == pytest.approx(0)
    assert curve.high[0] == pytest.approx(1.959964**2 / (10 + 1.959964**2), abs=1e-6)


def test_brier_score_of_the_prevalence():
    assert brier_score(np.full(4, 0.25), np.array([True, False, False, False])) == pytest.approx(0.25 * 0.75)


def test_no_cases_have_no_calibration():
    nothing = np.zeros(0), np.zeros(0, bool)
    assert math.isnan(brier_score(*nothing))
    assert math.isnan(expected_calibration_error(*nothing))


@pytest.mark.parametrize("wrong", [1.5, -0.1, math.nan])
def test_logits_and_nan_are_refused(wrong):
    with pytest.raises(DataError, match=r"1 of 2 probabilities are not in \[0, 1\].*not logits"):
        brier_score(np.array([0.5, wrong]), np.array([True, False]))


def test_labels_given_as_flags_are_refused(no_shape_checks):
    with pytest.raises(DataError, match="of float64; both must be"):
        brier_score(np.array([0.5]), np.array([1.0]))


def test_a_curve_without_bins_is_refused():
    with pytest.raises(DataError, match="at least one bin, got 0"):
        reliability_curve(np.array([0.5]), np.array([True]), bins=0)

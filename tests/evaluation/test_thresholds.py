from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from evax.errors import ConfigError, DataError
from evax.evaluation.classification import (
    ThresholdRule,
    choose_thresholds,
    operating_point,
    predictive_values,
)


def problem(seed, cases=60):
    rng = np.random.default_rng(seed)
    positives = np.concatenate([[True, False], rng.random(cases - 2) < 0.3])
    return np.round(rng.random(cases) + 0.4 * positives, 1), positives  # many ties


def chosen(scores, positives, rule):
    (threshold,) = choose_thresholds(
        scores[:, None], positives[:, None].astype(np.float64), ThresholdRule.of(rule)
    )
    return float(threshold)


@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
@settings(max_examples=50, deadline=None)
def test_sensitivity_is_reached_and_no_higher_threshold_reaches_it(seed, target):
    scores, positives = problem(seed)
    threshold = chosen(scores, positives, f"sensitivity:{target}")
    assert operating_point(scores, positives, threshold).sensitivity >= target
    higher = np.unique(scores[scores >= threshold])[1:]
    assert all(operating_point(scores, positives, float(t)).sensitivity < target for t in higher)


@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
@settings(max_examples=50, deadline=None)
def test_specificity_is_reached_and_no_lower_threshold_reaches_it(seed, target):
    scores, positives = problem(seed)
    threshold = chosen(scores, positives, f"specificity:{target}")
    assert operating_point(scores, positives, threshold).specificity >= target
    lower = scores[scores < threshold]
    assert all(operating_point(scores, positives, float(t)).specificity < target for t in lower)


@given(st.integers(0, 10_000))
@settings(max_examples=12, deadline=None)
def test_f1_is_the_largest_that_any_threshold_has(seed):
    scores, positives = problem(seed)
    threshold = chosen(scores, positives, "f1")
    best = max(f1_score(positives, scores >= t) for t in np.unique(scores))
    assert f1_score(positives, scores >= threshold) == pytest.approx(best, abs=1e-9)


def test_a_specificity_that_no_score_allows_calls_nothing_positive():
    scores, positives = np.array([0.9, 0.9, 0.1], dtype=np.float32), np.array([True, False, False])
    threshold = chosen(scores, positives, "specificity:0.9")
    assert math.isfinite(threshold)
    assert operating_point(scores, positives, threshold).specificity == 1
    assert operating_point(scores, positives, threshold).sensitivity == 0


@pytest.mark.parametrize("text", ["", "yuden", "sensitivity", "sensitivity:", "f1:0.5", "specificity:95"])
def test_a_rule_nobody_knows_is_refused_with_those_there_are(text):
    with pytest.raises(ConfigError, match="chooses no threshold; give youden, f1, sensitivity:0.95"):
        ThresholdRule.of(text)


def test_predictive_values_follow_the_stated_prevalence():
    # 90 of 100 ill and 80 of 100 healthy people are called rightly; one in ten is ill
    ppv, npv = predictive_values(0.9, 0.8, 0.1)
    assert (ppv, npv) == pytest.approx((0.09 / 0.27, 0.72 / 0.73))
    scores, positives = problem(1)
    point = operating_point(scores, positives, 0.6)
    own = predictive_values(point.sensitivity, point.specificity, float(positives.mean()))
    assert own == pytest.approx((point.ppv, point.npv))
    assert np.isnan(predictive_values(0.0, 1.0, 0.5)[0])  # nobody is called positive
    assert np.isnan(predictive_values(math.nan, 1.0, 0.5)).all()
    with pytest.raises(DataError, match=r"in \[0, 1\], got 10"):
        predictive_values(0.9, 0.8, 10)

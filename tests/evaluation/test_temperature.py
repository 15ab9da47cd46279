from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit, softmax

from evax.evaluation.calibration import expected_calibration_error
from evax.evaluation.temperature import LIMITS, fit_temperature, with_temperature


def overconfident(temperature: float, cases: int = 4000):
    rng = np.random.default_rng(0)
    true = expit(2 * rng.standard_normal(cases))
    positives = rng.random(cases) < true
    return expit(logit(true) * temperature), positives


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_temperature_that_spoiled_calibrated_probabilities_is_found(temperature):
    spoiled, positives = overconfident(temperature)
    fitted = fit_temperature(spoiled, positives.astype(np.float64), exclusive=False)
    assert fitted == pytest.approx(temperature, rel=0.1)
    mended = with_temperature(spoiled, fitted, exclusive=False)
    assert expected_calibration_error(mended, positives) < 0.5 * expected_calibration_error(
        spoiled, positives
    )


def test_exclusive_findings_share_one_temperature_and_still_sum_to_one():
    rng = np.random.default_rng(1)
    logits = 1.5 * rng.standard_normal((4000, 3))
    truth = np.array([rng.choice(3, p=row) for row in softmax(logits, axis=1)])
    spoiled = softmax(2.5 * logits, axis=1)
    fitted = fit_temperature(spoiled, np.eye(3)[truth], exclusive=True)
    assert fitted == pytest.approx(2.5, rel=0.1)
    assert with_temperature(spoiled, fitted, exclusive=True).sum(axis=1) == pytest.approx(1)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(*LIMITS))
def test_a_temperature_keeps_the_order_and_the_range(values, temperature):
    before = np.array(sorted(values))
    after = with_temperature(before, temperature, exclusive=False)
    assert (np.diff(after) >= 0).all()
    assert ((after >= 0) & (after <= 1)).all()


@pytest.mark.parametrize("positives", [[], [1.0, 1.0, 1.0]])
def test_without_both_kinds_of_cases_there_is_no_temperature(positives):
    probabilities = np.full(len(positives), 0.3)
    assert math.isnan(fit_temperature(probabilities, np.array(positives), exclusive=False))

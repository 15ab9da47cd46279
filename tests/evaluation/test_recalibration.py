from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from evax.errors import ConfigError, DataError
from evax.evaluation.calibration import (
    HOTTEST,
    METHODS,
    brier_score,
    expected_calibration_error,
    fit_calibrator,
    fit_temperature,
    with_temperature,
    with_temperatures,
)
from evax.evaluation.classification import auroc


def overconfident(seed, cases=3000, findings=2):
    """Probabilities whose logits are three times too large, and the truth they are about."""
    logits = np.random.default_rng(seed).standard_normal((cases, findings)) - 1
    labels = (np.random.default_rng(seed + 1).random(logits.shape) < expit(logits)).astype(np.float64)
    return expit(3 * logits), labels


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_of_other_images_come_true_after_it(method):
    calibrator = fit_calibrator(method, *overconfident(0), exclusive=False)
    probabilities, labels = overconfident(5)
    new = calibrator.apply(probabilities)
    for k in range(2):
        truth = labels[:, k] == 1
        before = expected_calibration_error(probabilities[:, k], truth)
        assert expected_calibration_error(new[:, k], truth) < before / 3
        assert brier_score(new[:, k], truth) < brier_score(probabilities[:, k], truth)
        tolerance = 0.01 if method == "isotonic" else 1e-9  # ties
        assert auroc(new[:, k], truth) == pytest.approx(auroc(probabilities[:, k], truth), abs=tolerance)


def test_the_temperature_that_was_applied_is_found():
    ((temperature,),) = fit_calibrator("temperature", *overconfident(0, 20_000), exclusive=False).parameters
    assert temperature == pytest.approx(3, rel=0.05)


def test_exclusive_findings_share_the_temperature_that_was_applied():
    rng = np.random.default_rng(1)
    logits = 1.5 * rng.standard_normal((4000, 3))
    truth = np.array([rng.choice(3, p=row) for row in softmax(logits, axis=1)])
    spoiled = softmax(2.5 * logits, axis=1)
    assert fit_temperature(spoiled, np.eye(3)[truth], exclusive=True) == pytest.approx(2.5, rel=0.1)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(1 / HOTTEST, HOTTEST))
def test_a_temperature_keeps_the_order_and_the_range(values, temperature):
    before = np.array(sorted(values))
    after = with_temperature(before, temperature, exclusive=False)
    assert (np.diff(after) >= 0).all()
    assert ((after >= 0) & (after <= 1)).all()


@pytest.mark.parametrize("labels", [[], [1.0, 1.0, 1.0], [math.nan, 0.0, 0.0], [math.nan, math.nan]])
def test_without_both_kinds_of_images_there_is_no_temperature(labels):
    probabilities = np.full(len(labels), 0.3)
    assert math.isnan(fit_temperature(probabilities, np.array(labels), exclusive=False))


@pytest.mark.parametrize("labels", [[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
def test_few_images_told_apart_without_a_mistake_or_all_wrongly_have_no_temperature(labels):
    assert math.isnan(fit_temperature(np.array([0.2, 0.3, 0.6, 0.7]), np.array(labels), exclusive=False))


def test_exclusive_images_of_one_finding_have_no_temperature():
    probabilities, labels = np.full((3, 2), 0.5), np.tile([1.0, 0.0], (3, 1))
    assert math.isnan(fit_temperature(probabilities, labels, exclusive=True))


def test_a_finding_without_a_temperature_keeps_its_probabilities_beside_one_that_has_one():
    probabilities, _ = overconfident(9, cases=50)
    after = with_temperatures(probabilities, np.array([3.0, math.nan]), exclusive=False)
    np.testing.assert_allclose(after[:, 0], expit(logit(probabilities[:, 0]) / 3))
    np.testing.assert_array_equal(after[:, 1], probabilities[:, 1])


@pytest.mark.parametrize("exclusive", [False, True])
def test_no_other_temperature_has_a_smaller_loss(exclusive):
    rng = np.random.default_rng(2)
    labels = np.eye(3)[rng.integers(3, size=200)]
    logits = 2 * rng.standard_normal((200, 3)) + labels
    probabilities = softmax(logits, axis=1) if exclusive else expit(logits)
    calibrator = fit_calibrator("temperature", probabilities, labels, exclusive)
    ((found,),) = calibrator.parameters

    def loss(temperature):
        if exclusive:
            return -np.log(softmax(logits / temperature, axis=1)[labels == 1]).mean()
        signed = np.where(labels == 1, 1, -1) * logits / temperature
        return -np.log(expit(signed)).mean()

    assert loss(found) <= min(loss(found * 1.001), loss(found / 1.001))
    expected = softmax(logits / found, axis=1) if exclusive else expit(logits / found)
    np.testing.assert_allclose(calibrator.apply(probabilities), expected, atol=1e-9)


def test_platt_agrees_with_a_logistic_regression_on_his_targets():
    probabilities, labels = overconfident(3, cases=300, findings=1)
    truth = labels[:, 0] == 1
    high, low = (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2)
    target = np.where(truth, high, low)
    values = np.tile(logit(probabilities), (2, 1))  # every image once as positive and once as negative
    regression = LogisticRegression(C=1e12, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    regression.fit(values, np.repeat([1, 0], 300), sample_weight=np.concatenate([target, 1 - target]))
    ((slope, intercept),) = fit_calibrator("platt", probabilities, labels, exclusive=False).parameters
    assert slope == pytest.approx(regression.coef_[0, 0], abs=1e-7)
    assert intercept == pytest.approx(regression.intercept_[0], abs=1e-7)


def test_platt_does_not_believe_separated_images_fully():
    calibrator = fit_calibrator(
        "platt", np.array([[0.1], [0.2], [0.8], [0.9]]), np.array([[0.0], [0], [1], [1]]), exclusive=False
    )
    assert np.isfinite(calibrator.parameters[0]).all()
    assert calibrator.apply(np.array([[0.9]])) < 0.95


def test_isotonic_agrees_with_scikit_learn_and_is_flat_outside_what_it_saw():
    probabilities, labels = overconfident(4, cases=200, findings=1)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(probabilities[:, 0], labels[:, 0])
    calibrator = fit_calibrator("isotonic", probabilities, labels, exclusive=False)
    asked = np.linspace(0, 1, 101)
    np.testing.assert_allclose(calibrator.apply(asked[:, None])[:, 0], oracle.predict(asked), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_exclusive_findings_still_sum_to_one(method):
    rng = np.random.default_rng(6)
    labels = np.eye(3)[rng.integers(3, size=150)]
    probabilities = softmax(4 * (rng.standard_normal((150, 3)) + labels), axis=1)
    new = fit_calibrator(method, probabilities, labels, exclusive=True).apply(probabilities)
    np.testing.assert_allclose(new.sum(axis=1), 1, atol=1e-9)
    assert ((new >= 0) & (new <= 1)).all()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_finding_without_both_groups_keeps_its_probabilities(method):
    probabilities, labels = overconfident(1, cases=100)
    labels[:, 1] = np.where(np.arange(100) < 50, 0, math.nan)
    new = fit_calibrator(method, probabilities, labels, exclusive=False).apply(probabilities)
    np.testing.assert_array_equal(new[:, 1], probabilities[:, 1])
    assert not np.array_equal(new[:, 0], probabilities[:, 0])


def test_certain_probabilities_stay_finite():
    probabilities, labels = np.array([[0.0], [1.0], [1.0]]), np.array([[0.0], [1.0], [0.0]])
    for method in METHODS:
        assert np.isfinite(fit_calibrator(method, probabilities, labels, False).apply(probabilities)).all()


def test_unknown_labels_do_not_count():
    probabilities, labels = overconfident(8, cases=400, findings=1)
    holes = labels.copy()
    holes[200:] = math.nan
    for method in METHODS:
        partial = fit_calibrator(method, probabilities, holes, exclusive=False)
        half = fit_calibrator(method, probabilities[:200], labels[:200], exclusive=False)
        np.testing.assert_array_equal(partial.apply(probabilities), half.apply(probabilities))


def test_what_cannot_be_fitted_is_said(no_shape_checks):
    with pytest.raises(ConfigError, match=r"No calibration is called 'plat'. Did you mean 'platt'\?"):
        fit_calibrator("plat", *overconfident(0, 10), exclusive=False)
    with pytest.raises(DataError, match="No label is known"):
        fit_calibrator("temperature", np.full((2, 1), 0.5), np.full((2, 1), math.nan), exclusive=False)

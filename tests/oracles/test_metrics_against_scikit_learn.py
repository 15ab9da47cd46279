"""Our metrics against scikit-learn, with and without ties."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import calibration as sklearn_calibration
from sklearn import metrics
from sklearn.neighbors import KNeighborsClassifier

from evax.evaluation import calibration, classification, embedding

EXACT = 1e-9


@pytest.fixture(params=["distinct scores", "many ties", "float32"])
def problem(request):
    """Probabilities and truth of 500 cases, one in five positive."""
    rng = np.random.default_rng(3)
    positives = rng.random(500) < 0.2
    scores = 1 / (1 + np.exp(-rng.standard_normal(500) - positives))
    if request.param == "many ties":
        scores = np.round(scores, 1)
    return scores.astype(np.float32 if request.param == "float32" else np.float64), positives


def test_auroc_agrees(problem):
    scores, positives = problem
    assert classification.auroc(scores, positives) == pytest.approx(
        metrics.roc_auc_score(positives, scores), abs=EXACT
    )


def test_average_precision_agrees(problem):
    scores, positives = problem
    assert classification.average_precision(scores, positives) == pytest.approx(
        metrics.average_precision_score(positives, scores), abs=EXACT
    )


def test_roc_curve_runs_through_every_point_of_the_full_curve(problem):
    scores, positives = problem
    false_rate, true_rate, thresholds = classification.roc_curve(scores, positives)
    full_false, full_true, full_thresholds = metrics.roc_curve(positives, scores, drop_intermediate=False)
    at = np.searchsorted(-full_thresholds, -thresholds)  # our corners are points of the full curve ...
    np.testing.assert_array_equal(full_thresholds[at], thresholds)
    np.testing.assert_allclose(full_false[at], false_rate, atol=EXACT)
    np.testing.assert_allclose(full_true[at], true_rate, atol=EXACT)
    assert metrics.auc(false_rate, true_rate) == pytest.approx(metrics.auc(full_false, full_true), abs=EXACT)
    # ... and every point left out lies on a straight line between two of them
    place = np.clip(np.searchsorted(at, np.arange(len(full_false)), side="left"), 1, len(at) - 1)
    left, right = place - 1, place
    cross = (full_false - false_rate[left]) * (true_rate[right] - true_rate[left]) - (
        full_true - true_rate[left]
    ) * (false_rate[right] - false_rate[left])
    assert np.abs(cross).max() < EXACT


def test_brier_score_agrees(problem):
    scores, positives = problem
    assert calibration.brier_score(scores, positives) == pytest.approx(
        metrics.brier_score_loss(positives, scores.astype(np.float64)), abs=EXACT
    )


def test_reliability_curve_agrees_with_quantile_bins_when_scores_are_distinct():
    rng = np.random.default_rng(0)
    scores = rng.permutation(np.linspace(0.01, 0.9, 1000))
    positives = rng.random(1000) < scores
    curve = calibration.reliability_curve(scores, positives, bins=10)
    observed, predicted = sklearn_calibration.calibration_curve(
        positives, scores, n_bins=10, strategy="quantile"
    )
    np.testing.assert_allclose(curve.observed, observed, atol=EXACT)
    np.testing.assert_allclose(curve.predicted, predicted, atol=EXACT)


def test_top1_accuracy_agrees():
    rng = np.random.default_rng(1)
    truth = rng.integers(4, size=300)
    probabilities = rng.dirichlet(np.ones(4), size=300)
    assert classification.top1_accuracy(probabilities, np.eye(4)[truth]) == pytest.approx(
        metrics.accuracy_score(truth, probabilities.argmax(axis=1)), abs=EXACT
    )


def test_operating_point_agrees(problem):
    scores, positives = problem
    point = classification.operating_point(scores, positives, 0.5)
    called = scores >= 0.5
    assert point.sensitivity == pytest.approx(metrics.recall_score(positives, called), abs=EXACT)
    assert point.specificity == pytest.approx(metrics.recall_score(~positives, ~called), abs=EXACT)
    assert point.ppv == pytest.approx(metrics.precision_score(positives, called), abs=EXACT)
    assert point.npv == pytest.approx(metrics.precision_score(~positives, ~called), abs=EXACT)
    assert point.accuracy == pytest.approx(metrics.accuracy_score(positives, called), abs=EXACT)


def test_the_chosen_threshold_reaches_the_largest_youden_index(problem):
    scores, positives = problem
    (threshold,) = classification.choose_thresholds(scores[:, None], positives[:, None].astype(np.float32))
    point = classification.operating_point(scores, positives, threshold)
    false_rate, true_rate, _ = metrics.roc_curve(positives, scores)
    assert point.sensitivity + point.specificity - 1 == pytest.approx(
        (true_rate - false_rate).max(), abs=EXACT
    )


def test_nearest_neighbour_votes_agree():
    rng = np.random.default_rng(4)
    train, test = rng.standard_normal((300, 8)), rng.standard_normal((600, 8))
    labels = (rng.random((300, 3)) < 0.3).astype(np.float64)

    def weights(distances):  # cosine distance is one minus similarity
        return np.exp((1 - distances) / 0.07)

    oracle = KNeighborsClassifier(20, weights=weights, metric="cosine").fit(train, labels)
    expected = np.stack([column[:, 1] for column in oracle.predict_proba(test)], axis=1)
    np.testing.assert_allclose(embedding.knn_scores(train, labels, test, 20, 0.07), expected, atol=EXACT)


def test_mean_auroc_agrees():
    rng = np.random.default_rng(5)
    labels = (rng.random((200, 4)) < 0.3).astype(np.float64)
    scores = np.round(rng.random((200, 4)) + 0.3 * labels, 2)
    macro = classification.mean_auroc(scores, labels)
    assert macro.value == pytest.approx(metrics.roc_auc_score(labels, scores, average="macro"), abs=EXACT)
    assert (macro.entered, macro.of) == (4, 4)

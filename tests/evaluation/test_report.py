from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, precision_score, recall_score

from evax.errors import DataError
from evax.evaluation.classification import auroc, choose_thresholds
from evax.evaluation.intervals import metric_draws
from evax.evaluation.report import evaluate_classifier

FINDINGS = ("Effusion", "Mass", "Hernia")


def films(seed: int = 0, cases: int = 120):
    """Three findings; nobody has the third, and the second is unknown on some images."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((cases, 3)) < [0.4, 0.2, 0.0]).astype(np.float32)
    probabilities = 1 / (1 + np.exp(-rng.standard_normal((cases, 3)) - 2 * labels))
    labels[:10, 1] = np.nan
    return probabilities.astype(np.float32), labels, [f"p{i // 3}" for i in range(cases)]


@pytest.fixture(scope="module")
def report():
    probabilities, labels, patients = films()
    thresholds = choose_thresholds(*films(seed=1)[:2])
    return evaluate_classifier(probabilities, labels, FINDINGS, patients, thresholds, False, resamples=100)


def test_a_finding_that_nobody_has_stops_nothing_and_is_counted_out(report):
    hernia = report.findings[2]
    assert math.isnan(hernia.auroc)
    assert (hernia.positives, hernia.negatives, hernia.prevalence) == (0, 120, 0)
    assert (report.means["mauc"].findings_entered, report.means["mauc"].findings_total) == (2, 3)
    assert report.means["mauc"].value == pytest.approx(
        (report.findings[0].auroc + report.findings[1].auroc) / 2
    )


def test_unknown_labels_are_left_out_of_their_finding_alone(report):
    probabilities, labels, _ = films()
    mass = report.findings[1]
    assert mass.positives + mass.negatives == 110
    assert mass.auroc == auroc(probabilities[10:, 1], labels[10:, 1] == 1)
    assert report.findings[0].positives + report.findings[0].negatives == report.n == 120


def test_images_and_patients_are_counted(report):
    assert (report.n, report.patients) == (120, 40)


def test_values_lie_in_their_intervals(report):
    assert report.means["mauc"].interval.low < report.means["mauc"].value < report.means["mauc"].interval.high
    assert report.means["map"].interval.low < report.means["map"].value < report.means["map"].interval.high
    assert report.means["macc"].interval.low < report.means["macc"].value < report.means["macc"].interval.high
    for finding in report.findings[:2]:
        assert finding.auroc_interval.low < finding.auroc < finding.auroc_interval.high


def test_accuracy_is_the_mean_over_findings_at_the_given_thresholds(report):
    assert report.means["macc"].reading == "mean of per-finding accuracies at validation thresholds"
    assert report.means["macc"].value == pytest.approx(
        (report.findings[0].accuracy + report.findings[1].accuracy) / 2
    )


def test_exclusive_findings_are_scored_by_the_most_probable_one():
    rng = np.random.default_rng(0)
    labels = np.eye(3)[rng.integers(3, size=60)]
    probabilities = rng.dirichlet(np.ones(3), size=60)
    people = [f"p{i}" for i in range(60)]
    report = evaluate_classifier(probabilities, labels, FINDINGS, people, np.full(3, 0.5), True, resamples=50)
    assert report.means["macc"].reading == "top-1"
    assert report.means["macc"].value == (probabilities.argmax(1) == labels.argmax(1)).mean()


def test_json_is_plain_and_writes_undefined_as_null(report):
    written = report.to_json()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert list(written) == [
        "n", "patients", "findings", "mauc", "map", "macc", "balanced_accuracy", "interval_method",
    ]  # fmt: skip
    hernia = written["findings"][2]
    assert hernia["auroc"] is None
    assert hernia["auroc_interval"] == [None, None]
    assert hernia["auroc_interval_undefined"] == 100
    assert hernia["sensitivity"] is None
    assert written["mauc"]["interval"] == [
        report.means["mauc"].interval.low,
        report.means["mauc"].interval.high,
    ]
    assert written["interval_method"] == "patient-clustered bootstrap, percentile, 100 resamples"


def test_the_seed_decides_the_intervals_and_not_the_values():
    probabilities, labels, patients = films()
    thresholds = np.full(3, 0.5)
    first, second = (
        evaluate_classifier(probabilities, labels, FINDINGS, patients, thresholds, False, 100, seed)
        for seed in (0, 1)
    )
    assert first.means["mauc"].value == second.means["mauc"].value
    assert first.means["mauc"].interval != second.means["mauc"].interval


def test_without_thresholds_there_is_no_mean_accuracy_and_the_reading_says_why():
    probabilities, labels, patients = films()
    report = evaluate_classifier(probabilities, labels, FINDINGS, patients, np.full(3, math.nan), False, 100)
    assert math.isnan(report.means["macc"].value)
    assert report.means["macc"].reading == "none: no finding has a threshold"
    exclusive = evaluate_classifier(
        probabilities, np.eye(3)[np.arange(120) % 3], FINDINGS, patients, np.full(3, math.nan), True, 100
    )
    assert exclusive.means["macc"].reading == "top-1"


def test_names_thresholds_and_columns_must_agree():
    probabilities, labels, patients = films()
    with pytest.raises(DataError, match="2 findings, 3 thresholds and 3 columns"):
        evaluate_classifier(probabilities, labels, FINDINGS[:2], patients, np.full(3, 0.5), False)


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@given(st.integers(2, 4), st.integers(0, 999), st.floats(0, 3))
@settings(max_examples=20, deadline=None)
def test_numbers_of_exclusive_classes_are_those_of_the_most_probable_class(classes, seed, skill):
    rng = np.random.default_rng(seed)
    truth = np.r_[np.arange(classes), rng.integers(classes, size=50)]
    probabilities = softmax(rng.normal(size=(len(truth), classes)) + skill * np.eye(classes)[truth], axis=1)
    answer, people = probabilities.argmax(axis=1), [f"p{i // 2}" for i in range(len(truth))]
    names, limits = [f"class {k}" for k in range(classes)], np.full(classes, 0.01)
    report = evaluate_classifier(
        probabilities, np.eye(classes)[truth], names, people, limits, True, resamples=20
    )
    balanced = report.means["balanced_accuracy"]
    assert balanced.value == pytest.approx(balanced_accuracy_score(truth, answer))
    assert balanced.interval.low <= balanced.interval.high
    recalls = recall_score(truth, answer, labels=range(classes), average=None)
    assert [row.sensitivity for row in report.findings] == pytest.approx(recalls)
    precisions = precision_score(truth, answer, labels=range(classes), average=None, zero_division=np.nan)
    assert [row.ppv for row in report.findings] == pytest.approx(precisions, nan_ok=True)
    assert all(math.isnan(row.threshold) for row in report.findings)


def test_the_interval_of_balanced_accuracy_is_that_of_scikit_learn_s_over_the_same_resampled_patients():
    rng = np.random.default_rng(1)
    truth, people = np.repeat([0, 1, 2], [60, 30, 30]), [f"p{i % 50}" for i in range(120)]
    probabilities = softmax(rng.normal(size=(120, 3)) + np.eye(3)[truth], axis=1)
    report = evaluate_classifier(
        probabilities, np.eye(3)[truth], FINDINGS, people, np.full(3, np.nan), True, resamples=40, seed=3
    )
    draws = metric_draws(
        lambda drawn: balanced_accuracy_score(truth, probabilities.argmax(1), sample_weight=drawn),
        people, resamples=40, seed=3,
    )  # fmt: skip
    low, high = np.quantile(draws, [0.025, 0.975])
    interval = report.means["balanced_accuracy"].interval
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


def test_independent_findings_have_no_balanced_accuracy(report):
    assert report.means["balanced_accuracy"] is None
    assert report.to_json()["balanced_accuracy"] is None

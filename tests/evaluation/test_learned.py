from __future__ import annotations

import math

import numpy as np
import pytest

from evax.evaluation.classification import FEW, has_few, learned_findings, only_learned, patients_of_each_side
from evax.evaluation.embedding import fit_linear_probe, knn_auroc
from evax.evaluation.report import evaluate_classifier

NAN = math.nan


def test_a_finding_is_learned_from_images_that_have_it_and_images_that_lack_it():
    #                        both  present absent unknown  smooth
    labels = np.array([[1.0, 1.0, 0.0, NAN, 0.7], [0.0, 1.0, 0.0, NAN, 0.0], [NAN, NAN, NAN, NAN, NAN]])
    assert learned_findings(labels).tolist() == [True, False, False, False, True]


def test_only_findings_that_were_learned_keep_their_labels():
    labels = np.array([[1.0, 0.0], [0.0, NAN]])
    np.testing.assert_array_equal(only_learned(labels, np.array([True, False])), [[1, NAN], [0, NAN]])


def test_few_are_few_patients_not_few_images():
    labels = np.array([1.0] * 8 + [0.0] * 6 + [NAN])[:, None]
    patients = np.array(["a"] * 7 + ["b"] + list("cdefgh") + ["i"])
    assert patients_of_each_side(labels, patients).tolist() == [[2, 6]]
    assert has_few(2, 6)
    assert not has_few(FEW, FEW)


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(0)
    labels = (rng.random((90, 3)) < [0.4, 0.3, 0.2]).astype(np.float64)
    scores = rng.random((90, 3))
    people = [f"p{number // 2}" for number in range(90)]
    learned = np.array([True, True, False])
    names = ("Mass", "Edema", "Hernia")
    return evaluate_classifier(
        scores, labels, names, people, np.full(3, 0.5), False, 50, learned=learned
    ), labels


def test_what_was_not_learned_is_named_counted_and_left_out_of_every_mean(report):
    report, labels = report
    mass, edema, hernia = report.findings
    assert [row.learned for row in report.findings] == [True, True, False]
    assert math.isnan(hernia.auroc)
    assert math.isnan(hernia.sensitivity)
    assert hernia.positives == labels[:, 2].sum() > 0  # what its images are is known all the same
    assert hernia.prevalence == labels[:, 2].mean()
    assert (report.means["mauc"].findings_entered, report.means["mauc"].findings_total) == (2, 3)
    assert report.means["mauc"].value == pytest.approx((mass.auroc + edema.auroc) / 2)
    assert report.means["macc"].value == pytest.approx((mass.accuracy + edema.accuracy) / 2)
    assert report.to_json()["mauc"]["interval_partial"] == report.to_json()["mauc"]["interval_undefined"] == 0


def test_the_most_probable_finding_is_judged_on_images_of_a_finding_that_was_not_learned_too():
    labels = np.eye(3)[np.arange(60) % 3]
    learned = np.array([True, True, False])
    people = [f"p{number}" for number in range(60)]
    scores = np.where(labels == 1, 0.8, 0.1)
    report = evaluate_classifier(
        scores, labels, tuple("abc"), people, np.full(3, 0.5), True, 50, learned=learned
    )
    assert report.means["macc"].value == 1
    assert report.means["mauc"].findings_entered == 2


def test_a_probe_neither_chooses_by_nor_counts_what_it_could_not_learn():
    rng = np.random.default_rng(1)
    features, test = rng.standard_normal((80, 4)), rng.standard_normal((60, 4))
    labels, truth = (np.stack([part[:, 0] > 0, part[:, 1] > 0], 1).astype(float) for part in (features, test))
    labels[:, 1] = 0  # nobody among the training images
    macro = knn_auroc(features, labels, test, truth)
    assert macro.entered == 1
    assert macro.value == knn_auroc(features, labels[:, :1], test, truth[:, :1]).value
    both, alone = (
        fit_linear_probe(features, taught, test, asked, False)
        for taught, asked in ((labels, truth), (labels[:, :1], truth[:, :1]))
    )
    assert both.validation_mauc == alone.validation_mauc

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evax.errors import DataError
from evax.evaluation.suspicion import clear_ends, held_out_probabilities, suspicion

FLIPPED = 0.1


def films(seed: int, cases: int = 600, width: int = 24, apart: float = 2.5):
    """Features of which three directions show three findings, their labels and two images per patient."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((cases, 3)) < 0.3).astype(np.float64)
    features = rng.standard_normal((cases, width))
    features[:, :3] += apart * labels
    return features, labels, np.array([f"p{number // 2}" for number in range(cases)])


def turned_over(labels, seed: int):
    flips = np.random.default_rng(seed).random(labels.shape) < FLIPPED
    return np.where(flips, 1 - labels, labels), flips


def found(scores, flips) -> float:
    """The share of the flips among the tenth of the labels that is most suspicious."""
    order = np.argsort(-scores, axis=None)
    return float(flips.ravel()[order[: round(0.1 * order.size)]].sum() / flips.sum())


def test_most_labels_that_were_turned_over_are_among_the_most_suspicious_tenth():
    features, labels, patients = films(0)
    given_labels, flips = turned_over(labels, 1)
    scores = suspicion(held_out_probabilities(features, given_labels, patients), given_labels)
    assert found(scores, flips) > 0.6


def doubted(apart: float, flipped: bool) -> int:
    """How many ends of three findings are doubted."""
    features, labels, patients = films(2, cases=900, apart=apart)
    if flipped:
        labels, _ = turned_over(labels, 3)
    held_out = held_out_probabilities(features, labels, patients)
    pairs = [clear_ends(held_out[:, k], labels[:, k]) for k in range(3)]
    return sum(end.is_doubtful() for pair in pairs if pair for end in pair)


def test_turned_over_labels_of_findings_that_are_known_well_are_doubted():
    assert doubted(2.5, flipped=True) >= 3


@pytest.mark.parametrize("apart", [1.0, 2.5])
def test_honest_labels_of_easy_and_hard_findings_are_not_doubted(apart):
    assert doubted(apart, flipped=False) == 0


def test_a_label_is_judged_by_other_patients_only():
    features, labels, patients = films(4, cases=60)
    first = held_out_probabilities(features, labels, patients)
    own, turned = patients == "p0", labels.copy()
    turned[own] = 1 - turned[own]
    second = held_out_probabilities(features, turned, patients)
    # the penalty is chosen by all labels; where it stayed, the patient's own images are judged as before
    same = [k for k in range(3) if np.allclose(first[own, k], second[own, k], atol=1e-12)]
    assert same
    assert not np.allclose(first[~own], second[~own])


def test_unknown_labels_and_findings_that_never_vary_are_not_judged():
    features, labels, patients = films(5, cases=80)
    labels[:10, 0], labels[:, 1] = np.nan, 0
    held_out = held_out_probabilities(features, labels, patients)
    assert np.isnan(held_out[:10, 0]).all()
    assert np.isfinite(held_out[10:, 0]).all()
    assert np.isnan(held_out[:, 1]).all()
    assert clear_ends(held_out[:, 1], labels[:, 1]) is None
    assert np.isnan(held_out_probabilities(features, labels, np.array(["one"] * 80))).all()


@given(st.floats(0, 1), st.sampled_from([0.0, 1.0]))
def test_the_score_is_the_probability_of_the_opposite_label(probability, label):
    scores = suspicion(np.array([[probability, np.nan]]), np.array([[label, label]]))
    assert scores[0, 0] == pytest.approx(1 - probability if label else probability)
    assert np.isnan(scores[0, 1])


def test_features_of_other_images_are_refused():
    features, labels, patients = films(6, cases=20)
    with pytest.raises(DataError, match="19 features, 20 patients and 20 labels"):
        held_out_probabilities(features[1:], labels, patients)

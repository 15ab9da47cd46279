"""Dice and Jaccard against scikit-learn on written-out pixels; images without the finding."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from evax.data.masked import UNKNOWN
from evax.evaluation.intervals import patient_weights
from evax.evaluation.segmentation import (
    THRESHOLDS,
    Overlaps,
    choose_mask_thresholds,
    count_overlap,
    dice,
    dice_draws,
    evaluate_segmenter,
    film_dice,
    global_dice,
    jaccard_of,
)

SIDE = 12


def drawn(films=6, findings=2, seed=0):
    """Probabilities and truths; of the second finding the first image is unknown and the last has none."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((films, findings, SIDE, SIDE)) < 0.3).astype(np.uint8)
    # on the grid of thresholds, too: "at or above" has to mean the same everywhere
    probability = np.round(np.clip(0.5 * truth + rng.random(truth.shape) * 0.6, 0, 1), 2).astype(np.float32)
    if findings > 1:
        truth[0, 1], truth[-1, 1] = UNKNOWN, 0
    return probability, truth


def overlaps_of(probability, truth):
    counts = [
        [count_overlap(*pair) for pair in zip(*film, strict=True)]
        for film in zip(probability, truth, strict=True)
    ]
    both, called = (np.array([[each[i] for each in film] for film in counts]) for i in (0, 1))
    inside = np.array([[each[2] for each in film] for film in counts])
    return Overlaps(both, called, inside, SIDE**2, (truth != UNKNOWN).any(axis=(2, 3)))


def test_dice_and_jaccard_of_all_pixels_are_scikit_learn_s_at_every_threshold():
    probability, truth = drawn()
    overlaps = overlaps_of(probability, truth)
    scores = global_dice(overlaps)
    for k in range(2):
        known = truth[:, k] != UNKNOWN
        for t in range(0, len(THRESHOLDS), 7):
            # float32 pixels against float64 thresholds, as in numpy's own comparison
            called = probability[:, k][known] >= THRESHOLDS[t]
            assert scores[k, t] == pytest.approx(
                f1_score(truth[:, k][known], called, zero_division=0), abs=1e-12
            )
            expected = jaccard_score(truth[:, k][known], called, zero_division=0)
            assert jaccard_of(scores[k, t]) == pytest.approx(expected, abs=1e-12)


def test_an_image_s_dice_is_scikit_learn_s_and_undefined_without_the_finding():
    probability, truth = drawn()
    each = film_dice(overlaps_of(probability, truth).at(np.array([0.5, 0.3])))
    assert each[2, 1] == pytest.approx(f1_score(truth[2, 1].ravel(), probability[2, 1].ravel() >= 0.3))
    assert np.isnan(each[[0, 5], 1]).all()


def test_the_paper_s_pairs_of_dice_and_jaccard_are_of_the_same_pixels():
    # facts 5.3
    for dice_value, jaccard in ((60.27, 43.13), (54.51, 37.47), (60.10, 42.96), (53.16, 36.20)):
        assert 100 * jaccard_of(dice_value / 100) == pytest.approx(jaccard, abs=0.02)


def test_unknown_pixels_are_neither_called_nor_missed():
    probability = np.array([[0.9, 0.9], [0.1, 0.9]], np.float32)
    truth = np.array([[1, UNKNOWN], [0, 0]], np.uint8)
    both, called, inside = count_overlap(probability, truth)
    at = list(THRESHOLDS).index(0.5)
    assert (both[at], called[at], inside) == (1, 2, 1)


def test_nothing_against_nothing_has_no_dice():
    assert math.isnan(dice(np.array(0), np.array(0), np.array(0)))


def test_the_chosen_threshold_has_the_best_dice_and_a_finding_without_pixels_has_none():
    probability, truth = drawn()
    truth[:, 1] = 0
    overlaps = overlaps_of(probability, truth)
    first, second = choose_mask_thresholds(overlaps)
    assert global_dice(overlaps)[0, list(THRESHOLDS).index(first)] == global_dice(overlaps)[0].max()
    assert math.isnan(second)
    report = evaluate_segmenter(overlaps.at(np.array([first, second])), ["A", "B"], list("aabbcc"), 50)
    assert math.isnan(report.findings[1].dice)
    assert (report.mdice.findings_entered, report.mdice.findings_total) == (1, 2)
    assert report.mdice.value == report.findings[0].dice


def test_the_interval_is_that_of_dice_counted_anew_on_every_resample_of_the_patients():
    probability, truth = drawn(films=9)
    patients = np.array(list("aabbccdde"))
    overlaps = overlaps_of(probability, truth).at(np.array([0.4, 0.6]))
    draws = dice_draws(overlaps, patients, resamples=70, seed=3)
    names = sorted(set(patients))
    weights = np.concatenate(list(patient_weights(len(names), 70, 3)), axis=1)
    for r in range(70):
        films = [
            i
            for p, name in enumerate(names)
            for i in np.flatnonzero(patients == name)
            for _ in range(int(weights[p, r]))
        ]
        for k, threshold in enumerate((0.4, 0.6)):
            known = truth[films, k] != UNKNOWN
            called = probability[films, k][known] >= threshold
            expected = f1_score(truth[films, k][known], called) if truth[films, k][known].any() else math.nan
            if not math.isnan(expected):
                assert draws[k, r] == pytest.approx(expected, abs=1e-12)


def test_images_without_the_finding_count_in_the_pixels_of_all_and_have_numbers_of_their_own():
    probability, truth = drawn(films=4, findings=1)
    truth[:2] = 0
    probability[0], probability[1] = 0.0, 0.0
    probability[1, 0, 0, 0] = 1.0
    overlaps = overlaps_of(probability, truth).at(np.array([0.5]))
    (row,) = evaluate_segmenter(overlaps, ["A"], list("abcd"), 20).findings
    assert (row.films_with, row.films_without) == (2, 2)
    assert (row.patients_with, row.patients_without, row.few_patients) == (2, 2, True)
    assert row.untouched == 0.5
    assert row.false_area == pytest.approx(1 / SIDE**2 / 2)
    everything = f1_score(truth.ravel(), probability.ravel() >= 0.5)
    assert row.dice == pytest.approx(everything)
    assert row.jaccard == pytest.approx(everything / (2 - everything))
    assert row.jaccard_interval.low <= row.jaccard <= row.jaccard_interval.high


def test_one_patient_shows_no_spread():
    probability, truth = drawn(films=3, findings=1)
    overlaps = overlaps_of(probability, truth).at(np.array([0.5]))
    (row,) = evaluate_segmenter(overlaps, ["A"], ["a", "a", "a"], 20).findings
    assert math.isnan(row.dice_interval.low)
    assert evaluate_segmenter(overlaps, ["A"], ["a", "a", "a"], 20).to_json()["findings"][0][
        "dice_interval"
    ] == [None, None]


def test_the_mean_of_images_shows_no_spread_where_one_patient_alone_has_the_finding():
    probability, truth = drawn(films=8, findings=1)
    truth[1:] = 0
    overlaps = overlaps_of(probability, truth).at(np.array([0.5]))
    (row,) = evaluate_segmenter(overlaps, ["A"], list("abcdefgh"), 40).findings
    assert row.patients_with == 1
    assert not math.isnan(row.film_dice)
    assert math.isnan(row.film_dice_interval.low)
    assert not math.isnan(row.dice_interval.low)  # all eight have a say in the pixels of all

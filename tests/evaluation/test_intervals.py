from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from evax.errors import ConfigError, DataError
from evax.evaluation.classification import auroc, average_precision
from evax.evaluation.intervals import (
    Interval,
    mean_interval,
    patient_weights,
    seed_interval,
)
from ranking import ranking_intervals


def problem(seed: int, cases: int = 60, patients: int = 20, findings: int = 3):
    """Scores with many ties, labels with holes, several images per patient."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((cases, findings)) < 0.3).astype(np.float32)
    scores = np.round(1 / (1 + np.exp(-rng.standard_normal((cases, findings)) - labels)), 1)
    labels[rng.random((cases, findings)) < 0.1] = np.nan
    return scores, labels, np.array([f"p{number}" for number in rng.integers(patients, size=cases)])


def written_out(patients, resamples, seed):
    """The images of each resample as indices, patient by patient: the naive way."""
    names = np.unique(patients)
    films = [np.flatnonzero(patients == name) for name in names]
    for block in patient_weights(len(names), resamples, seed):
        for weights in block.T:
            yield np.concatenate([films[p] for p in range(len(names)) for _ in range(int(weights[p]))])


def percentiles(values):
    values = np.array(values)
    defined = values[~np.isnan(values)]
    return (*np.quantile(defined, [(1 - 0.95) / 2, (1 + 0.95) / 2]), int(np.isnan(values).sum()))


def ends(interval: Interval):
    return interval.low, interval.high, interval.undefined


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_weights_give_what_writing_the_images_out_again_gives(seed):
    scores, labels, patients = problem(seed, findings=2)
    fast = ranking_intervals(scores, labels, patients, resamples=70, seed=seed)
    areas, precisions = [], []
    for films in written_out(patients, 70, seed):
        known = [films[~np.isnan(labels[films, k])] for k in range(2)]
        areas.append([auroc(scores[f, k], labels[f, k] == 1) for k, f in enumerate(known)])
        precisions.append([average_precision(scores[f, k], labels[f, k] == 1) for k, f in enumerate(known)])
    for k in range(2):
        assert ends(fast.auroc[k]) == pytest.approx(percentiles(np.array(areas)[:, k]), abs=1e-12)
        assert ends(fast.average_precision[k]) == pytest.approx(
            percentiles(np.array(precisions)[:, k]), abs=1e-12
        )
    assert ends(fast.macro_auroc) == pytest.approx(percentiles(np.mean(areas, axis=1)), abs=1e-12)
    assert ends(fast.macro_average_precision) == pytest.approx(
        percentiles(np.mean(precisions, axis=1)), abs=1e-12
    )


def test_a_mean_of_hits_agrees_with_writing_the_images_out_again():
    hits, _, patients = problem(5)
    hits[np.random.default_rng(0).random(hits.shape) < 0.2] = np.nan
    fast = mean_interval(hits, patients, resamples=100, seed=4)
    naive = [np.nanmean(hits[films], axis=0).mean() for films in written_out(patients, 100, 4)]
    assert ends(fast) == pytest.approx(percentiles(naive), abs=1e-12)


def test_a_mean_over_findings_is_over_those_that_a_written_out_resample_has():
    scores, labels, patients = problem(8, findings=3)
    labels[:, 2] = 0
    labels[np.flatnonzero(patients == patients[0]), 2] = 1  # one patient has it
    labels[np.isnan(labels)] = 0
    fast = ranking_intervals(scores, labels, patients, resamples=80, seed=3)
    means, lacking = [], 0
    for films in written_out(patients, 80, 3):
        areas = np.array([auroc(scores[films, k], labels[films, k] == 1) for k in range(3)])
        means.append(np.nanmean(areas))
        lacking += bool(np.isnan(areas).any())
    assert ends(fast.macro_auroc) == pytest.approx((*percentiles(means)[:2], 0), abs=1e-12)
    assert 0 < fast.macro_auroc.partial == lacking < 80


def test_resamples_without_a_positive_are_left_out_and_counted():
    scores, labels = np.array([[0.9], [0.2], [0.3], [0.4]]), np.array([[1.0], [0], [0], [0]])
    intervals = ranking_intervals(scores, labels, list("abcd"), resamples=1000, seed=0)
    # the patient of the positive is missing in (3/4)^4 = 32 %, alone in (1/4)^4 = 0.4 % of the resamples
    assert 0.26 < intervals.auroc[0].undefined / 1000 < 0.38
    assert (intervals.auroc[0].low, intervals.auroc[0].high) == (1, 1)
    assert intervals.macro_auroc.undefined == intervals.auroc[0].undefined


def test_an_undefined_finding_has_no_interval_and_does_not_touch_the_mean():
    scores, labels, patients = problem(1, findings=2)
    alone = ranking_intervals(scores[:, :1], labels[:, :1], patients, resamples=200)
    labels[:, 1] = 0
    both = ranking_intervals(scores, labels, patients, resamples=200)
    assert math.isnan(both.auroc[1].low)
    assert both.auroc[1].undefined == 200
    assert both.macro_auroc == alone.auroc[0]
    labels[:, 0] = np.nan
    assert math.isnan(ranking_intervals(scores, labels, patients, resamples=20).macro_auroc.high)


def test_copies_of_an_image_do_not_narrow_the_interval_when_they_share_the_patient():
    scores, labels, _ = problem(2, cases=80, findings=1)
    people = np.array([f"p{i}" for i in range(80)])
    once = ranking_intervals(scores, labels, people, resamples=400)
    copies = (np.repeat(scores, 8, axis=0), np.repeat(labels, 8, axis=0))
    clustered = ranking_intervals(*copies, np.repeat(people, 8), resamples=400)
    as_if_independent = ranking_intervals(*copies, np.array([f"film{i}" for i in range(640)]), resamples=400)
    assert ends(clustered.auroc[0]) == ends(once.auroc[0])

    def width(intervals):
        return intervals.auroc[0].high - intervals.auroc[0].low

    assert width(clustered) > 2 * width(as_if_independent)


def test_the_seed_alone_decides_the_draws():
    scores, labels, patients = problem(3)
    first, again, other = (ranking_intervals(scores, labels, patients, 100, seed).auroc for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_fewer_resamples_are_the_beginning_of_more():
    few = np.concatenate(list(patient_weights(7, 10, seed=0)), axis=1)
    many = np.concatenate(list(patient_weights(7, 150, seed=0)), axis=1)
    np.testing.assert_array_equal(few, many[:, :10])
    assert (many.sum(axis=0) == 7).all()


def test_the_interval_says_how_it_was_made():
    interval = mean_interval(np.array([True, False, True]), list("abc"), resamples=50, level=0.9)
    assert interval.method == "patient-clustered bootstrap, percentile, 50 resamples"
    assert interval.level == 0.9
    wide = mean_interval(np.arange(100.0), np.arange(100).astype(str), resamples=500)
    narrow = mean_interval(np.arange(100.0), np.arange(100).astype(str), resamples=500, level=0.5)
    assert wide.low < narrow.low < 49.5 < narrow.high < wide.high


def test_one_patient_has_no_interval():
    assert math.isnan(mean_interval(np.array([1.0, 0.0]), ["a", "a"]).low)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(11)
    truth, covered, n = 0.7602, 0, 150  # chance that N(1, 1) exceeds N(0, 1): Phi(1 / sqrt(2))
    for seed in range(n):
        labels = (np.arange(150) % 3 == 0).astype(float)[:, None]
        scores = rng.standard_normal((150, 1)) + labels
        interval = ranking_intervals(
            scores, labels, np.arange(150).astype(str), resamples=200, seed=seed
        ).auroc[0]
        covered += interval.low <= truth <= interval.high
    assert 0.88 <= covered / n <= 0.99


def test_images_without_a_patient_are_refused():
    with pytest.raises(DataError, match=r"2 of 3 cases have no patient.*image's name"):
        mean_interval(np.zeros(3), ["a", "", ""])


def test_patients_that_do_not_match_the_cases_are_refused():
    with pytest.raises(DataError, match="2 patients were given for 3 cases"):
        mean_interval(np.zeros(3), ["a", "b"])


def test_an_impossible_level_or_number_of_resamples_is_refused():
    with pytest.raises(ConfigError, match="between 0 and 1, got 95"):
        mean_interval(np.zeros(2), ["a", "b"], level=95.0)
    with pytest.raises(ConfigError, match="at least one resample, got 0"):
        mean_interval(np.zeros(2), ["a", "b"], resamples=0)


def test_the_interval_over_seeds_is_scipy_s_and_needs_three_of_them():
    values = np.array([0.7, 0.74, 0.71, math.nan, 0.69])
    interval = seed_interval(values)
    known = values[~np.isnan(values)]
    expected = scipy.stats.t.interval(0.95, 3, loc=known.mean(), scale=scipy.stats.sem(known))
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert interval.method == "t-interval over 4 seeds"
    assert interval.undefined == 1
    near = seed_interval(np.array([0.735, 0.78, 0.93]), over="folds")
    assert scipy.stats.t.interval(0.95, 2, loc=0.815, scale=scipy.stats.sem([0.735, 0.78, 0.93]))[1] > 1
    assert (near.high, near.method) == (1.0, "t-interval over 3 folds, cut at 1")
    wild = seed_interval(np.array([-0.9, 0.1, 0.9]), within=(-1.0, 1.0))
    assert (wild.low, wild.high, wild.method) == (-1, 1, "t-interval over 3 seeds, cut at -1 and 1")
    for few in (values[:2], values[2:4]):
        assert math.isnan(seed_interval(few).low)
        assert seed_interval(few, over="folds").method == "none: fewer than 3 folds"

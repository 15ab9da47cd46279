from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from evax.errors import DataError
from evax.evaluation.classification import auroc, aurocs
from evax.evaluation.comparison import delong, delong_covariance, holm, paired_difference
from evax.evaluation.intervals import (
    macro_draws,
    mean_draws,
    metric_draws,
    partial_resamples,
    ranking_draws,
)
from evax.evaluation.networks import Ground, finding_differences, mean_differences, score_network
from ranking import ranking_intervals


def two_networks(seed, patients=60, films=2):
    """Scores (S, 1) of a better and a worse network on the same images, which share much of their noise."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.random(patients) < 0.4, films)
    shared = rng.standard_normal(len(truth))
    better = (shared + 2 * truth + 0.3 * rng.standard_normal(len(truth)))[:, None]
    worse = (shared + 1 * truth + 0.3 * rng.standard_normal(len(truth)))[:, None]
    return better, worse, truth, np.repeat([f"p{i}" for i in range(patients)], films)


def difference_of(better, worse, truth, people, resamples=400):
    labels = truth[:, None].astype(np.float64)
    draws = [ranking_draws(scores, labels, people, resamples)[0, 0] for scores in (better, worse)]
    areas = [auroc(scores[:, 0], truth) for scores in (better, worse)]
    return paired_difference(*areas, *draws, patients=len(set(people)))


def test_pairing_makes_the_interval_of_a_difference_shorter_than_drawing_apart():
    better, worse, truth, people = two_networks(0)
    labels = truth[:, None].astype(np.float64)
    first, second = (ranking_draws(scores, labels, people, 400)[0, 0] for scores in (better, worse))
    elsewhere = ranking_draws(worse, labels, people, 400, seed=1)[0, 0]
    found = difference_of(better, worse, truth, people).interval
    apart = paired_difference(0.9, 0.8, first, elsewhere, 60).interval
    assert first.shape == second.shape == (400,)
    assert found.high - found.low < 0.8 * (apart.high - apart.low)


@given(
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0, math.nan]), min_size=1, max_size=30),
    st.integers(1, 120),
    st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]),
)
@settings(max_examples=300, deadline=None)
def test_p_is_at_most_the_level_exactly_where_the_interval_leaves_out_zero(shifts, times, level):
    draws = np.array(shifts + [1.0] * times)  # often just at the edge between the two
    found = paired_difference(1.0, 0.5, draws, np.zeros(len(draws)), 9, level)
    outside = found.interval.low > 0 or found.interval.high < 0
    assert outside == (found.p <= 1 - level + 1e-12)


@pytest.mark.parametrize("resamples", [38, 39, 199, 1999, 2000])
def test_p_and_interval_turn_over_at_the_same_resample(resamples):
    said = []
    for beyond in range(60):
        draws = np.where(np.arange(resamples) < beyond, -1.0, 1.0)
        found = paired_difference(0.9, 0.8, draws, np.zeros(resamples), 9)
        said.append((found.p <= 0.05, found.interval.low > 0 or found.interval.high < 0))
        assert found.p >= found.least_p == 2 / (resamples + 1)
    assert all(by_p == by_interval for by_p, by_interval in said)
    assert sum(by_p for by_p, _ in said) == {38: 0, 39: 22, 199: 5, 1999: 50, 2000: 50}[resamples]


def test_too_few_resamples_for_a_level_give_no_interval_and_no_small_p():
    found = paired_difference(0.9, 0.8, np.ones(38), np.zeros(38), 9)
    assert math.isnan(found.interval.low)
    assert found.p == pytest.approx(2 / 39)


def test_swapping_the_networks_turns_the_sign_and_keeps_p():
    better, worse, truth, people = two_networks(3, films=1)
    for compared in (
        lambda a, b: difference_of(a, b, truth, people),
        lambda a, b: delong(a[:, 0], b[:, 0], truth),
    ):
        forth, back = compared(better, worse), compared(worse, better)
        assert back.value == -forth.value
        assert back.p == pytest.approx(forth.p)
        assert (back.interval.low, back.interval.high) == pytest.approx(
            (-forth.interval.high, -forth.interval.low)
        )


def test_a_network_against_itself_differs_by_nothing_with_p_one():
    better, _, truth, people = two_networks(1)
    for found in (
        difference_of(better, better, truth, people),
        delong(better[:, 0], 3 * better[:, 0] + 1, truth),  # the same order
    ):
        assert (found.value, found.p) == (0, 1)
        assert (found.interval.low, found.interval.high) == (0, 0)


def test_bootstrap_and_delong_agree_when_every_patient_has_one_image():
    better, worse, truth, people = two_networks(5, patients=300, films=1)
    bootstrap = difference_of(better, worse, truth, people, resamples=2000)
    formula = delong(better[:, 0], worse[:, 0], truth)
    assert bootstrap.value == pytest.approx(formula.value)
    assert bootstrap.interval.low == pytest.approx(formula.interval.low, abs=0.01)
    assert bootstrap.interval.high == pytest.approx(formula.interval.high, abs=0.01)


def test_delong_s_interval_is_cut_where_no_difference_can_lie_and_says_so():
    truth = np.array([True, True, True, False, False, False])
    right, wrong = np.array([0.6, 0.8, 0.9, 0.3, 0.5, 0.7]), np.array([0.2, 0.4, 0.1, 0.6, 0.3, 0.9])
    forth, back = delong(right, wrong, truth), delong(wrong, right, truth)
    assert (forth.interval.high, forth.interval.method) == (1.0, "DeLong, cut at 1")
    assert (back.interval.low, back.interval.method) == (-1.0, "DeLong, cut at -1")
    assert forth.interval.low == -back.interval.high < forth.value
    assert forth.test == back.test == "DeLong"
    better, worse, truth, _ = two_networks(5, films=1)
    assert delong(better[:, 0], worse[:, 0], truth).interval.method == "DeLong"


def test_delong_of_copied_images_is_too_sure_of_itself():
    better, worse, truth, people = two_networks(7, films=1)
    once = delong(better[:, 0], worse[:, 0], truth)
    copied = delong(*(np.repeat(scores[:, 0], 8) for scores in (better, worse)), np.repeat(truth, 8))
    clustered = difference_of(
        *(np.repeat(scores, 8, axis=0) for scores in (better, worse)),
        np.repeat(truth, 8),
        np.repeat(people, 8),
    )
    assert copied.p < once.p / 10
    assert clustered.interval == difference_of(better, worse, truth, people).interval


def test_what_one_positive_cannot_show_is_nan():
    found = delong(np.array([0.9, 0.1, 0.2]), np.array([0.1, 0.2, 0.3]), np.array([True, False, False]))
    assert found.value == 1.0
    assert math.isnan(found.p)
    assert math.isnan(found.interval.low)
    areas, _ = delong_covariance(np.array([[0.9, 0.1]]), np.array([False, False]))
    assert math.isnan(areas[0])
    perfect = delong(np.arange(6.0), -np.arange(6.0), np.arange(6) >= 3)  # 1 against 0, without variance
    assert (perfect.value, math.isnan(perfect.p)) == (1, True)
    assert math.isnan(paired_difference(0.5, math.nan, np.ones(9), np.full(9, math.nan), 5).p)


def test_resamples_without_a_positive_are_left_out_of_a_difference_and_counted():
    found = difference_of(
        np.array([[0.9], [0.2], [0.3]]),
        np.array([[0.1], [0.2], [0.3]]),
        np.array([True, False, False]),
        list("abc"),
    )
    labels, people = np.array([[1.0], [0], [0]]), list("abc")
    alone = ranking_intervals(np.array([[0.9], [0.2], [0.3]]), labels, people, 400)
    assert found.interval.undefined == alone.auroc[0].undefined > 0


def test_any_metric_with_weights_is_drawn_like_the_fast_ones():
    better, worse, truth, people = two_networks(2)
    labels = truth[:, None].astype(np.float64)
    chances = [1 / (1 + np.exp(-scores[:, 0])) for scores in (better, worse)]
    slow = metric_draws(lambda w: roc_auc_score(truth, better[:, 0], sample_weight=w), people, 50)
    np.testing.assert_allclose(slow, ranking_draws(better, labels, people, 50)[0, 0], atol=1e-9)
    brier = [
        metric_draws(lambda w, c=c: brier_score_loss(truth, c, sample_weight=w), people, 50) for c in chances
    ]
    quick = [mean_draws((c - truth) ** 2, people, 50) for c in chances]
    np.testing.assert_allclose(brier, quick, atol=1e-9)


def test_the_mean_of_a_resample_is_over_the_findings_that_it_defines():
    draws = np.array([[0.8, np.nan, np.nan], [0.6, 0.4, np.nan], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(macro_draws(draws), [0.7, 0.4, np.nan])
    assert partial_resamples(draws) == 1  # the last has none: it is left out


def rare(seed, patients=120):
    """Two findings that many have, two that one or two patients have, and two equally good networks."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((patients, 4)) < [0.3, 0.2, 0.0, 0.0]).astype(np.float64)
    labels[:1, 2] = labels[:2, 3] = 1
    noise, shift = rng.standard_normal(labels.shape), labels * [1.0, 1.0, 2.0, -1.0]
    scores = [noise + 0.6 * rng.standard_normal(labels.shape) + shift for _ in range(2)]
    return scores, labels, np.array([f"p{number}" for number in range(patients)])


def test_a_rare_finding_leaves_no_resample_out_of_a_mean_or_of_a_difference_of_means():
    scores, labels, people = rare(0)
    single = ranking_intervals(scores[0], labels, people, 300)
    ground = Ground(labels, people, False, 300, 0, np.ones(4, dtype=bool))
    cut = [np.full(4, 0.5)]
    networks = [score_network([each], cut, np.ones(4, dtype=bool), ground) for each in scores]
    paired = mean_differences(*networks, ground)["mauc"]
    lacking = np.isnan(networks[0].auroc_draws).any(axis=0).sum()
    for interval in (single.macro_auroc, networks[0].intervals(ground)[1]["mauc"], paired.interval):
        assert (interval.undefined, interval.partial) == (0, lacking)
    assert 0.3 < lacking / 300 < 0.6
    assert paired.least_p == 2 / 301
    assert single.auroc[2].undefined > 0  # a finding by itself cannot have a value there


def test_a_mean_difference_of_equal_networks_is_rarely_called_one_with_rare_findings():
    false_alarms = {"left out": 0, "over the others": 0}
    for seed in range(60):
        scores, labels, people = rare(seed)
        draws = [ranking_draws(each, labels, people, 100)[0] for each in scores]
        values = [aurocs(each, labels).mean() for each in scores]
        for name, mean in (("left out", lambda table: table.mean(axis=0)), ("over the others", macro_draws)):
            found = paired_difference(*values, *(mean(each) for each in draws), len(people))
            false_alarms[name] += found.p <= 0.05
    assert false_alarms["over the others"] <= 6 < 10 <= false_alarms["left out"]


def test_a_finding_of_few_patients_has_a_difference_and_an_interval_and_no_p():
    scores, labels, people = rare(1)
    learned = np.array([True, False, True, True])
    for films in (1, 2):  # DeLong's test, and resampled patients
        repeated = [np.repeat(each, films, axis=0) for each in (*scores, labels)]
        ground = Ground(repeated[2], np.repeat(people, films), False, 99, 0, learned)
        networks = [score_network([repeated[0]], [np.full(4, 0.5)], np.ones(4, dtype=bool), ground)]
        networks.append(score_network([repeated[1]], [np.full(4, 0.5)], learned, ground))
        common, unlearned, one, two = finding_differences(*networks, ground)
        assert common.p <= 1
        for few in (one, two):
            assert math.isnan(few.p)
            assert few.test == "none: fewer than 5 patients"
            assert few.interval.low <= few.value <= few.interval.high
        assert math.isnan(unlearned.value)
        assert unlearned.test == "none: not learned by both"
        assert [network.entered for network in networks] == [3, 3]
        assert networks[0].means["mauc"] == pytest.approx(networks[0].auroc[learned].mean())


def test_holm_multiplies_the_smallest_by_all_and_never_falls():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.4, math.nan, 0.9]), [0.8, math.nan, 0.9])
    assert len(holm([])) == 0


def test_scores_that_do_not_belong_together_are_refused():
    with pytest.raises(DataError, match=r"Scores are \(2, 3\) and positives \(2,\)"):
        delong(np.zeros(3), np.zeros(3), np.zeros(2, bool))
    with pytest.raises(DataError, match="1 scores are NaN; a NaN has no rank"):
        delong(np.array([0.1, math.nan]), np.zeros(2), np.array([True, False]))

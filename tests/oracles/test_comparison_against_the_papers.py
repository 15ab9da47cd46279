"""DeLong's test against its formulas written out pair by pair, and against a published example."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from evax.evaluation.comparison import delong, delong_covariance, holm

EXACT = 1e-9

# DeLong, DeLong and Clarke-Pearson 1988: ovarian cancer, 43 patients with all three values. The table and the
# results below are printed in SAS/STAT 14.1 User's Guide, PROC LOGISTIC, "Comparing Receiver Operating
# Characteristic Curves". Albumin, total protein, K-G score, and whether surgery helped.
OVARIAN = """
3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0   2.5 5.7  8 0
1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1   4.1 6.6  5 1   3.6 5.7  5 1
4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0   4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1
3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1   3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1
3.2 5.1  5 1   2.6 4.7  6 1   3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1
3.5 6.2  5 1   2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
3.6 6.6  5 1
"""
PUBLISHED_AREAS = {"albumin": (0.7366, 0.0927), "protein": (0.6478, 0.1000), "k-g": (0.7258, 0.1028)}
PUBLISHED_DIFFERENCES = {  # minus K-G score: estimate, 95 % limits, p
    "albumin": (0.0108, -0.1761, 0.1976, 0.9102),
    "protein": (-0.0780, -0.2830, 0.1271, 0.4561),
}


@pytest.fixture(scope="module")
def ovarian():
    albumin, protein, score, helped = np.array(OVARIAN.split(), dtype=np.float64).reshape(-1, 4).T
    return {"albumin": albumin, "protein": protein, "k-g": 10 - score}, helped == 1


def pair_by_pair(scores, positives):
    """Eq. (1)-(6) of the paper: psi for every pair, components, their covariances."""

    def psi(x, y):
        return 1.0 if x > y else 0.5 if x == y else 0.0

    yes, no = scores[:, positives], scores[:, ~positives]
    table = np.array([[[psi(x, y) for y in ys] for x in xs] for xs, ys in zip(yes, no, strict=True)])
    areas, v10, v01 = table.mean(axis=(1, 2)), table.mean(axis=2), table.mean(axis=1)
    m, n = yes.shape[1], no.shape[1]
    s10 = (v10 - areas[:, None]) @ (v10 - areas[:, None]).T / (m - 1)
    s01 = (v01 - areas[:, None]) @ (v01 - areas[:, None]).T / (n - 1)
    return areas, s10 / m + s01 / n


def test_areas_and_errors_are_those_of_the_published_example(ovarian):
    scores, helped = ovarian
    areas, covariance = delong_covariance(np.stack(list(scores.values())), helped)
    for name, area, variance in zip(scores, areas, np.diag(covariance), strict=True):
        assert (area, np.sqrt(variance)) == pytest.approx(PUBLISHED_AREAS[name], abs=5e-5)


@pytest.mark.parametrize("name", PUBLISHED_DIFFERENCES)
def test_differences_intervals_and_p_are_those_of_the_published_example(ovarian, name):
    scores, helped = ovarian
    found = delong(scores[name], scores["k-g"], helped)
    numbers = (found.value, found.interval.low, found.interval.high, found.p)
    assert numbers == pytest.approx(PUBLISHED_DIFFERENCES[name], abs=5.1e-5)


def test_the_published_example_agrees_with_the_formulas_pair_by_pair(ovarian):
    scores, helped = ovarian
    table = np.stack(list(scores.values()))
    for ours, theirs in zip(delong_covariance(table, helped), pair_by_pair(table, helped), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=EXACT)


@given(st.integers(0, 10_000), st.integers(2, 25), st.integers(2, 25), st.booleans())
@settings(max_examples=30, deadline=None)
def test_midranks_give_what_comparing_every_pair_gives(seed, m, n, ties):
    rng = np.random.default_rng(seed)
    positives = rng.permutation(np.arange(m + n) < m)
    scores = rng.standard_normal((3, m + n)) + positives
    scores = np.round(scores) if ties else scores
    areas, covariance = delong_covariance(scores, positives)
    expected, expected_covariance = pair_by_pair(scores, positives)
    np.testing.assert_allclose(areas, expected, atol=EXACT)
    np.testing.assert_allclose(covariance, expected_covariance, atol=EXACT)
    assert areas[0] == pytest.approx(roc_auc_score(positives, scores[0]), abs=EXACT)
    found, error = delong(scores[0], scores[1], positives), None
    variance = np.array([1, -1]) @ expected_covariance[:2, :2] @ np.array([1, -1])
    if variance > 1e-12:
        error = np.sqrt(variance)
        assert found.p == pytest.approx(2 * norm.cdf(-abs(expected[0] - expected[1]) / error), abs=EXACT)
        high = expected[0] - expected[1] + norm.ppf(0.975) * error
        assert found.interval.high == pytest.approx(min(high, 1), abs=EXACT)  # no difference is above 1


@given(st.lists(st.floats(0, 1) | st.just(np.nan), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_holm_rejects_what_stepping_down_rejects_at_every_level(p_values):
    adjusted = holm(p_values)
    tested = sorted(p for p in p_values if not np.isnan(p))
    for level in (0.01, 0.05, 0.3, 0.9):
        rejected = []
        for step, p in enumerate(tested):  # the paper's procedure, one hypothesis after the other
            if p * (len(tested) - step) > level:
                break
            rejected.append(p)
        assert sorted(p for p, a in zip(p_values, adjusted, strict=True) if a <= level) == rejected
    assert [np.isnan(a) for a in adjusted] == [np.isnan(p) for p in p_values]

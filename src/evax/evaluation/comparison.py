"""Whether one network is better than another on the same films: DeLong's test, paired bootstrap, Holm.

Shape legend: S cases, N networks, R resamples, m positives, n negatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm, rankdata

from evax.errors import DataError
from evax.evaluation.classification import Flags, Floats, Reals
from evax.evaluation.intervals import LEVEL, Interval, cut_at, percentile_interval


@dataclass(frozen=True)
class Difference:
    """A number of one network minus that of another on the same images."""

    value: float
    interval: Interval
    p: float
    """Two-sided, of no difference; NaN where it is undefined."""
    test: str
    """How p was computed."""
    least_p: float = math.nan
    """The smallest p that so many resamples can give; NaN for a test by formula, which has no such floor."""


def delong(first: Reals, second: Reals, positives: Flags, level: float = LEVEL) -> Difference:
    """AUROC of the first network minus that of the second, by DeLong's test for correlated curves.

    first, second: (S,) scores of the same cases, higher means more suspicious. positives: (S,).
    It counts cases as independent: where a patient has several images, p and the interval are too small; use
    `paired_difference` there. With fewer than two positives or negatives, or without any variance between
    different areas, nothing is defined; scores that rank alike differ by 0 with p = 1. An interval that
    reaches beyond -1 or 1 is cut there, as its method then says.
    """
    areas, covariance = delong_covariance(np.stack([first, second]), positives)
    value = float(areas[0] - areas[1])
    method = "DeLong"
    if np.isnan(covariance).any():
        return Difference(value, Interval(math.nan, math.nan, level, method, 0), math.nan, method)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    # rounding leaves about 1e-17 of a variance of zero
    error = math.sqrt(variance) if variance > 1e-15 else 0.0
    half = float(norm.ppf((1 + level) / 2)) * error
    alike = 1.0 if abs(value) < 1e-12 else math.nan
    p = 2 * float(norm.sf(abs(value) / error)) if error > 0 else alike
    interval = cut_at((-1.0, 1.0), Interval(value - half, value + half, level, method, 0))
    return Difference(value, interval, p, method)


def delong_covariance(scores: Reals, positives: Flags) -> tuple[Floats, Floats]:
    """AUROC of several networks on the same cases, and the covariance of these areas.

    scores: (N, S), higher means more suspicious. positives: (S,).
    Returns (N,), NaN when a group is empty, and (N, N), NaN with fewer than two positives or negatives.
    Source: DeLong, DeLong and Clarke-Pearson 1988, Eq. (2)-(6), from midranks as in Sun and Xu 2014: a case's
    rank among all minus its rank in its own group counts the cases of the other group below it.
    """
    if scores.ndim != 2 or positives.dtype != np.bool_ or scores.shape[1:] != positives.shape:
        raise DataError(
            f"Scores are {scores.shape} and positives {positives.shape} of {positives.dtype}; "
            "expected (networks, cases) and (cases,), positives boolean."
        )
    if np.isnan(scores).any():
        raise DataError(f"{int(np.isnan(scores).sum())} scores are NaN; a NaN has no rank.")
    networks, m = len(scores), int(positives.sum())
    n = len(positives) - m
    if m == 0 or n == 0:
        return np.full(networks, math.nan), np.full((networks, networks), math.nan)
    ranks = rankdata(scores, axis=1)  # (N, S), ties share their mean rank
    below = ranks[:, positives] - rankdata(scores[:, positives], axis=1)  # (N, m): negatives below, ties half
    above = ranks[:, ~positives] - rankdata(scores[:, ~positives], axis=1)  # (N, n): positives below
    of_positives, of_negatives = below / n, 1 - above / m  # the paper's V10 and V01, "structural components"
    areas = of_positives.mean(axis=1)
    if m < 2 or n < 2:
        return areas, np.full((networks, networks), math.nan)
    covariance = (
        np.cov(of_positives).reshape(networks, -1) / m + np.cov(of_negatives).reshape(networks, -1) / n
    )
    return areas, covariance


def paired_difference(
    first: float,
    second: float,
    first_draws: Floats,
    second_draws: Floats,
    patients: int,
    level: float = LEVEL,
) -> Difference:
    """A number of the first network minus that of the second, by a bootstrap of the patients.

    first, second: the numbers on all images. *_draws: (R,), the same in each resample, drawn with the same
    patients, resamples and seed (`ranking_draws`, `mean_draws`, `metric_draws`): the pairing is what makes
    the interval of a difference shorter than those of its two numbers. patients: how many there are.
    A resample in which one of the two is undefined is left out and counted; with n that are not, p is
    2 (tail + 1) / (n + 1), where tail counts the differences on the rarer side of 0. The ends of the interval
    are the differences whose own p is the largest below 1 - level, so that p <= 1 - level exactly where the
    interval leaves out 0. Too few resamples for such a p, 38 at 95 %, give no interval.
    Source: ends at the k-th of the sorted values, k = (n + 1) (1 - level) / 2, Davison and Hinkley 1997, 5.3.
    """
    differences = first_draws - second_draws
    value, method = float(first - second), "patient-clustered bootstrap, paired"
    interval = percentile_interval(differences, patients, level)
    if math.isnan(value) or math.isnan(interval.low):
        return Difference(value, interval, math.nan, method)
    defined = np.sort(differences[~np.isnan(differences)])
    tail = min(np.sum(defined <= 0), np.sum(defined >= 0))
    least = 2 / (len(defined) + 1)
    p = min(1.0, (int(tail) + 1) * least)
    outside = math.floor((1 - level) / least + 1e-9)  # 0.05 is no number of the machine's
    ends = (defined[outside - 1], defined[-outside]) if outside else (math.nan, math.nan)
    interval = replace(interval, low=float(ends[0]), high=float(ends[1]))
    return Difference(value, interval, p, method, least)


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """P values adjusted for being looked at together: the chance of one false alarm among them stays small.

    p_values: any number of them; NaN, a test that could not be done, stays NaN and counts for nothing.
    Returns one per value, in the order given, in [0, 1]. Source: Holm 1979.
    """
    given = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(given.shape, math.nan)
    places = np.flatnonzero(~np.isnan(given))
    order = places[np.argsort(given[places], kind="stable")]
    steps = given[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted

"""Percentile intervals of a patient-clustered bootstrap.

Patients are drawn with replacement and bring all their images. A drawn set is a whole-number weight per
patient, so one sort per finding serves every resample. The intervals speak of other patients for the same
network; the spread over training seeds is another thing.

Few positive patients make percentile intervals too short. Measured for a true AUROC of 0.76, 200 patients and
400 repetitions: with 3, 5, 10, 20, 50 positives the 95 % interval held it in 76, 85, 91, 95, 95 % of them.

Shape legend: S cases, K findings, P patients, R resamples, G tie groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import t

from evax.errors import ConfigError, DataError
from evax.evaluation.classification import Flags, Floats, Integers, Reals, check_cases

RESAMPLES = 2000
LEAST_RUNS = 3  # of two runs, 95 % by Student's t are 12.7 standard errors: outside what a score can be
LEVEL = 0.95
BLOCK = 64  # resamples computed together: 64 weights for each of 25 000 patients are 13 MB


@dataclass(frozen=True)
class Interval:
    """Where a number would fall for other patients; NaN when no resample defines it or for one patient."""

    low: float
    high: float
    level: float
    method: str
    undefined: int
    """Resamples left out because the number was undefined in them."""
    partial: int = 0
    """Of a mean: resamples in which some of its findings were undefined, and the mean is over the others."""


def ranking_draws(
    scores: Reals,
    labels: Reals,
    patients: Sequence[str] | NDArray[Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floats:
    """AUROC and average precision of every finding in every resample.

    scores: (S, K), higher means more suspicious. labels: (S, K), 1, 0 or NaN. patients: (S,), never "".
    Returns (2, K, R), NaN where a resample lacks positives or negatives. The same patients, resamples and
    seed draw the same people whatever the scores: two networks' results are paired, resample by resample.
    """
    check_cases(scores, labels)
    owner, n_patients = _number_patients(patients, len(scores))
    rankings = [
        _Ranking.of(column[seen], truth[seen] == 1, owner[seen], n_patients)
        for column, truth, seen in zip(scores.T, labels.T, ~np.isnan(labels).T, strict=True)
    ]
    blocks = [
        np.stack([ranking.evaluate(weights) for ranking in rankings], axis=1)
        for weights in patient_weights(n_patients, resamples, seed)
    ]
    return np.concatenate(blocks, axis=2)


def macro_draws(draws: Floats) -> Floats:
    """The mean over the findings that each resample defines, as that of the whole set is over its own.

    draws: (..., K, R), NaN where a resample lacks positives or negatives of a finding. Returns (..., R), NaN
    where it lacks them of all. Which findings those are is a matter of the labels alone, so two networks are
    averaged over the same ones in every resample.
    """
    known = ~np.isnan(draws)
    return _divide(np.where(known, draws, 0.0).sum(axis=-2), known.sum(axis=-2).astype(np.float64))


def partial_resamples(draws: Floats) -> int:
    """In how many resamples the mean is over fewer findings than can be had; draws: (K, R)."""
    missing = np.isnan(draws[~np.isnan(draws).all(axis=1)])
    return int((missing.any(axis=0) & ~missing.all(axis=0)).sum())


def macro_interval(draws: Floats, patients: int, level: float = LEVEL) -> Interval:
    """Interval of the mean over findings. draws: (K, R). patients: how many were drawn from."""
    interval = percentile_interval(macro_draws(draws), patients, level)
    return replace(interval, partial=partial_resamples(draws))


def metric_draws(
    metric: Callable[[Floats], float],
    patients: Sequence[str] | NDArray[Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floats:
    """Any number of a set of images in every resample, one after the other.

    metric: takes how often each image was drawn, (S,) whole numbers from 0, and returns the number, NaN where
    it is undefined; scikit-learn's metrics take them as `sample_weight`. patients: (S,), never "".
    Returns (R,), paired with what the other functions here draw.
    """
    owner, n_patients = _number_patients(patients, len(patients))
    blocks = patient_weights(n_patients, resamples, seed)
    return np.array([metric(weights[owner]) for block in blocks for weights in block.T])


def mean_interval(
    values: Reals | Flags,
    patients: Sequence[str] | NDArray[Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Interval of a mean of per-case values (a hit rate, an IoU), or of the mean of several such means.

    values: (S,) or (S, K), NaN = left out; of K columns each is averaged over its cases, then the columns are
    averaged. patients: (S,), never "". level: share of the resamples inside, in (0, 1).
    Columns without a value do not enter, neither in the whole set nor in a resample, see `macro_draws`.
    """
    draws = column_draws(values, patients, resamples, seed)
    return macro_interval(draws, len(np.unique(np.asarray(patients, dtype=np.str_))), level)


def mean_draws(
    values: Reals | Flags,
    patients: Sequence[str] | NDArray[Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floats:
    """The mean behind `mean_interval` in every resample, (R,); arguments as there."""
    return macro_draws(column_draws(values, patients, resamples, seed))


def column_draws(
    values: Reals | Flags,
    patients: Sequence[str] | NDArray[Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floats:
    """The mean of each column in every resample, (K, R), NaN where it has no value; as in `mean_interval`."""
    table = values.astype(np.float64).reshape(len(values), -1)  # (S, K)
    owner, n_patients = _number_patients(patients, len(table))
    known = ~np.isnan(table)
    films_of = csr_array(
        (np.ones(len(owner)), (owner, np.arange(len(owner)))), shape=(n_patients, len(owner))
    )
    sums, counts = films_of @ np.where(known, table, 0.0), films_of @ known.astype(np.float64)  # (P, K) each
    drawn = [
        _divide(weights.T @ sums, weights.T @ counts).T
        for weights in patient_weights(n_patients, resamples, seed)
    ]
    return np.concatenate(drawn, axis=1)


def seed_interval(
    values: Reals,
    level: float = LEVEL,
    over: str = "seeds",
    within: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Where the mean over all training seeds would lie, judged from a few of them (Student's t).

    It speaks of other trainings on the same images; the intervals above speak of other patients.
    values: (seeds,), one result per seed, NaN = left out. Fewer than LEAST_RUNS give NaN, as the method says.
    over: what the values are of, for the name of the method. Folds share training images, so for them it is
    too short: their results are not independent (Bengio and Grandvalet 2004). within: where such values can
    lie at all; an interval that reaches further is cut there, as the method then says.
    """
    defined = values[~np.isnan(values)]
    left_out, method = len(values) - len(defined), f"t-interval over {len(defined)} {over}"
    if len(defined) < LEAST_RUNS:
        method = f"none: fewer than {LEAST_RUNS} {over}"
        return Interval(math.nan, math.nan, level, method, left_out)
    half = float(t.ppf((1 + level) / 2, len(defined) - 1) * defined.std(ddof=1) / math.sqrt(len(defined)))
    low, high = float(defined.mean()) - half, float(defined.mean()) + half
    return cut_at(within, Interval(low, high, level, method, left_out))


def cut_at(within: tuple[float, float], interval: Interval) -> Interval:
    """An interval by formula, which may reach further than such values can; cut there, its method says so."""
    ends = ((within[0], interval.low < within[0]), (within[1], interval.high > within[1]))
    beyond = [f"{end:g}" for end, reached in ends if reached]
    if not beyond:
        return interval
    low, high = max(interval.low, within[0]), min(interval.high, within[1])
    return replace(interval, low=low, high=high, method=f"{interval.method}, cut at {' and '.join(beyond)}")


def patient_weights(patients: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each patient is drawn in each resample, in blocks (patients, at most BLOCK resamples).

    The numbers depend on the three arguments only, not on the size of a block.
    """
    if resamples < 1:
        raise ConfigError(f"An interval needs at least one resample, got {resamples}; {RESAMPLES} are usual.")
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, BLOCK):
        draws = [generator.integers(patients, size=patients) for _ in range(min(BLOCK, resamples - start))]
        yield np.stack([np.bincount(draw, minlength=patients) for draw in draws], axis=1).astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Ranking:
    """One finding's cases, sorted once: how many of each patient's images fall between which positives.

    Only tie groups that hold a positive matter, from the highest score to the lowest. All entries are whole
    numbers, so every count is exact and equals the one over the written-out resample.
    """

    positives: csr_array  # (G, P): positives in the group
    tied: csr_array  # (G, P): negatives in the group
    negatives: csr_array  # (G + 1, P): negatives in the group, or between it and the next higher one

    @classmethod
    def of(cls, scores: Reals, positives: Flags, owner: Integers, patients: int) -> _Ranking:
        rank = np.unique(-scores, return_inverse=True)[1]  # 0 is the highest score; equal scores share a rank
        groups = np.unique(rank[positives])
        place = np.searchsorted(groups, rank)  # the first group at or below each case
        tied = ~positives & np.isin(rank, groups)

        def counts(which: Flags, rows: int) -> csr_array:
            return csr_array((np.ones(which.sum()), (place[which], owner[which])), shape=(rows, patients))

        rows = len(groups)  # one more row of negatives: those below every positive
        return cls(counts(positives, rows), counts(tied, rows), counts(~positives, rows + 1))

    def evaluate(self, weights: Floats) -> Floats:
        """weights: (P, R). Returns (2, R): AUROC and average precision, NaN where a group is empty."""
        gained = self.positives @ weights  # (G, R)
        false_above = np.cumsum(self.negatives @ weights, axis=0)  # (G + 1, R): at or above each group
        n_positive, n_negative = gained.sum(axis=0), false_above[-1]
        false_above = false_above[:-1]
        won = np.sum(gained * (n_negative - false_above + self.tied @ weights / 2), axis=0)
        above = np.cumsum(gained, axis=0)
        # a group that nobody drew has no precision and gains nothing
        precision = np.divide(above, above + false_above, out=np.zeros_like(above), where=gained > 0)
        auroc = _divide(won, n_positive * n_negative)
        average_precision = _divide(np.sum(gained * precision, axis=0), n_positive * (n_negative > 0))
        return np.stack([auroc, average_precision])


def _number_patients(patients: Sequence[str] | NDArray[Any], cases: int) -> tuple[Integers, int]:
    """Each case's patient as a number (S,), and how many patients there are."""
    names = np.asarray(patients, dtype=np.str_)
    if cases == 0 or names.shape != (cases,):
        raise DataError(f"{len(names)} patients were given for {cases} cases; give one patient per case.")
    if (names == "").any():
        raise DataError(
            f"{int((names == '').sum())} of {cases} cases have no patient; they would count as one person. "
            "If each image is another person, use the image's name as the patient."
        )
    known, owner = np.unique(names, return_inverse=True)
    return owner.astype(np.int64), len(known)


def _divide(part: Floats, whole: Floats) -> Floats:
    ratio: Floats = np.divide(part, whole, out=np.full(part.shape, math.nan), where=whole > 0)
    return ratio


def percentile_interval(values: Floats, patients: int, level: float = LEVEL) -> Interval:
    """The middle share of a bootstrap.

    values: (R,), one per resample, NaN = undefined. patients: how many were drawn from; one shows no spread.
    """
    if not 0 < level < 1:
        raise ConfigError(f"The level of an interval lies between 0 and 1, got {level}.")
    method = f"patient-clustered bootstrap, percentile, {len(values)} resamples"
    defined = values[~np.isnan(values)]
    if defined.size == 0 or patients == 1:  # one patient drawn again and again shows no spread
        return Interval(math.nan, math.nan, level, method, len(values))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, method, len(values) - defined.size)

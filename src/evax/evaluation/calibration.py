"""Whether a probability of 0.2 comes true in 20 of 100 cases: reliability curve, ECE, Brier score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from evax.errors import DataError
from evax.evaluation.classification import Flags, Floats, Integers, Reals

BINS = 10


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """One entry per bin that holds a case, from low to high probability; all arrays have the same length."""

    predicted: Floats
    """Mean probability of the bin."""
    observed: Floats
    """Share of its cases that are positive."""
    low: Floats
    high: Floats
    """Wilson 95 % interval of the observed share; it counts films as independent."""
    count: Integers


def reliability_curve(probabilities: Reals, positives: Flags, bins: int = BINS) -> ReliabilityCurve:
    """Predicted against observed frequency in bins of (nearly) equal numbers of cases.

    probabilities: (S,) in [0, 1]. positives: (S,). bins: at least 1.
    Equal numbers rather than equal widths: most findings are rare, and upper bins of equal width would be
    empty or hold a handful of cases. Equal probabilities always share a bin (the one of their mean rank), so
    the order of the cases changes nothing; many ties make fewer bins.
    """
    _check(probabilities, positives)
    if bins < 1:
        raise DataError(f"A reliability curve needs at least one bin, got {bins}; {BINS} are usual.")
    _, inverse, ties = np.unique(probabilities, return_inverse=True, return_counts=True)
    mean_rank = (np.cumsum(ties) - ties / 2)[inverse]  # (S,) in (0, S), averaged over ties
    numbers = np.floor(mean_rank * bins / max(len(probabilities), 1)).astype(np.int64)
    _, place = np.unique(numbers, return_inverse=True)
    count = np.bincount(place)
    positive = np.bincount(place, weights=positives)
    wilson = [
        binomtest(int(hits), int(cases)).proportion_ci(0.95, method="wilson")
        for hits, cases in zip(positive, count, strict=True)
    ]
    return ReliabilityCurve(
        predicted=np.bincount(place, weights=probabilities.astype(np.float64)) / count,
        observed=positive / count,
        low=np.array([interval.low for interval in wilson]),
        high=np.array([interval.high for interval in wilson]),
        count=count.astype(np.int64),
    )


def expected_calibration_error(probabilities: Reals, positives: Flags, bins: int = BINS) -> float:
    """Mean distance between predicted and observed frequency over the cases, bin by bin (ECE).

    probabilities: (S,) in [0, 1]. positives: (S,).
    Returns a value in [0, 1], or NaN without cases. On few cases a calibrated model has an error above 0 too.
    Source: Naeini et al. 2015, with the equal-mass bins of Nguyen and O'Connor 2015.
    """
    curve = reliability_curve(probabilities, positives, bins)
    if len(curve.count) == 0:
        return math.nan
    return float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.count))


def brier_score(probabilities: Reals, positives: Flags) -> float:
    """Mean squared distance between probability and truth; always answering the prevalence p gives p (1 - p).

    probabilities: (S,) in [0, 1]. positives: (S,).
    Returns a value in [0, 1], or NaN without cases. Source: Brier 1950.
    """
    _check(probabilities, positives)
    if len(positives) == 0:
        return math.nan
    return float(np.mean((probabilities.astype(np.float64) - positives) ** 2))


def _check(probabilities: Reals, positives: Flags) -> None:
    if positives.dtype != np.bool_ or probabilities.ndim != 1 or probabilities.shape != positives.shape:
        raise DataError(
            f"Probabilities are {probabilities.shape} and positives {positives.shape} of {positives.dtype}; "
            "both must be (cases,), positives boolean."
        )
    outside = ~((probabilities >= 0) & (probabilities <= 1))  # NaN is outside as well
    if outside.any():
        raise DataError(
            f"{int(outside.sum())} of {len(outside)} probabilities are not in [0, 1] "
            f"(first: {float(probabilities[outside][0]):g}). Pass sigmoid or softmax outputs, not logits."
        )

"""Whether a probability of 0.2 comes true in 20 of 100 cases: reliability curve, ECE, Brier score."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from scipy.stats import binomtest
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss

from evax.errors import DataError, unknown_name
from evax.evaluation.classification import Flags, Floats, Integers, Reals, check_cases

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
    """Wilson 95 % interval of the observed share; it counts images as independent."""
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
    return float(brier_score_loss(positives, probabilities.astype(np.float64), pos_label=True))


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


Method = Literal["temperature", "platt", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)
EDGE = 1e-7  # probabilities of exactly 0 or 1 have no finite logit; float32 knows no closer neighbour of 1
HOTTEST = 100.0  # temperatures are sought in [1 / HOTTEST, HOTTEST]


@dataclass(frozen=True, eq=False)
class Calibrator:
    """What was learned from the validation images; applied to those of any other split."""

    method: Method
    parameters: tuple[tuple[float, ...], ...]
    """(temperature,) once, or (slope, intercept) per finding, or none for isotonic; NaN where undefined."""
    curves: tuple[Callable[[Floats], Floats], ...]
    """Per finding, probability in, probability out; the identity where a finding lacks a group. None for a
    temperature.
    """
    exclusive: bool

    def apply(self, probabilities: Reals) -> Floats:
        """probabilities: (S, K) in [0, 1], of the network that was fitted. Returns (S, K)."""
        given = probabilities.astype(np.float64)
        if self.method == "temperature":
            return with_temperature(given, self.parameters[0][0], self.exclusive)
        new = np.stack([curve(column) for curve, column in zip(self.curves, given.T, strict=True)], axis=1)
        if not self.exclusive:
            return new
        total = new.sum(axis=1, keepdims=True)
        equal = np.full_like(new, 1 / new.shape[1])  # where no finding is possible any more
        return np.divide(new, total, out=equal, where=total > 0)


def fit_calibrator(method: Method, probabilities: Reals, labels: Reals, exclusive: bool) -> Calibrator:
    """Learns to correct probabilities on images that chose nothing else, or on the validation images.

    probabilities: (S, K) in [0, 1]. labels: (S, K), 1, 0 or NaN; exactly one 1 per row when exclusive.
    temperature: one number for all findings divides the logits (Guo et al. 2017). platt: slope and intercept
    per finding, with Platt's targets that keep few images from being believed fully (Platt 1999). isotonic:
    any rising step curve per finding (Zadrozny and Elkan 2002); it wants hundreds of positive images.
    Exclusive findings are fitted one against the rest by the last two, and divided by their sum.
    A finding without positives or negatives keeps its probabilities.
    """
    if method not in METHODS:
        raise unknown_name("calibration", method, METHODS)
    check_cases(probabilities, labels)
    given = probabilities.astype(np.float64)
    known = ~np.isnan(labels)
    if method == "temperature":
        if not known.any():
            raise DataError("No label is known: there is nothing to fit a temperature to; label some images.")
        return Calibrator(method, ((fit_temperature(given, labels, exclusive),),), (), exclusive)
    parameters: list[tuple[float, ...]] = []
    found: list[Callable[[Floats], Floats]] = []
    for column, truth, seen in zip(given.T, labels.T, known.T, strict=True):
        scores, positives = column[seen], truth[seen] == 1
        if positives.all() or not positives.any():
            parameters.append((math.nan, math.nan) if method == "platt" else ())
            found.append(lambda probability: probability)
        elif method == "platt":
            parameters.append(_platt(scores, positives))
            found.append(_scaled(*parameters[-1]))
        else:
            regression = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
            parameters.append(())
            found.append(regression.fit(scores, positives.astype(np.float64)).predict)
    return Calibrator(method, tuple(parameters), tuple(found), exclusive)


def fit_temperature(probabilities: Reals, labels: Reals, exclusive: bool) -> float:
    """The temperature with the smallest log loss, on images that the network did not learn from.

    probabilities: (S,) of one finding or (S, K). labels: the same shape, 1, 0 or NaN; exactly one 1 per row
    when exclusive.
    Returns a value in (1 / HOTTEST, HOTTEST), above 1 where the network was too sure; NaN where there is
    nothing to fit: no label is known, all are alike, or the loss still falls at an end of the range, as where
    the few images are told apart without a mistake or not at all.
    Source: Guo et al. 2017; for a sigmoid the logit is divided, for a softmax all logits.
    """
    known = ~np.isnan(labels)
    alike = (labels == labels[:1]).all() if exclusive else len(np.unique(labels[known])) < 2
    if alike or not known.any():
        return math.nan
    if exclusive:
        logs, true = _log(probabilities), labels.argmax(axis=1)

        def loss(log_temperature: float) -> float:
            scaled = log_softmax(logs / math.exp(log_temperature), axis=1)
            return -float(scaled[np.arange(len(true)), true].mean())
    else:
        signed = logits_of(probabilities)[known] * np.where(labels[known] == 1, 1, -1)

        def loss(log_temperature: float) -> float:
            return float(np.logaddexp(0, -signed / math.exp(log_temperature)).mean())

    end = math.log(HOTTEST)
    found = minimize_scalar(loss, bounds=(-end, end), options={"xatol": 1e-10})
    return math.nan if abs(found.x) > end - 1e-3 else math.exp(found.x)


def with_temperature(probabilities: Reals, temperature: float, exclusive: bool) -> Floats:
    """The probabilities after their logits were divided; the order of the images within a finding stays, that
    of the findings within an image when exclusive.

    probabilities: as in `fit_temperature`. temperature: above 0; NaN leaves them as they are.
    """
    if math.isnan(temperature):
        return probabilities.astype(np.float64)
    scaled: Floats = (
        softmax(_log(probabilities) / temperature, axis=1)
        if exclusive
        else expit(logits_of(probabilities) / temperature)
    )
    return scaled


def with_temperatures(probabilities: Reals, temperatures: Reals, exclusive: bool) -> Floats:
    """Every finding after its own temperature, exclusive ones after the first, which they share.

    probabilities: (S, K). temperatures: (K,), see `with_temperature`.
    """
    if exclusive:
        return with_temperature(probabilities, float(temperatures[0]), True)
    columns = zip(probabilities.T, temperatures, strict=True)
    return np.stack([with_temperature(column, float(each), False) for column, each in columns], axis=1)


def logits_of(probabilities: Reals) -> Floats:
    """Finite logits of probabilities, which may be 0 or 1."""
    values: Floats = logit(np.clip(probabilities.astype(np.float64), EDGE, 1 - EDGE))
    return values


def _log(probabilities: Reals) -> Floats:
    """Finite logarithms, which are logits of a softmax."""
    values: Floats = np.log(np.maximum(probabilities.astype(np.float64), EDGE))
    return values


def _scaled(slope: float, intercept: float) -> Callable[[Floats], Floats]:
    return lambda probability: expit(slope * logits_of(probability) + intercept)


def _platt(scores: Floats, positives: Flags) -> tuple[float, float]:
    """Slope and intercept on the logits with the smallest log loss against Platt's targets."""
    n_positive = int(positives.sum())
    n_negative = len(positives) - n_positive
    target = np.where(positives, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    design = np.stack([logits_of(scores), np.ones(len(scores))], axis=1)  # (S, 2)

    def loss(line: Floats) -> float:
        values = design @ line
        return float(np.mean(np.logaddexp(0, values) - target * values))

    def gradient(line: Floats) -> Floats:
        slope: Floats = design.T @ (expit(design @ line) - target) / len(target)
        return slope

    def curvature(line: Floats) -> Floats:
        chance = expit(design @ line)
        bend: Floats = (design.T * (chance * (1 - chance))) @ design / len(target)
        return bend

    start = np.array([1.0, 0.0])
    found = minimize(loss, start, method="trust-exact", jac=gradient, hess=curvature, options={"gtol": 1e-11})
    return float(found.x[0]), float(found.x[1])

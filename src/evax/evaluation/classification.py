"""How well scores separate present from absent: AUROC, average precision, accuracies, operating points.

Shape legend: S cases, K findings, T thresholds. Labels are 1 present, 0 absent, NaN unknown (the case is left
out for that finding alone); uncertain labels (-1) are resolved before, when the table is loaded.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.exceptions import UndefinedMetricWarning

from evax.errors import DataError
from evax.evaluation.thresholds import YOUDEN, ThresholdRule

Reals = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Macro:
    """A mean over findings that says how many of them had a value."""

    value: float
    entered: int
    of: int


@dataclass(frozen=True)
class OperatingPoint:
    """What comes of calling every score at or above a threshold positive; NaN where a group is empty."""

    sensitivity: float
    specificity: float
    ppv: float
    npv: float
    accuracy: float


def macro_mean(values: Reals) -> Macro:
    """Mean over the findings that have a value.

    values: (K,), NaN where the finding is undefined.
    Source: EVA-X Eq. (8). The released code writes AUROC 0 for an undefined finding and then drops it unsaid.
    """
    defined = values[~np.isnan(values)]
    return Macro(float(defined.mean()) if defined.size else math.nan, int(defined.size), int(values.size))


def column_means(values: Reals) -> Floats:
    """Mean of each column without its NaN, (K,); NaN for a column of nothing else. values: (S, K)."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(count.shape, math.nan), where=count > 0)


def auroc(scores: Reals, positives: Flags) -> float:
    """Chance that a random positive case outranks a random negative one; ties count one half.

    scores: (S,), any real number, higher means more suspicious. Only the order matters. positives: (S,).
    Returns a value in [0, 1], or NaN when one of the two groups is empty.
    Source: area under TPR(FPR) of EVA-X Eq. (8).
    """
    _check_ranking(scores, positives)
    return (
        float(metrics.roc_auc_score(positives, scores)) if 0 < positives.sum() < len(positives) else math.nan
    )


def mean_auroc(scores: Reals, labels: Reals) -> Macro:
    """mAUC: the mean of the findings' AUROCs, each over the cases on which the finding is known.

    scores: (S, K). labels: (S, K), 1, 0 or NaN. Source: EVA-X Eq. (8).
    """
    return macro_mean(aurocs(scores, labels))


def aurocs(scores: Reals, labels: Reals) -> Floats:
    """The AUROC of each finding, (K,), NaN where it is undefined; arguments as in `mean_auroc`."""
    return np.array([auroc(*cases) for cases in known_cases(scores, labels)])


def known_cases(scores: Reals, labels: Reals) -> list[tuple[Reals, Flags]]:
    """Per finding, the scores of the cases on which it is known, and whether it is present there.

    scores: (S, K). labels: (S, K), 1, 0 or NaN.
    """
    check_cases(scores, labels)
    columns = zip(scores.T, labels.T, ~np.isnan(labels).T, strict=True)
    return [(score[seen], truth[seen] == 1) for score, truth, seen in columns]


def average_precision(scores: Reals, positives: Flags) -> float:
    """Precision averaged over the steps of recall, without interpolation.

    scores: (S,), higher means more suspicious. positives: (S,).
    Returns a value in (0, 1], or NaN when one of the two groups is empty: without negatives it would be 1
    whatever the scores, and its mean would be over other findings than the AUROC's. Chance is the prevalence.
    """
    _check_ranking(scores, positives)
    both = 0 < positives.sum() < len(positives)
    return float(metrics.average_precision_score(positives, scores)) if both else math.nan


def roc_curve(scores: Reals, positives: Flags) -> tuple[Floats, Floats, Floats]:
    """The corners of the ROC curve: false positive rate, true positive rate, threshold (score >= it).

    scores: (S,), higher means more suspicious. positives: (S,).
    Returns three arrays (T,) from (0, 0) at threshold infinity to (1, 1). A rate is NaN throughout when its
    group is empty.
    """
    _check_ranking(scores, positives)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # an empty group is NaN, as documented
        return metrics.roc_curve(positives, scores)


def operating_point(scores: Reals, positives: Flags, threshold: float) -> OperatingPoint:
    """Sensitivity, specificity, predictive values and accuracy at one threshold.

    scores: (S,), positive when >= threshold. positives: (S,). threshold: NaN gives NaN for everything.
    Source: accuracy is one term of EVA-X Eq. (9).
    """
    _check_ranking(scores, positives)
    if math.isnan(threshold):
        return OperatingPoint(*[math.nan] * 5)
    called = scores >= np.float64(threshold)  # a plain float would be rounded to the scores' float32
    true_positives, true_negatives = int(np.sum(called & positives)), int(np.sum(~called & ~positives))
    n_positive, n_negative = _totals(positives)
    return OperatingPoint(
        sensitivity=_share(true_positives, n_positive),
        specificity=_share(true_negatives, n_negative),
        ppv=_share(true_positives, int(called.sum())),
        npv=_share(true_negatives, int((~called).sum())),
        accuracy=_share(true_positives + true_negatives, len(positives)),
    )


def operating_points(
    probabilities: Reals, labels: Reals, thresholds: Reals, exclusive: bool
) -> list[OperatingPoint]:
    """The operating point of each finding over the cases on which it is known.

    probabilities, labels: (S, K), see `known_cases`. thresholds: (K,), NaN where there is none; of no effect
    when exclusive: then the most probable class is positive, the others are negative.
    """
    if exclusive:
        probabilities, thresholds = most_probable(probabilities), np.full(len(thresholds), 0.5)
    pairs = zip(known_cases(probabilities, labels), thresholds, strict=True)
    return [operating_point(*cases, float(threshold)) for cases, threshold in pairs]


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """PPV and NPV where the finding is as frequent as stated, by Bayes' theorem.

    prevalence: in [0, 1]; another one than that of the test images, whose own values `operating_point` gives.
    Returns NaN for a value that divides by nothing or by NaN. It holds only where sensitivity and specificity
    do, which another mix of patients may change as well.
    """
    if not 0 <= prevalence <= 1:
        raise DataError(f"A prevalence is a share of the cases in [0, 1], got {prevalence}.")
    found, missed = sensitivity * prevalence, (1 - sensitivity) * prevalence
    cleared, alarmed = specificity * (1 - prevalence), (1 - specificity) * (1 - prevalence)
    return _share(found, found + alarmed), _share(cleared, cleared + missed)


def choose_thresholds(probabilities: Reals, labels: Reals, rule: ThresholdRule = YOUDEN) -> Floats:
    """One threshold per finding from validation data, by default the maximum of sensitivity + specificity.

    probabilities: (S, K). labels: (S, K). rule: what the threshold is to reach, see ThresholdRule.
    Returns (K,), NaN where a finding lacks positives or negatives. The threshold lies half way between the
    lowest score called positive and the next one below, so that no rounding in a runtime turns a case over;
    just above the highest score where the rule lets none be called.
    """
    return np.array([_threshold(*cases, rule) for cases in known_cases(probabilities, labels)])


def top1_accuracy(probabilities: Reals, labels: Reals) -> float:
    """Share of the cases whose most probable finding is the true one; a tie goes to the first finding.

    probabilities: (S, K). labels: (S, K), exactly one 1 per row. Raises DataError otherwise.
    Source: the released code's reading of mAcc, EVA-X Eq. (9).
    """
    return float(top1_hits(probabilities, labels).mean())


def top1_hits(probabilities: Reals, labels: Reals) -> Flags:
    """Whether the most probable finding of each case is the true one; arguments as in `top1_accuracy`.

    Returns (S,).
    """
    check_cases(probabilities, labels)
    not_one = ~(np.nansum(labels, axis=1) == 1) | np.isnan(labels).any(axis=1)
    if not_one.any():
        raise DataError(
            f"{int(not_one.sum())} of {len(labels)} cases do not have exactly one finding "
            f"(first: case {int(np.argmax(not_one))}). Top-1 accuracy is for exclusive findings; "
            "evaluate the others with exclusive=False."
        )
    hits: Flags = probabilities.argmax(axis=1) == labels.argmax(axis=1)
    return hits


def most_probable(probabilities: Reals) -> Floats:
    """1 for the most probable class of each case, else 0; a tie goes to the first class. (S, K)."""
    chosen: Floats = np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]
    return chosen


def recall_hits(probabilities: Reals, labels: Reals) -> Floats:
    """The hits behind balanced accuracy, which is the mean over the columns of their means.

    Arguments as in `top1_accuracy`. Returns (S, K): 1 or 0 in the column of the true class, else NaN.
    """
    hits = top1_hits(probabilities, labels).astype(np.float64)
    return np.where(labels == 1, hits[:, np.newaxis], math.nan)


def balanced_log_loss(probabilities: Reals, labels: Reals) -> float:
    """Mean over the classes of the mean of -log(probability of the true class) over the cases of the class.

    probabilities: (S, K). labels: (S, K), 1 for the true class; a class without any does not enter.
    Returns NaN when no class enters.
    """
    loss = -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    of_class = [
        loss[labels[:, k] == 1, k].mean() for k in range(labels.shape[1]) if (labels[:, k] == 1).any()
    ]
    return float(np.mean(of_class)) if of_class else math.nan


def check_cases(scores: Reals, labels: Reals) -> None:
    """Raise DataError unless both are (S, K) with S > 0, no score is NaN and every label is 1, 0 or NaN."""
    if scores.ndim != 2 or scores.shape != labels.shape or len(scores) == 0:
        raise DataError(
            f"Scores have shape {scores.shape} and labels {labels.shape}; "
            "both must be (cases, findings), with at least one case."
        )
    if np.isnan(scores).any():
        raise DataError(
            f"{_first(np.isnan(scores))} has NaN as its score; look for NaN in image and network."
        )
    if (labels == -1).any():
        raise DataError(
            f"{_first(labels == -1)} is labelled -1 (uncertain). "
            "Choose a policy for uncertain labels (ones, zeros, ignore, smooth) when the table is loaded."
        )
    odd = ~(np.isnan(labels) | (labels == 0) | (labels == 1))
    if odd.any():
        raise DataError(f"{_first(odd)} is labelled {float(labels[odd][0]):g}; a label is 1, 0 or NaN.")


def _first(wrong: Flags) -> str:
    case, finding = np.argwhere(wrong)[0]
    return f"Case {case}, finding {finding} (and {int(wrong.sum()) - 1} more)"


def _check_ranking(scores: Reals, positives: Flags) -> None:
    if positives.dtype != np.bool_:  # a NaN label read as a flag would be a positive case
        raise DataError(f"positives must be boolean, got {positives.dtype}; pass labels == 1 of known cases.")
    if scores.ndim != 1 or scores.shape != positives.shape:
        raise DataError(f"Scores are {scores.shape} and positives {positives.shape}; both must be (cases,).")
    if np.isnan(scores).any():
        raise DataError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN; a NaN has no rank.")


def _cumulative_counts(scores: Reals, positives: Flags) -> tuple[Floats, Integers, Integers]:
    """Distinct scores from high to low (T,), and the positives and negatives at or above each of them."""
    _check_ranking(scores, positives)
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    ranked = scores[order].astype(np.float64)
    last_of_tie = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], [True] * bool(len(ranked))))
    above = np.cumsum(positives[order], dtype=np.int64)[last_of_tie]
    return ranked[last_of_tie], above, last_of_tie + 1 - above


def _threshold(scores: Reals, positives: Flags, rule: ThresholdRule) -> float:
    thresholds, above, false_above = _cumulative_counts(scores, positives)
    n_positive, n_negative = _totals(positives)
    if n_positive == 0 or n_negative == 0:
        return math.nan
    best = rule.place(above, false_above)
    if best < 0:
        return float(np.nextafter(thresholds[0], math.inf))
    if best + 1 == len(thresholds):
        return float(thresholds[best])
    below = thresholds[best + 1]
    middle = (thresholds[best] + below) / 2
    return float(middle if middle > below else thresholds[best])  # neighbouring floats have no middle


def _totals(positives: Flags) -> tuple[int, int]:
    n_positive = int(positives.sum())
    return n_positive, len(positives) - n_positive


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


FEW = 5  # patients; of 3 positive ones, a 95 % interval holds the true AUROC in 76 % (intervals.py)


def learned_findings(labels: Reals) -> Flags:
    """(K,): those that some training images have and others lack; the rest get scores of no meaning.

    labels: (N, K), what training was told: in [0, 1], NaN where it was told nothing.
    """
    return np.any(labels > 0.5, axis=0) & np.any(labels < 0.5, axis=0)


def only_learned(labels: Reals, learned: Flags) -> Reals:
    """The labels, with every other finding unknown, so that it enters no mean.

    labels: (S, K). learned: (K,).
    """
    return np.where(learned, labels, math.nan)


def patients_of_each_side(labels: Reals, patients: Sequence[str] | NDArray[Any]) -> Integers:
    """(K, 2): how many patients have an image with each finding, and how many one without it.

    labels: (S, K), 1, 0 or NaN. patients: (S,).
    """
    people = np.asarray(patients, dtype=np.str_)
    counts = [[len(np.unique(people[column == side])) for side in (1, 0)] for column in labels.T]
    return np.array(counts, dtype=np.int64).reshape(labels.shape[1], 2)


def has_few(with_it: int, without_it: int) -> bool:
    """Whether so few patients that a page marks the finding: its numbers are anecdotes."""
    return min(with_it, without_it) < FEW

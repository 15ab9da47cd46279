"""Which labels look wrong: those that a model which has not seen them contradicts most (confident learning).

Shape legend: S cases, D width, K findings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, norm
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evax.errors import DataError
from evax.evaluation.classification import Floats, Reals, auroc, check_cases

FOLDS = 5
STRENGTHS = (
    1e-3,
    1e-2,
    1e-1,
)  # scikit-learn's C; strict, so that single wrong labels are not learned by heart
MAX_ITERATIONS = 300
LEAST_AUROC = 0.65  # below it, hardly any label can be doubted
LEAST_EXCESS, CHANCE = 0.02, 0.002  # share beyond what is expected; of a finding without wrong labels


def held_out_probabilities(
    features: Reals, labels: Reals, patients: Sequence[str] | NDArray[Any], folds: int = FOLDS
) -> Floats:
    """The probability of every finding by linear probes that learned from the other patients' images.

    features: (S, D), of a frozen encoder. labels: (S, K), 1, 0 or NaN. patients: (S,), never "".
    folds: at least 2; at most one per patient is used.
    Of a few strengths of the penalty, the one under which the held-out labels are most likely is taken, for
    each finding.
    Returns (S, K), NaN where the label is unknown or the other images show one side of the finding only.
    """
    check_cases(np.zeros(labels.shape), labels)
    people = np.asarray(patients, dtype=np.str_)
    if len(features) != len(labels) or len(people) != len(labels):
        raise DataError(
            f"{len(features)} features, {len(people)} patients and {len(labels)} labels were given; "
            "give one of each per case."
        )
    result = np.full(labels.shape, math.nan)
    folds = min(folds, len(np.unique(people)))
    if folds < 2:
        return result
    parts = list(GroupKFold(folds).split(features, groups=people))
    for k, column in enumerate(labels.T):
        tried = [_held_out(features, column, parts, strength) for strength in STRENGTHS]
        result[:, k] = max(tried, key=lambda probabilities: _likelihood(probabilities, column))
    return result


def suspicion(probabilities: Reals, labels: Reals) -> Floats:
    """How much each label is contradicted: 1 less the probability that the model gives to it.

    probabilities: (S, K), of cases the model did not learn from; NaN = not judged. labels: (S, K), 1, 0, NaN.
    Returns (S, K) in [0, 1], NaN where probability or label is unknown.
    Source: "self-confidence" of Northcutt et al. 2021 (confident learning). Weighing it by class found fewer
    of the labels that were turned over on phantoms (docs/decisions.md).
    """
    return np.where(labels == 1, 1 - probabilities, np.where(labels == 0, probabilities, math.nan))


@dataclass(frozen=True)
class ClearEnd:
    """The images of a finding on which the model is surest in one direction."""

    films: int
    contradicted: int
    """How many of them are labelled the other way."""
    expected: float
    """The share that the finding's difficulty explains, given its AUROC."""

    def is_doubtful(self) -> bool:
        """Whether far more labels are contradicted than that: twice as many, and hardly by chance."""
        share = self.contradicted / self.films if self.films else 0.0
        by_chance = float(binom.sf(self.contradicted - 1, self.films, self.expected))
        return share >= max(2 * self.expected, self.expected + LEAST_EXCESS) and by_chance < CHANCE


def clear_ends(probabilities: Reals, labels: Reals) -> tuple[ClearEnd, ClearEnd] | None:
    """The images that most clearly lack a finding (a tenth), and those that most clearly show it (a tenth, or
    half as many as are labelled so); arguments (S,), as in `suspicion`.

    Labels that were turned over at random stand among them however easy the finding is; labels of hard images
    do not, or as often as two overlapping normal distributions with the same AUROC would have them.
    None when the model does not know the finding: fewer than 10 images judged, or an AUROC below LEAST_AUROC.
    """
    judged = ~np.isnan(suspicion(probabilities, labels))
    scores, positives = probabilities[judged], labels[judged] == 1
    area = auroc(scores, positives)
    tenth = len(scores) // 10
    present = min(tenth, int(positives.sum()) // 2)
    if not present or not area >= LEAST_AUROC:
        return None
    order = np.argsort(scores, kind="stable")
    low, high = positives[order[:tenth]], ~positives[order[len(order) - present :]]
    below, above = _explained(area, float(positives.mean()), tenth / len(scores), present / len(scores))
    return ClearEnd(tenth, int(low.sum()), below), ClearEnd(present, int(high.sum()), above)


def _explained(area: float, prevalence: float, lowest: float, highest: float) -> tuple[float, float]:
    """Positives among the lowest and negatives among the highest scores of the binormal model, as shares."""
    apart = math.sqrt(2) * float(norm.ppf(min(area, 0.9999)))

    def share_below(score: float) -> float:
        return float((1 - prevalence) * norm.cdf(score) + prevalence * norm.cdf(score - apart))

    low = brentq(lambda score: share_below(score) - lowest, -40, 40)
    high = brentq(lambda score: share_below(score) - (1 - highest), -40, 40)
    return (
        float(prevalence * norm.cdf(low - apart) / lowest),
        float((1 - prevalence) * norm.sf(high) / highest),
    )


def _held_out(features: Reals, column: Reals, parts: Sequence[Any], strength: float) -> Floats:
    result = np.full(len(column), math.nan)
    for learn, held_out in parts:
        seen, asked = learn[~np.isnan(column[learn])], held_out[~np.isnan(column[held_out])]
        if len(asked) and len(np.unique(column[seen])) == 2:
            regression = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
            probe = make_pipeline(StandardScaler(), regression).fit(features[seen], column[seen])
            result[asked] = probe.predict_proba(features[asked])[:, 1]
    return result


def _likelihood(probabilities: Reals, column: Reals) -> float:
    """Mean logarithm of the probabilities given to the labels; -inf without any."""
    of_label = 1 - suspicion(probabilities, column)
    known = of_label[~np.isnan(of_label)]
    return float(np.log(np.maximum(known, 1e-12)).mean()) if len(known) else -math.inf

"""METRICS: the scores of a classifier over all its findings, one row each.

Reports, pages, tables, studies and comparisons follow from this table. A new score is a function and a row.

Shape legend: S images, K findings, R resamples, C columns of a score: K, or 1 for all classes together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evax.evaluation.classification import (
    Flags,
    Floats,
    Reals,
    aurocs,
    average_precision,
    column_means,
    known_cases,
    only_learned,
    recall_hits,
    top1_hits,
)
from evax.evaluation.intervals import column_draws, ranking_draws

TOP1 = "top-1"
RECALLS = "mean of the classes' recalls"
PER_FINDING = "mean of per-finding accuracies at validation thresholds"
NO_READING = "none: no finding has a threshold"  # as in protocol paper, which chooses none


@dataclass(frozen=True, eq=False)
class Outcome:
    """A network's probabilities for one set of images, with all that its scores depend on."""

    probabilities: Reals
    """(S, K) in [0, 1]."""
    labels: Reals
    """(S, K), 1, 0 or NaN."""
    thresholds: Reals
    """(K,), chosen on other images; NaN where there is none. Unused for exclusive classes."""
    patients: Sequence[str] | NDArray[Any]
    """(S,), never ""."""
    exclusive: bool
    """Exactly one finding is present per image, and the most probable one is predicted."""
    learned: Flags
    """(K,). Findings that were not learned have no score of their own."""
    resamples: int
    seed: int

    @cached_property
    def ranked(self) -> Reals:
        """(S, K): labels of the findings that were learned, else NaN."""
        return only_learned(self.labels, self.learned)

    @cached_property
    def ranking_draws(self) -> Floats:
        """(2, K, R): AUROC and average precision of every finding in every resample."""
        return ranking_draws(self.probabilities, self.ranked, self.patients, self.resamples, self.seed)

    def hit_draws(self, hits: Floats) -> Floats:
        """(C, R): column means in every resample. hits: (S, C), NaN where an image does not count."""
        return column_draws(hits, self.patients, self.resamples, self.seed)


class Metric(NamedTuple):
    """A score: the mean over its columns."""

    key: str
    """In report.json, CSV tables and compare.json."""
    name: str
    """In tables of pages."""
    title: str
    """In full."""
    column: str
    """The value of one finding, in the rows of findings and as COLUMN:FINDING in tables of studies."""
    values: Callable[[Outcome], Floats]
    """(C,), NaN where undefined."""
    draws: Callable[[Outcome], Floats]
    """(C, R), the same in every resample of patients."""
    decides: bool = False
    """Counts decisions, so for exclusive classes it is of all classes together, learned or not."""
    reading: Callable[[Outcome], str] | None = None
    """How it was read, where it has several readings."""
    exclusive_only: bool = False

    def joins_classes(self, exclusive: bool) -> bool:
        """Whether it is of all classes together, and not a mean over findings."""
        return self.decides and exclusive


def precisions(answers: Outcome) -> Floats:
    """(K,): the average precision of each finding."""
    return np.array(
        [average_precision(*cases) for cases in known_cases(answers.probabilities, answers.ranked)]
    )


def accuracy_hits(answers: Outcome) -> Floats:
    """The hits behind mAcc: (S, 1) for exclusive classes, else (S, K) at the thresholds, NaN without one.

    Source: EVA-X Eq. (9); for exclusive classes the released code's reading, top-1.
    """
    if answers.exclusive:
        return top1_hits(answers.probabilities, answers.labels)[:, np.newaxis].astype(np.float64)
    hits = (answers.probabilities >= answers.thresholds) == (answers.ranked == 1)
    return np.where(np.isnan(answers.ranked) | np.isnan(answers.thresholds), math.nan, hits)


def accuracy_reading(answers: Outcome) -> str:
    """Which of the two readings of Eq. (9) mAcc has, or that it has none."""
    if answers.exclusive:
        return TOP1
    return NO_READING if np.isnan(answers.thresholds).all() else PER_FINDING


def recalls(answers: Outcome) -> Floats:
    """(S, K): hits in the column of the true class, else NaN."""
    return recall_hits(answers.probabilities, answers.labels)


METRICS = (
    Metric(
        "mauc", "mAUC", "Mean AUC", "auroc",
        values=lambda answers: aurocs(answers.probabilities, answers.ranked),
        draws=lambda answers: answers.ranking_draws[0],
    ),
    Metric(
        "map", "mAP", "Mean average precision", "average_precision",
        values=precisions,
        draws=lambda answers: answers.ranking_draws[1],
    ),
    Metric(
        "macc", "mAcc", "Mean accuracy", "accuracy",
        values=lambda answers: column_means(accuracy_hits(answers)),
        draws=lambda answers: answers.hit_draws(accuracy_hits(answers)),
        decides=True, reading=accuracy_reading,
    ),
    Metric(
        "balanced_accuracy", "balanced accuracy", "Balanced accuracy", "sensitivity",
        values=lambda answers: column_means(recalls(answers)),
        draws=lambda answers: answers.hit_draws(recalls(answers)),
        decides=True, reading=lambda answers: RECALLS, exclusive_only=True,
    ),
)  # fmt: skip


def metrics_for(exclusive: bool) -> tuple[Metric, ...]:
    """Those that exist for exclusive classes, or for findings that are present or absent each."""
    return tuple(metric for metric in METRICS if exclusive or not metric.exclusive_only)


def metrics_in(*entries: Any) -> tuple[Metric, ...]:
    """Those that any of these mappings has: runs and reports of earlier versions lack newer ones."""
    return tuple(metric for metric in METRICS if any(each.get(metric.key) is not None for each in entries))

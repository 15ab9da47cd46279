"""Which findings the training films can teach, and which the test films can hardly measure.

One rule for fine-tunings, probes, studies and comparisons.

Shape legend: S cases, N training cases, K findings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evax.evaluation.classification import Flags, Integers, Reals

FEW = 5  # patients; of 3 positive ones, a 95 % interval holds the true AUROC in 76 % (intervals.py)


def learned_findings(labels: Reals) -> Flags:
    """(K,): those that some training films have and others lack; the rest get scores of no meaning.

    labels: (N, K), what training was told: in [0, 1], NaN where it was told nothing.
    """
    return np.any(labels > 0.5, axis=0) & np.any(labels < 0.5, axis=0)


def only_learned(labels: Reals, learned: Flags) -> Reals:
    """The labels, with every other finding unknown, so that it enters no mean.

    labels: (S, K). learned: (K,).
    """
    return np.where(learned, labels, math.nan)


def patients_of_each_side(labels: Reals, patients: Sequence[str] | NDArray[Any]) -> Integers:
    """(K, 2): how many patients have a film with each finding, and how many one without it.

    labels: (S, K), 1, 0 or NaN. patients: (S,).
    """
    people = np.asarray(patients, dtype=np.str_)
    counts = [[len(np.unique(people[column == side])) for side in (1, 0)] for column in labels.T]
    return np.array(counts, dtype=np.int64).reshape(labels.shape[1], 2)


def has_few(with_it: int, without_it: int) -> bool:
    """Whether so few patients that a page marks the finding: its numbers are anecdotes."""
    return min(with_it, without_it) < FEW

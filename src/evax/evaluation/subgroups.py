"""Whether a classifier ranks as well in one group of patients (women, the old, bedside images) as in another.

Shape legend: S cases, K findings, G groups, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evax.errors import DataError
from evax.evaluation.classification import Flags, Floats, Reals, auroc, check_cases
from evax.evaluation.intervals import RESAMPLES, Interval, percentile_interval, ranking_draws

ENOUGH = 10  # patients with and without a finding; with fewer, 95 % intervals hold far less (intervals.py)


@dataclass(frozen=True)
class GroupFinding:
    """One finding within a group; AUROC and interval are NaN where the group is too small to be scored."""

    name: str
    positives: int
    negatives: int
    auroc: float
    auroc_interval: Interval


@dataclass(frozen=True)
class GroupReport:
    """One group; a value of NaN says that it was too small to be scored."""

    group: str
    films: int
    patients: int
    mauc: float
    """Mean over the findings that are compared, the same ones in every group."""
    mauc_interval: Interval
    findings: tuple[GroupFinding, ...]


@dataclass(frozen=True)
class Gap:
    """The best group less the worst one, resampled together; NaN where fewer than two groups are scored.

    Which two groups they are was seen on the same images, so the gap leans upwards when there are several.
    """

    best: str
    worst: str
    value: float
    interval: Interval


@dataclass(frozen=True)
class GroupComparison:
    """The groups of one attribute side by side."""

    attribute: str
    groups: tuple[GroupReport, ...]
    not_stated: int
    """Images of which the group is not known; they are in none."""
    findings_compared: tuple[str, ...]
    """Those that the means are over: enough patients with and without them in every group that is scored."""
    gap: Gap
    """Between the means."""
    finding_gaps: tuple[Gap, ...]
    """One per finding."""


def compare_groups(
    attribute: str,
    groups: Sequence[str] | NDArray[Any],
    scores: Reals,
    labels: Reals,
    findings: Sequence[str],
    patients: Sequence[str] | NDArray[Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> GroupComparison:
    """AUROC per group with intervals across patients, and the gaps between groups.

    attribute: what the groups differ in. groups: (S,), "" where it is not known. scores: (S, K), higher means
    more suspicious. labels: (S, K), 1, 0 or NaN. findings: K names. patients: (S,), never "".
    A finding is scored in a group that has ENOUGH patients with and ENOUGH without it. A group enters the
    comparison of means when at least half of the findings that can be scored at all are scored in it.
    """
    check_cases(scores, labels)
    names, people = np.asarray(groups, dtype=np.str_), np.asarray(patients, dtype=np.str_)
    if len(names) != len(labels) or len(findings) != labels.shape[1]:
        raise DataError(
            f"{len(names)} groups and {len(findings)} findings were given for labels {labels.shape}; "
            "give one group per case and one name per column."
        )
    known_groups = sorted(set(names.tolist()) - {""})
    members = [names == group for group in known_groups]
    scored = np.array([_enough(labels, people, inside) for inside in members], dtype=bool)  # (G, K)
    scored = scored.reshape(len(members), labels.shape[1])
    possible = int(_enough(labels, people, np.ones(len(labels), dtype=bool)).sum())
    compared = scored.sum(axis=1) >= max(possible / 2, 1)  # (G,)
    common = scored[compared].all(axis=0) if compared.any() else np.zeros(len(findings), dtype=bool)  # (K,)
    compared &= bool(common.any())

    places = np.argwhere(scored)  # (n, 2): group, finding
    values, drawn = np.full(scored.shape, math.nan), np.full((*scored.shape, resamples), math.nan)
    if len(places):
        # a column per pair: its images outside the group are unknown, and all share the drawn patients
        columns = np.stack([np.where(members[g], labels[:, k], math.nan) for g, k in places], axis=1)
        aurocs = ranking_draws(scores[:, places[:, 1]], columns, people, resamples, seed)[0]
        for number, (g, k) in enumerate(places):
            seen = ~np.isnan(columns[:, number])
            values[g, k] = auroc(scores[seen, k], columns[seen, number] == 1)
            drawn[g, k] = aurocs[number]
    means = np.full(len(members), math.nan)
    drawn_means = np.full((len(members), resamples), math.nan)
    if compared.any():
        means[compared] = values[np.ix_(compared, common)].mean(axis=1)
        drawn_means[compared] = drawn[np.ix_(compared, common)].mean(axis=1)

    def interval(resampled: Floats, inside: Flags) -> Interval:
        return percentile_interval(resampled, len(np.unique(people[inside])))

    def gap(point: Floats, resampled: Floats) -> Gap:
        return _gap(known_groups, point, resampled, len(np.unique(people)))

    reports = tuple(
        GroupReport(
            group=group,
            films=int(inside.sum()),
            patients=len(np.unique(people[inside])),
            mauc=float(means[g]),
            mauc_interval=interval(drawn_means[g], inside),
            findings=tuple(
                GroupFinding(
                    name=name,
                    positives=int((labels[inside, k] == 1).sum()),
                    negatives=int((labels[inside, k] == 0).sum()),
                    auroc=float(values[g, k]),
                    auroc_interval=interval(drawn[g, k], inside),
                )
                for k, name in enumerate(findings)
            ),
        )
        for g, (group, inside) in enumerate(zip(known_groups, members, strict=True))
    )
    return GroupComparison(
        attribute=attribute,
        groups=reports,
        not_stated=int((names == "").sum()),
        findings_compared=tuple(np.asarray(findings, dtype=np.str_)[common].tolist()),
        gap=gap(means, drawn_means),
        finding_gaps=tuple(gap(values[:, k], drawn[:, k]) for k in range(len(findings))),
    )


def _enough(labels: Reals, people: NDArray[Any], inside: Flags) -> Flags:
    """(K,): whether the images inside are of ENOUGH patients with, and of ENOUGH without, each finding."""
    return np.array(
        [
            all(len(np.unique(people[inside & (column == side)])) >= ENOUGH for side in (0, 1))
            for column in labels.T
        ]
    )


def _gap(names: Sequence[str], values: Floats, drawn: Floats, patients: int) -> Gap:
    """values: (G,), NaN = not scored. drawn: (G, R)."""
    scored = np.flatnonzero(~np.isnan(values))
    if len(scored) < 2:
        return Gap("", "", math.nan, percentile_interval(np.full(drawn.shape[1], math.nan), patients))
    best, worst = scored[np.argmax(values[scored])], scored[np.argmin(values[scored])]
    if best == worst:  # all equal
        best, worst = scored[0], scored[1]
    return Gap(
        names[best],
        names[worst],
        float(values[best] - values[worst]),
        percentile_interval(drawn[best] - drawn[worst], patients),
    )

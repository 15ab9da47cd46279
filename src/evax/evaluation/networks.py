"""The numbers of a network, or of its training seeds together, and what they are in each resample.

Shape legend: S cases, K findings, T trainings of one network (its seeds), R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evax.errors import DataError
from evax.evaluation.calibration import METHODS, brier_score, expected_calibration_error, fit_calibrator
from evax.evaluation.classification import (
    FEW,
    Flags,
    Floats,
    Reals,
    aurocs,
    has_few,
    known_cases,
    macro_mean,
    patients_of_each_side,
)
from evax.evaluation.comparison import Difference, delong, paired_difference
from evax.evaluation.intervals import (
    Interval,
    macro_draws,
    partial_resamples,
    percentile_interval,
)
from evax.evaluation.metrics import Metric, Outcome, metrics_for

TOO_FEW, NOT_LEARNED = f"none: fewer than {FEW} patients", "none: not learned by both"


@dataclass(frozen=True, eq=False)
class Ground:
    """What networks are compared on: labels (S, K), 1, 0 or NaN, and patients (S,) of the test images."""

    labels: Reals
    patients: NDArray[Any]
    exclusive: bool
    resamples: int
    seed: int
    entering: Flags
    """(K,), the findings that all networks have learned: the means are over these."""

    @property
    def few(self) -> Flags:
        """(K,), findings of too few patients for a test: a p would be about them alone."""
        sides = patients_of_each_side(self.labels, self.patients).tolist()
        return np.array([has_few(*each) for each in sides])

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that exist for these labels."""
        return metrics_for(self.exclusive)

    @property
    def people(self) -> int:
        """How many patients there are."""
        return len(np.unique(self.patients))

    @property
    def one_image_each(self) -> bool:
        """Whether images are as independent as patients, which DeLong's test takes for granted."""
        return self.people == len(self.patients)


@dataclass(frozen=True, eq=False)
class ScoredNetwork:
    """A network's numbers: of one training, or the mean over its trainings."""

    probabilities: tuple[Reals, ...]
    """T times (S, K)."""
    auroc: Floats
    """(K,), NaN where undefined."""
    auroc_draws: Floats
    """(K, R)."""
    means: dict[str, float]
    """By key of METRICS."""
    mean_draws: dict[str, Floats]
    """(R,) each."""
    partial: dict[str, int]
    """Resamples in which each mean is over fewer findings."""
    per_training: dict[str, Floats]
    """(T,) each."""
    entered: int
    """Findings in mauc and map."""

    def intervals(self, ground: Ground) -> tuple[tuple[Interval, ...], dict[str, Interval]]:
        """Over patients: per finding, and of each mean."""
        people = ground.people
        return (
            tuple(percentile_interval(draws, people) for draws in self.auroc_draws),
            {
                name: replace(percentile_interval(draws, people), partial=self.partial[name])
                for name, draws in self.mean_draws.items()
            },
        )


def score_network(
    probabilities: Sequence[Reals],
    thresholds: Sequence[Reals],
    learned: Flags,
    ground: Ground,
    on_training: Callable[[], None] = lambda: None,
) -> ScoredNetwork:
    """Scores the trainings of a network and averages them, resample by resample.

    probabilities: T times (S, K). thresholds: T times (K,), NaN where there is none. learned: (K,), findings
    that all its trainings have learned; others have no number. on_training: called after each.
    Seeds are averaged within a resample, so that the interval is one over patients for their mean; how far
    the seeds lie apart is `per_training`'s to say.
    """
    areas, area_draws = [], []
    values: dict[str, list[Floats]] = {metric.key: [] for metric in ground.metrics}
    draws: dict[str, list[Floats]] = {metric.key: [] for metric in ground.metrics}
    for scores, cut in zip(probabilities, thresholds, strict=True):
        answers = Outcome(
            scores,
            ground.labels,
            cut,
            ground.patients,
            ground.exclusive,
            learned,
            ground.resamples,
            ground.seed,
        )
        areas.append(aurocs(scores, answers.ranked))
        area_draws.append(answers.ranking_draws[0])
        for metric in ground.metrics:
            entering = slice(None) if metric.joins_classes(ground.exclusive) else ground.entering
            values[metric.key].append(metric.values(answers)[entering])
            draws[metric.key].append(metric.draws(answers)[entering])
        on_training()
    per_training = {
        key: np.array([macro_mean(each).value for each in trainings]) for key, trainings in values.items()
    }
    mean_draws = {key: np.mean(trainings, axis=0) for key, trainings in draws.items()}  # (C, R) each
    return ScoredNetwork(
        probabilities=tuple(probabilities),
        auroc=np.mean(areas, axis=0),
        auroc_draws=np.mean(area_draws, axis=0),
        means={key: float(np.mean(trainings)) for key, trainings in per_training.items()},
        mean_draws={key: macro_draws(each) for key, each in mean_draws.items()},
        partial={key: partial_resamples(each) for key, each in mean_draws.items()},
        per_training=per_training,
        entered=macro_mean(areas[0][ground.entering]).entered,
    )


def finding_differences(network: ScoredNetwork, reference: ScoredNetwork, ground: Ground) -> list[Difference]:
    """AUROC per finding, network minus reference: DeLong where it is valid, else the paired bootstrap.

    DeLong's test is for two curves on independent cases: for one training each, and one image per patient.
    What one of the two has not learned has no difference; of few patients, a difference has no p.
    """
    differences, few = [], ground.few
    for k, column in enumerate(ground.labels.T):
        draws = network.auroc_draws[k], reference.auroc_draws[k]
        values = float(network.auroc[k]), float(reference.auroc[k])
        if few[k] or math.isnan(values[0] - values[1]):
            found = paired_difference(*values, *draws, ground.people)
            differences.append(
                replace(found, p=math.nan, least_p=math.nan, test=TOO_FEW if few[k] else NOT_LEARNED)
            )
        elif ground.one_image_each and len(network.probabilities) == len(reference.probabilities) == 1:
            seen = ~np.isnan(column)
            first, second = network.probabilities[0][seen, k], reference.probabilities[0][seen, k]
            differences.append(delong(first, second, column[seen] == 1))
        else:
            differences.append(paired_difference(*values, *draws, ground.people))
    return differences


def mean_differences(
    network: ScoredNetwork, reference: ScoredNetwork, ground: Ground
) -> dict[str, Difference]:
    """Each of METRICS, network minus reference, by the paired bootstrap.

    In every resample both means are over the same findings: those that its images define.
    """
    differences = {}
    for name in (metric.key for metric in ground.metrics):
        found = paired_difference(
            network.means[name], reference.means[name],
            network.mean_draws[name], reference.mean_draws[name], ground.people,
        )  # fmt: skip
        interval = replace(found.interval, partial=max(network.partial[name], reference.partial[name]))
        differences[name] = replace(found, interval=interval)
    return differences


def wins(networks: Sequence[ScoredNetwork], shares: Sequence[float]) -> list[int | None]:
    """On how many findings each network's AUROC is the highest of its share of the labels; equal ones win.

    shares: one per network. None for one without a rival.
    """
    table, share = np.stack([network.auroc for network in networks]), np.asarray(shares)  # (networks, K)
    # what one of them has not learned is NaN, and nobody wins it
    return [
        int(np.sum(row == np.max(table[share == own], axis=0))) if np.sum(share == own) > 1 else None
        for row, own in zip(table, share, strict=True)
    ]


def calibration_errors(
    probabilities: Reals, labels: Reals, validation: tuple[Reals, Reals] | None, exclusive: bool
) -> dict[str, dict[str, float]]:
    """Mean ECE and Brier score over findings, as the network answers and after each recalibration.

    probabilities, labels: (S, K) of the test images. validation: the same of the images that calibrators are
    fitted on; without it there is only "none".
    Raises DataError for validation images without labels.
    """
    answers = {"none": probabilities}
    if validation is not None:
        for method in METHODS:
            calibrator = fit_calibrator(method, *validation, exclusive)
            answers[method] = np.clip(calibrator.apply(probabilities), 0, 1)
    return {
        method: {
            "ece": _mean_of(expected_calibration_error, given, labels),
            "brier": _mean_of(brier_score, given, labels),
        }
        for method, given in answers.items()
    }


def _mean_of(measure: Callable[[Any, Any], float], probabilities: Reals, labels: Reals) -> float:
    values = [measure(*cases) for cases in known_cases(probabilities, labels)]
    if np.isnan(values).all():
        raise DataError("No label of the test images is known: there is nothing to measure.")
    return macro_mean(np.array(values)).value

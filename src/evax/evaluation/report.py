"""All numbers of a classifier on one set of images, ready for `report.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evax.errors import DataError
from evax.evaluation.calibration import brier_score, expected_calibration_error
from evax.evaluation.classification import (
    FEW,
    Flags,
    Floats,
    OperatingPoint,
    Reals,
    auroc,
    average_precision,
    has_few,
    known_cases,
    macro_mean,
    operating_points,
    patients_of_each_side,
)
from evax.evaluation.intervals import RESAMPLES, Interval, macro_interval, percentile_interval
from evax.evaluation.metrics import METRICS, Metric, Outcome

ERRORS_PER_FINDING = 3  # false alarms, or misses, that a report lists


@dataclass(frozen=True)
class FindingReport:
    """One finding, over the images on which it is known; NaN where a number is undefined."""

    name: str
    learned: bool
    """Whether training images had it and others lacked it; else all numbers of its scores are NaN."""
    positives: int
    negatives: int
    patients_with: int
    patients_without: int
    few_patients: bool
    """On one of the two sides, see `classification.has_few`."""
    auroc: float
    auroc_interval: Interval
    average_precision: float
    average_precision_interval: Interval
    prevalence: float
    threshold: float
    """NaN for an exclusive class: the numbers below are those of the most probable class."""
    sensitivity: float
    specificity: float
    ppv: float
    npv: float
    accuracy: float
    ece: float
    brier: float


@dataclass(frozen=True)
class MeanReport:
    """A mean over findings; `findings_entered` of `findings_total` had a value."""

    value: float
    interval: Interval
    findings_entered: int
    findings_total: int


@dataclass(frozen=True)
class ReadingReport:
    """A score with several readings, in one of them or in none."""

    value: float
    interval: Interval
    reading: str


@dataclass(frozen=True)
class ClassificationReport:
    """What `evaluate_classifier` found: n images of so many patients, per finding and in the mean."""

    n: int
    patients: int
    findings: tuple[FindingReport, ...]
    means: Mapping[str, MeanReport | ReadingReport | None]
    """By key of METRICS; None for those of exclusive classes where findings are not exclusive."""
    columns: Mapping[str, Floats]
    """(K,) of each metric that is a mean over findings, by its column."""
    interval_method: str

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers under the names of the fields.

        NaN becomes None, an interval [low, high]. Next to each interval, `_undefined` behind its name, stands
        the number of resamples that were left out; next to that of a mean, as `_partial`, in how many it is
        over fewer findings.
        """
        columns = {name: plain(tuple(values.tolist())) for name, values in self.columns.items()}
        findings = [
            {name: values[k] for name, values in columns.items()} | plain(finding)
            for k, finding in enumerate(self.findings)
        ]
        means = {key: plain(mean) for key, mean in self.means.items()}
        return {
            "n": self.n,
            "patients": self.patients,
            "findings": findings,
            **means,
            "interval_method": self.interval_method,
        }


def evaluate_classifier(
    probabilities: Reals,
    labels: Reals,
    findings: Sequence[str],
    patients: Sequence[str] | NDArray[Any],
    thresholds: Reals,
    exclusive: bool,
    resamples: int = RESAMPLES,
    seed: int = 0,
    learned: Flags | None = None,
) -> ClassificationReport:
    """Every number of one set of images, with intervals across patients.

    probabilities: (S, K) in [0, 1]. labels: (S, K), 1, 0 or NaN. findings: K names. patients: (S,), never "".
    thresholds: (K,), chosen on other images (`choose_thresholds`), NaN where there is none; of no effect for
    exclusive classes, of which the most probable one is predicted.
    exclusive: exactly one finding is true per image; mAcc is then top-1, else Eq. (9) at the thresholds.
    learned: (K,), see `learned_findings`; None: all. The others are counted and enter no mean; top-1
    is over their images all the same.
    A finding without positives or negatives stops nothing: its ranking numbers are NaN and the means say how
    many findings entered.
    Raises DataError for shapes that do not match, probabilities that are NaN or outside [0, 1], labels of -1
    and images without a patient.
    """
    learned = np.ones(labels.shape[1], dtype=bool) if learned is None else learned
    if exclusive:
        thresholds = np.full(len(thresholds), math.nan)
    answers = Outcome(probabilities, labels, thresholds, patients, exclusive, learned, resamples, seed)
    cases, people = known_cases(probabilities, answers.ranked), patients_of_each_side(labels, patients)
    if not len(findings) == len(thresholds) == labels.shape[1]:
        raise DataError(
            f"{len(findings)} findings, {len(thresholds)} thresholds and {labels.shape[1]} columns of labels "
            "were given; the three must agree."
        )
    points = operating_points(probabilities, answers.ranked, thresholds, exclusive)
    n_patients = len(np.unique(np.asarray(patients, dtype=np.str_)))
    drawn = [[percentile_interval(draws, n_patients) for draws in each] for each in answers.ranking_draws]
    rows = tuple(
        _finding_report(
            _Sides(name, bool(learned[k]), labels[:, k], *people[k].tolist()),
            *cases[k], float(thresholds[k]), points[k], drawn[0][k], drawn[1][k],
        )
        for k, name in enumerate(findings)
    )  # fmt: skip
    present = [metric for metric in METRICS if exclusive or not metric.exclusive_only]
    means = {metric.key: mean_report(metric, answers, n_patients) for metric in present}
    return ClassificationReport(
        n=len(labels),
        patients=n_patients,
        findings=rows,
        means={metric.key: means.get(metric.key) for metric in METRICS},
        columns={
            metric.column: metric.values(answers) for metric in present if not metric.joins_classes(exclusive)
        },
        interval_method=means["mauc"].interval.method,
    )


def mean_report(metric: Metric, answers: Outcome, patients: int) -> MeanReport | ReadingReport:
    """A metric over all findings, with its interval. patients: how many there are."""
    mean, interval = macro_mean(metric.values(answers)), macro_interval(metric.draws(answers), patients)
    if metric.reading is None:
        return MeanReport(mean.value, interval, mean.entered, mean.of)
    return ReadingReport(mean.value, interval, metric.reading(answers))


class _Sides(NamedTuple):
    """A finding, and who has it and who lacks it, whether it was learned or not."""

    name: str
    learned: bool
    labels: Reals
    patients_with: int
    patients_without: int


def _finding_report(
    finding: _Sides,
    probabilities: Reals,
    positives: Flags,
    threshold: float,
    point: OperatingPoint,
    auroc_interval: Interval,
    average_precision_interval: Interval,
) -> FindingReport:
    with_it, without_it = int((finding.labels == 1).sum()), int((finding.labels == 0).sum())
    return FindingReport(
        name=finding.name,
        learned=finding.learned,
        positives=with_it,
        negatives=without_it,
        patients_with=finding.patients_with,
        patients_without=finding.patients_without,
        few_patients=has_few(finding.patients_with, finding.patients_without),
        auroc=auroc(probabilities, positives),
        auroc_interval=auroc_interval,
        average_precision=average_precision(probabilities, positives),
        average_precision_interval=average_precision_interval,
        prevalence=with_it / (with_it + without_it) if with_it + without_it else math.nan,
        threshold=threshold,
        sensitivity=point.sensitivity,
        specificity=point.specificity,
        ppv=point.ppv,
        npv=point.npv,
        accuracy=point.accuracy,
        ece=expected_calibration_error(probabilities, positives),
        brier=brier_score(probabilities, positives),
    )


def plain(value: Any) -> Any:
    """A result as JSON writes it: dataclasses as dictionaries, NaN as None, an interval as [low, high]."""
    if isinstance(value, Interval):
        return [plain(value.low), plain(value.high)]
    if is_dataclass(value):
        entries = {}
        for field in fields(value):
            item = getattr(value, field.name)
            entries[field.name] = plain(item)
            if isinstance(item, Interval):
                entries[f"{field.name}_undefined"] = item.undefined
                if isinstance(value, MeanReport | ReadingReport):
                    entries[f"{field.name}_partial"] = item.partial
        return entries
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):  # of numpy too
        return None if math.isnan(value) else float(value)
    return value


MARK = "†"
FEW_PATIENTS = (
    f"{MARK} fewer than {FEW} patients with the finding, or without it: an anecdote, whose interval "
)
FEW_PATIENTS += "is too short."
PARTIAL = (
    "Over fewer findings: resamples that drew nobody with a rare finding; their mean is over the others."
)


def marked(finding: Mapping[str, Any]) -> str:
    """The name of a finding of a report, marked where few patients have it or lack it."""
    return f"{finding['name']} {MARK}" if finding.get("few_patients") else str(finding["name"])


def has_marked(findings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the mark needs its note."""
    return any(finding.get("few_patients") for finding in findings)


def unlearned(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the findings that were not learned; of runs from before this was kept, none."""
    return [finding["name"] for finding in findings if not finding.get("learned", True)]


def resamples_in_words(undefined: int | None, partial: int | None) -> str:
    """Which resamples the interval of a mean rests on otherwise than on the rest; "" where on all alike."""
    said = [f"{partial:,} resamples over fewer findings"] if partial else []
    return ", ".join(said + ([f"{undefined:,} left out"] if undefined else []))

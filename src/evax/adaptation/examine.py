"""What the report of a classifier says beyond its scores: calibration, subgroups, errors, checks.

All of it goes into report.json and suspicious.csv; the page only shows it. Images are named by their row in
the store.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evax.data.store import ImageStore
from evax.evaluation.calibration import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    with_temperatures,
)
from evax.evaluation.checks import (
    Check,
    check_classes,
    check_columns,
    check_direction,
    check_labels,
    check_patients,
    check_sizes,
    check_spread,
)
from evax.evaluation.classification import (
    Flags,
    Floats,
    Integers,
    Reals,
    aurocs,
    choose_thresholds,
    known_cases,
    learned_findings,
    only_learned,
)
from evax.evaluation.report import ERRORS_PER_FINDING, plain
from evax.evaluation.subgroups import compare_groups
from evax.evaluation.suspicion import clear_ends, held_out_probabilities, suspicion
from evax.evaluation.thresholds import ThresholdRule
from evax.files import replaced_whole

logger = logging.getLogger("evax")

AGES = (18, 40, 60, 80)  # years at which a band begins
ERRORS = 12  # false alarms that are shown, and misses
SUSPICIOUS_SHARE, SUSPICIOUS_MOST = 0.1, 10_000  # of the judged labels; lines of suspicious.csv
CHECKED_IMAGES = 5000  # training images whose labels are checked, at a forward pass each


@dataclass(frozen=True, eq=False)
class Scored:
    """The images of a split, what is known of them and what was predicted, in the order of `rows`."""

    rows: Integers
    """(S,), of the store."""
    labels: Reals
    """(S, K), 1, 0 or NaN."""
    probabilities: Reals
    """(S, K)."""

    def aurocs(self) -> tuple[float, ...]:
        """Of each finding, NaN where it is not defined."""
        if not len(self.rows):  # protocol paper needs no validation images
            return (np.nan,) * self.labels.shape[1]
        return tuple(aurocs(self.probabilities, self.labels).tolist())

    def only(self, learned: Flags) -> Scored:
        """The same with every finding unknown that the training images did not teach; learned: (K,)."""
        return replace(self, labels=only_learned(self.labels, learned))


def validation_thresholds(validation: Scored, rule: str, exclusive: bool) -> Floats:
    """The threshold of each finding, (K,), NaN where there is none. Exclusive classes have none: the most
    probable one is predicted.

    validation: only what was learned. rule: see ThresholdRule.of.
    """
    if exclusive:
        return np.full(validation.labels.shape[1], np.nan)
    return choose_thresholds(validation.probabilities, validation.labels, ThresholdRule.of(rule))


def examine(
    store: ImageStore,
    validation: Scored,
    test: Scored,
    learned: Flags,
    thresholds: Reals,
    resamples: int,
    seed: int,
    sources: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Entries of report.json: source, validation_auroc, calibration, subgroups and errors.

    learned: (K,), see `learned_findings`. thresholds: (K,), NaN where there is none. resamples, seed: of the
    intervals. sources: where each image of
    the store comes from, "" where that is not known; None: not asked.
    """
    findings, exclusive = store.manifest.findings, store.manifest.exclusive
    patients = store.manifest.table["patient"].to_numpy(dtype=str)[test.rows]
    return {
        "source": store.manifest.source,
        "validation_auroc": dict(zip(findings, plain(validation.only(learned).aurocs()), strict=True)),
        "calibration": calibration(findings, validation, test, exclusive),
        "subgroups": [
            plain(
                compare_groups(
                    attribute, groups[test.rows], test.probabilities, test.only(learned).labels, findings,
                    patients, resamples, seed,
                )
            )
            for attribute, groups in attributes(store, sources).items()
        ],
        "errors": top1_errors(findings, test) if exclusive else threshold_errors(findings, test, thresholds),
    }  # fmt: skip


def run_checks(
    store: ImageStore,
    train: Integers,
    validation: Scored,
    test: Scored,
    labels: Reals,
    features: tuple[Integers, Reals],
    out: Path,
) -> list[dict[str, Any]]:
    """The entry `checks` of report.json, one line per check; writes OUT/suspicious.csv.

    train: rows that were learned from. labels: (store, K), 1, 0 or NaN. features: rows of some training images
    and what the encoder makes of them, (n, D).
    """
    findings, patients = store.manifest.findings, store.manifest.table["patient"].to_numpy(dtype=str)
    rows, seen = features
    held_out = held_out_probabilities(seen, labels[rows], patients[rows])
    ends = [clear_ends(held_out[:, k], labels[rows, k]) for k in range(len(findings))]
    exclusive = store.manifest.exclusive
    calibrated = with_temperatures(
        validation.probabilities, fitted_temperatures(validation, exclusive), exclusive
    )
    # no test image: labels mended where this classifier contradicts them would make its own test easier
    judged = {"train": (rows, held_out), "validation": (validation.rows, calibrated)}
    write_suspicious(out / "suspicious.csv", findings, labels, judged, exclusive)
    checks = quick_checks(store, train, validation, test, labels)
    return [*checks, check_labels(findings, ends, len(rows), len(train), exclusive).to_json()]


def quick_checks(
    store: ImageStore, train: Integers, validation: Scored, test: Scored, labels: Reals
) -> list[dict[str, Any]]:
    """The checks that look at no image, only at labels, splits and scores; arguments as in `run_checks`."""
    findings, patients = store.manifest.findings, store.manifest.table["patient"].to_numpy(dtype=str)
    learned = learned_findings(labels[train])
    splits = {"train": train, "validation": validation.rows, "test": test.rows}
    splits = {name: part for name, part in splits.items() if len(part)}  # protocol paper needs no validation
    checks = [
        check_patients(splits, patients),
        check_direction(findings, validation.only(learned).aurocs(), test.only(learned).aurocs()),
        check_spread(  # of what was not learned check_columns speaks
            [name for name, taught in zip(findings, learned, strict=True) if taught],
            {"validation": validation.probabilities[:, learned], "test": test.probabilities[:, learned]},
        ),
        check_columns(findings, labels[train]),
        check_sizes(findings, splits, labels, patients),
    ]
    if store.manifest.exclusive:
        checks.insert(3, check_predicted_classes(findings, validation, test))
    return [check.to_json() for check in checks]


def check_predicted_classes(classes: Sequence[str], validation: Scored, test: Scored, of: str = "") -> Check:
    """See `check_classes`. of: the classifier, where a report has several."""
    splits = {"validation": validation, "test": test}
    scored = {name: (part.probabilities, part.labels) for name, part in splits.items() if len(part.rows)}
    return check_classes(classes, scored, of)


def log_failed_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    """Warns of the checks that did not pass."""
    for check in checks:
        if check["passed"] is False:
            logger.warning("CHECK: %s\n  -> %s", check["message"], check["action"])


def attributes(store: ImageStore, sources: Sequence[str] | None = None) -> dict[str, Any]:
    """What images can be grouped by: attribute -> (store,) names of groups, "" where it is not known."""
    table = store.manifest.table
    starts = (0, *AGES)
    bands = [
        *(f"{start} to {end - 1} years" for start, end in zip(starts, AGES, strict=False)),
        f"{AGES[-1]} years and over",
    ]
    ages = table["age"].to_numpy(dtype=np.float64)
    of_age = np.array([*bands, ""])[np.where(np.isnan(ages), len(bands), np.digitize(ages, AGES))]
    return {
        "sex": table["sex"].to_numpy(dtype=str),
        "age": of_age,
        "view": table["view"].to_numpy(dtype=str),
        **({} if sources is None else {"source": np.array(sources)}),
    }


def calibration(findings: Sequence[str], validation: Scored, test: Scored, exclusive: bool) -> dict[str, Any]:
    """ECE and Brier score of the test images after a temperature that the validation images chose.

    One temperature per finding, or one for all when exactly one is true per image. Before: see test_metrics.
    """
    temperatures = fitted_temperatures(validation, exclusive)
    after = with_temperatures(test.probabilities, temperatures, exclusive)
    rows = []
    of_finding = zip(findings, temperatures, known_cases(after, test.labels), strict=True)
    for name, temperature, cases in of_finding:
        defined = not np.isnan(temperature)
        rows.append(
            {
                "name": name,
                "temperature": plain(float(temperature)),
                "ece": plain(expected_calibration_error(*cases)) if defined else None,
                "brier": plain(brier_score(*cases)) if defined else None,
            }
        )
    return {"fitted_on": "validation", "shared": exclusive, "findings": rows}


def fitted_temperatures(validation: Scored, exclusive: bool) -> Floats:
    """(K,), NaN where the validation images cannot tell."""
    findings = validation.labels.shape[1]
    if not len(validation.rows):
        return np.full(findings, np.nan)
    if exclusive:
        return np.full(findings, fit_temperature(validation.probabilities, validation.labels, True))
    columns = zip(validation.probabilities.T, validation.labels.T, strict=True)
    return np.array([fit_temperature(*column, False) for column in columns])


def threshold_errors(findings: Sequence[str], test: Scored, thresholds: Reals) -> list[dict[str, Any]]:
    """The false alarms, then the misses, that lie furthest beyond their finding's threshold."""
    with np.errstate(invalid="ignore", divide="ignore"):
        beyond = (test.probabilities - thresholds) / np.maximum(1 - thresholds, 1e-9)  # (S, K), 1 at most
        below = (thresholds - test.probabilities) / np.maximum(thresholds, 1e-9)
    errors = []
    for label, distance in ((0, beyond), (1, below)):
        wrong = (test.labels == label) & (distance >= 0 if label == 0 else distance > 0)
        errors += [
            {
                "row": int(test.rows[case]),
                "finding": findings[k],
                "label": label,
                "probability": float(test.probabilities[case, k]),
            }
            for case, k in furthest(np.where(wrong, distance, np.nan))
        ]
    return errors


def top1_errors(findings: Sequence[str], test: Scored) -> list[dict[str, Any]]:
    """The images of which another than the true finding is most probable, the most certain answers first."""
    answers, truth = test.probabilities.argmax(axis=1), test.labels.argmax(axis=1)
    certainty = np.full(test.labels.shape, np.nan)
    wrong = np.flatnonzero(answers != truth)
    certainty[wrong, answers[wrong]] = test.probabilities[wrong, answers[wrong]]
    return [
        {
            "row": int(test.rows[case]),
            "finding": findings[k],
            "label": 0,
            "probability": float(test.probabilities[case, k]),
            "truth": findings[truth[case]],
        }
        for case, k in furthest(certainty)
    ]


def furthest(distances: Floats) -> list[tuple[int, int]]:
    """(case, finding) of the largest distances, not too many of a finding. distances: (S, K), NaN = none."""
    chosen: list[tuple[int, int]] = []
    of_finding = [0] * distances.shape[1]
    order = np.argsort(np.where(np.isnan(distances), -np.inf, distances), axis=None, kind="stable")[::-1]
    for place in order[: int((~np.isnan(distances)).sum())]:
        case, k = divmod(int(place), distances.shape[1])
        if of_finding[k] < ERRORS_PER_FINDING:
            of_finding[k] += 1
            chosen.append((case, k))
        if len(chosen) == ERRORS:
            break
    return chosen


def write_suspicious(
    path: Path,
    findings: Sequence[str],
    labels: Reals,
    judged: Mapping[str, tuple[Integers, Reals]],
    exclusive: bool,
) -> None:
    """film_row, split, finding, label and score of the labels that are contradicted most.

    labels: (store, K). judged: split -> rows and probabilities by a model that has not seen these labels.
    When exactly one finding is true per image, only that one is listed: the others follow from it.
    """
    tables = []
    for split, (rows, probabilities) in judged.items():
        given = labels[rows]
        scores = suspicion(probabilities, np.where(given == 1, given, np.nan) if exclusive else given)
        case, k = np.nonzero(~np.isnan(scores))
        tables.append(
            pd.DataFrame(
                {
                    "film_row": rows[case],
                    "split": split,
                    "finding": np.asarray(findings, dtype=object)[k],
                    "label": given[case, k].astype(int),
                    "score": scores[case, k],
                }
            )
        )
    table = pd.concat(tables).drop_duplicates(["film_row", "finding"])
    listed = min(int(np.ceil(SUSPICIOUS_SHARE * len(table))), SUSPICIOUS_MOST)
    table = table.sort_values("score", ascending=False, kind="stable").head(listed)
    with replaced_whole(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.4f")

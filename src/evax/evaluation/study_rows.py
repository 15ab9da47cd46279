"""What a study keeps of its runs: a row each, means and spreads over them, tables."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evax.evaluation.intervals import LEAST_RUNS, seed_interval
from evax.evaluation.metrics import METRICS, TOP1, metrics_in
from evax.evaluation.report import evaluate_classifier, unlearned
from evax.files import open_csv, read_json, replaced_whole

logger = logging.getLogger("evax")
RUNS = "runs"  # folder of the runs in that of the study
INTERVAL = "_patient_interval"
AUROC = "auroc:"  # a column per finding, where a study keeps them
METRIC = {metric.key: metric for metric in METRICS}
WAYS = {"linear": "linear probe", "knn": "nearest neighbours"}  # of a probe, each with scores of its own


def describe_spread(runs: int, over: str) -> str:
    """What a study says of its means. runs: how many there are. over: what these are, seeds or folds."""
    enough = runs >= LEAST_RUNS
    said = "mean, sd (n - 1) and 95 % t-interval" if enough else "mean and sd (n - 1), no interval,"
    return f"{said} over {over}; the interval of one run is a bootstrap over its test patients"


def row_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a study keeps of a run; the interval is the one over patients."""
    return {
        **row_scores(report, report["test_metrics"]),
        "validation_mauc": report["validation_mauc"],
        "best_step": report["best_step"],
        "folder": f"{RUNS}/{Path(report['recipe']['out']).name}",
        **of_each_finding(report["test_metrics"], "auroc"),
    }


def row_of_share(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep over amounts of labels keeps of a run: the values of each finding, too, so that means can
    be taken over some of the findings.
    """
    return {**row_of(report), **values_of_findings(report["test_metrics"])}


def row_of_probe(report: Mapping[str, Any], way: str) -> dict[str, Any]:
    """What a sweep keeps of a probe, for one of its WAYS."""
    folder, metrics = f"{RUNS}/{Path(report['recipe']['out']).name}", report[way]["test_metrics"]
    return {**row_scores(report, metrics), "folder": folder, **values_of_findings(metrics)}


def of_each_finding(metrics: Mapping[str, Any], column: str) -> dict[str, Any]:
    """The AUROC, say, of each finding on the test images of a run."""
    return {f"{column}:{row['name']}": row[column] for row in metrics["findings"]}


def values_of_findings(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What each mean over findings is taken over."""
    columns = [metric.column for metric in metrics_in(metrics) if not metric.exclusive_only]
    return {name: value for column in columns for name, value in of_each_finding(metrics, column).items()}


def row_of_study(study: Mapping[str, Any]) -> dict[str, Any]:
    """What a study over seeds keeps of one seed's cross-validation: means and sds over its folds, and the
    score of all its tested images together with the interval over patients.
    """
    means = {
        f"{metric.key}{ending}": study[metric.key][part]
        for metric in metrics_in(study)
        for ending, part in (("", "mean"), ("_sd", "sd"))
    }
    return {
        "seed": study["protocol"]["seed"],
        "folds": len(study["folds"]),
        **means,
        "macc_reading": study["folds"][0]["macc_reading"],
        **row_columns("pooled_mauc", study["pooled"]["mauc"]),
        "folder": f"{RUNS}/{Path(study['recipe']['out']).name}",
        **{f"{AUROC}{name}": spread["mean"] for name, spread in study["findings"].items()},
    }


def row_scores(report: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Seed, training set and the scores with their intervals over patients. metrics: of the test images."""
    return {
        "seed": report["protocol"]["seed"],
        "train_patients": report["train"]["patients"],
        "train_films": report["train"]["films"],
        **{
            name: value
            for metric in metrics_in(metrics)
            for name, value in row_columns(metric.key, metrics[metric.key]).items()
        },
        "findings_entered": metrics["mauc"]["findings_entered"],
        "not_learned": ", ".join(unlearned(metrics["findings"])),
        "macc_reading": metrics["macc"]["reading"],
    }


def row_columns(score: str, mean: Mapping[str, Any]) -> dict[str, Any]:
    """A score with its interval over patients, the number of resamples left out of the interval, and of those
    in which the mean is over fewer findings.
    """
    left_out = {f"{score}_{key}": mean.get(f"interval_{key}", 0) for key in ("undefined", "partial")}
    return {score: mean["value"], f"{score}{INTERVAL}": mean["interval"], **left_out}


def keys_in(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The scores that any of the runs has columns of, defined or not; runs of earlier versions lack some."""
    return [metric.key for metric in METRICS if any(metric.key in run for run in runs)]


def summarize_runs(runs: Sequence[Mapping[str, Any]], over: str = "seeds") -> dict[str, Any]:
    """Mean, sd and t-interval of the scores over runs, and of the AUROC of each finding where kept."""
    summary: dict[str, Any] = {
        score: spread_of([run.get(score) for run in runs], over) for score in keys_in(runs)
    }
    if columns := [column for column in runs[0] if column.startswith(AUROC)]:
        summary["findings"] = {
            column.removeprefix(AUROC): spread_of([run[column] for run in runs], over) for column in columns
        }
    return summary


def learned_by_all(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The findings that every run of a sweep has learned, but for runs that have no mean at all.

    runs: rows with the columns of `of_each_finding`, tested on the same films: what one of them has learned
    and another has no number of was not learned there.
    """
    some = [run for run in runs if run["mauc"] is not None]
    names = [column.removeprefix(AUROC) for column in (some[0] if some else {}) if column.startswith(AUROC)]
    return [
        name
        for name in names
        if all(any(run.get(f"{metric.column}:{name}") is not None for metric in METRICS) for run in some)
    ]


def mean_over(run: Mapping[str, Any], score: str, findings: Sequence[str]) -> float | None:
    """A score of a run over these findings alone, None where none of them has a number; top-1 and balanced
    accuracy are of all findings together.
    """
    if is_overall(run, score):
        whole: float | None = run.get(score)
        return whole
    defined = defined_in(run, score, findings)
    return float(np.mean(list(defined.values()))) if defined else None


def is_overall(run: Mapping[str, Any], score: str) -> bool:
    """Whether the score is no mean over findings."""
    return METRIC[score].joins_classes(exclusive=run["macc_reading"] == TOP1)


def defined_in(run: Mapping[str, Any], score: str, findings: Sequence[str]) -> dict[str, float]:
    """What a run has of these findings."""
    values = {name: run.get(f"{METRIC[score].column}:{name}") for name in findings}
    return {name: value for name, value in values.items() if value is not None}


def summarize_points(
    shares: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]],
) -> dict[str, Any]:
    """Entries of a sweep's result: its points, and the findings that all their means are over, as those of
    evax compare: else a share that teaches fewer findings would be compared on easier or harder ones.

    shares: of each point what it is, and the rows of its runs.
    """
    findings = learned_by_all([run for _, runs in shares for run in runs])
    if not findings:
        logger.warning(
            "No finding was learned by every run, so there is no mean to compare shares by: each run has its "
            "own. Give more labels to the smallest shares."
        )
    points = [
        {
            **point,
            **{
                score: spread_of([mean_over(run, score, findings) for run in runs], "seeds")
                for score in keys_in([run for _, each in shares for run in each])
            },
            "runs": list(runs),
        }
        for point, runs in shares
    ]
    return {"findings_in_means": findings, "points": points}


def spread_of(values: Sequence[float | None], over: str) -> dict[str, Any]:
    """Mean, sd and t-interval of one score over seeds or folds; None where undefined."""
    numbers = np.array(values, dtype=np.float64)  # None becomes NaN
    defined = numbers[~np.isnan(numbers)]
    interval = seed_interval(numbers, over=over)
    return {
        "mean": float(defined.mean()) if len(defined) else None,
        "sd": float(defined.std(ddof=1)) if len(defined) > 1 else None,
        "entered": len(defined),
        "interval": [None if np.isnan(end) else float(end) for end in (interval.low, interval.high)],
        "interval_method": interval.method,
    }


def run_rows(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per run of a study: of a fold, a seed, or an amount of labels with a seed."""
    if "points" not in study:
        return [dict(row) for row in study["folds" if "folds" in study else "runs"]]
    return [
        {name: point[name] for name in ("fraction", "count", "lr") if name in point} | run
        for point in study["points"]
        for run in point["runs"]
    ]


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One line per run; an interval becomes two columns."""
    lines = []
    for row in rows:
        line = dict(row)
        for column in [name for name in row if name.endswith(INTERVAL)]:
            score = column.removesuffix(INTERVAL)
            line[f"{score}_low"], line[f"{score}_high"] = line.pop(column)
        lines.append(line)
    with replaced_whole(path) as unfinished, open_csv(unfinished) as file:
        table = csv.DictWriter(file, list(dict.fromkeys(column for line in lines for column in line)))
        table.writeheader()
        table.writerows(lines)


def pooled_metrics(
    runs: Sequence[Path], findings: Sequence[str], exclusive: bool, resamples: int, seed: int
) -> dict[str, Any]:
    """Scores of all tested images together, each by the classifier that had not learned from it.

    runs: the folders of the folds. findings, exclusive: of their store. resamples, seed: of the intervals.
    There are no thresholds: every fold has its own. A finding that one fold could not learn has no number.
    """
    files = [run / "predictions-test.csv" for run in runs]
    table = pd.concat([pd.read_csv(file, dtype={"patient": str}) for file in files])
    reports = [read_json(run / "report.json")["test_metrics"]["findings"] for run in runs]
    # a run from before this was kept says nothing of it
    learned = np.all([[row.get("learned", True) for row in rows] for rows in reports], axis=0)
    report = evaluate_classifier(
        table[[f"probability:{name}" for name in findings]].to_numpy(dtype=np.float64),
        table[[f"label:{name}" for name in findings]].to_numpy(dtype=np.float64),
        findings,
        table["patient"].tolist(),
        np.full(len(findings), np.nan),
        exclusive,
        resamples=resamples,
        seed=seed,
        learned=learned,
    )
    return report.to_json()

"""What a study keeps of its runs: a row each, means and spreads over them, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RUNS = "runs"  # folder of the runs in that of the study
WAYS = {"linear": "linear probe", "knn": "nearest neighbours"}  # of a probe, each with scores of its own
SPREAD = (
    "mean, sd (n - 1) and 95 % t-interval over {}; *_patient_interval is the bootstrap over test patients of "
    "one run"
)


def row_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a study keeps of a run; the interval is the one over patients."""
    return {
        **scores_of(report, report["test_metrics"]),
        "validation_mauc": report["validation_mauc"],
        "best_step": report["best_step"],
        "folder": f"{RUNS}/{Path(report['recipe']['out']).name}",
    }


def row_of_probe(report: Mapping[str, Any], way: str) -> dict[str, Any]:
    """What a sweep keeps of a probe, for one of its WAYS."""
    folder = f"{RUNS}/{Path(report['recipe']['out']).name}"
    return {**scores_of(report, report[way]["test_metrics"]), "folder": folder}


def scores_of(report: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Seed, training set and both scores with their intervals over patients. metrics: of the test films."""
    return {
        "seed": report["protocol"]["seed"],
        "train_patients": report["train"]["patients"],
        "train_films": report["train"]["films"],
        "mauc": metrics["mauc"]["value"],
        "mauc_patient_interval": metrics["mauc"]["interval"],
        "findings_entered": metrics["mauc"]["findings_entered"],
        "macc": metrics["macc"]["value"],
        "macc_patient_interval": metrics["macc"]["interval"],
        "macc_reading": metrics["macc"]["reading"],
    }


def summary_of(runs: Sequence[Mapping[str, Any]], over: str = "seeds") -> dict[str, Any]:
    """Mean, sd and t-interval of mAUC and mAcc over runs."""
    return {score: spread_of([run[score] for run in runs], over) for score in ("mauc", "macc")}


def spread_of(values: Sequence[float | None], over: str) -> dict[str, Any]:
    """Mean, sd and t-interval of one score over seeds or folds; None where undefined."""
    import numpy as np

    from evax.evaluation.intervals import seed_interval

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


def write_points(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A study over shares of the labels, one line per run."""
    own = [name for name in ("fraction", "count", "lr") if name in points[0]]
    write_rows([{name: point[name] for name in own} | run for point in points for run in point["runs"]], path)


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One line per run; an interval becomes two columns."""
    import csv

    from evax.files import replaced_whole

    lines = []
    for row in rows:
        line = dict(row)
        for score in ("mauc", "macc"):
            line[f"{score}_low"], line[f"{score}_high"] = line.pop(f"{score}_patient_interval")
        lines.append(line)
    with replaced_whole(path) as unfinished, unfinished.open("w", newline="") as file:
        table = csv.DictWriter(file, list(lines[0]))
        table.writeheader()
        table.writerows(lines)

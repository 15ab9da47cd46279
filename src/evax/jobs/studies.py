"""What jobs of many runs share: each run is done once, in a folder of its own, then the scores are summed up.

No job: it has no command, and takes the job that makes a run as an argument.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from evax.config import read_recipe, to_plain
from evax.errors import ConfigError
from evax.training.options import LabelledConfig

C = TypeVar("C", bound=LabelledConfig)

RUNS = "runs"
MAY_DIFFER = (
    "out",
    "store",
    "split",
    "workers",
)  # where things lie, and how fast; the data have a fingerprint
ALONE: dict[str, Any] = {"seeds": (), "resume": False}  # what makes a fine-tuning a single run
SPREAD = (
    "mean, sd (n - 1) and 95 % t-interval over {}; *_patient_interval is the bootstrap over test patients of "
    "one run"
)


def check_draws(fractions: Sequence[float], counts: Sequence[int], seeds: Sequence[int]) -> None:
    """Raises ConfigError when a study could not have these shares, numbers of patients and seeds."""
    for name, values in (("fractions", fractions), ("counts", counts), ("seeds", seeds)):
        if len(set(values)) < len(values):
            raise ConfigError(f"{name} must be different values, got {values}.")
    if not seeds:
        raise ConfigError("seeds must be different values, at least one.")
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise ConfigError(f"fractions must lie in (0, 1], got {fractions}.")
    if not all(count > 0 for count in counts):
        raise ConfigError(f"counts must be above 0, got {counts}.")


@dataclass(frozen=True)
class LabelPoint:
    """One point of a study: so many labels."""

    fraction: float
    """Share of the training patients, as given, or that of the count."""
    count: int | None = None
    """Number of training patients where that is what was given."""

    def options(self) -> dict[str, Any]:
        """The options of a run at this point."""
        return {"label_fraction": self.fraction if self.count is None else 1.0, "label_count": self.count}

    def folder(self) -> str:
        """The beginning of the name of such a run's folder."""
        return f"share-{self.fraction:g}" if self.count is None else f"count-{self.count}"


def label_points(
    config: LabelledConfig, fractions: Sequence[float], counts: Sequence[int]
) -> list[LabelPoint]:
    """The points of a study, from few labels to many. Raises DataError for more patients than there are."""
    from evax.data.labelled import LabelShare, split_rows
    from evax.data.store import open_store

    store = open_store(config.store)
    train, _, _ = split_rows(store, config.split, config.split_by)
    people = store.manifest.table["patient"].iloc[train].nunique()
    points = [LabelPoint(fraction) for fraction in fractions]
    points += [LabelPoint(LabelShare(count=count).patients(people) / people, count) for count in counts]
    return sorted(points, key=lambda point: point.fraction)


def with_one_precision(config: C, resume: bool) -> C:
    """The precision of all runs, decided once: the timing behind "auto" depends on the machine's load."""
    from evax.training.runtime import bf16_is_faster

    if config.precision != "auto":
        return config
    before = config.out / "config.yaml"
    if resume and before.is_file():
        return replace(config, precision=read_recipe(before, type(config))["precision"])
    return replace(config, precision="bf16" if bf16_is_faster() else "fp32")


def run_of(kind: type[C], study: LabelledConfig, **own: Any) -> C:
    """The config of one run: the options of the study, but for its own."""
    return kind(**({item.name: getattr(study, item.name) for item in fields(kind)} | own))


def report_of(run: C, job: Callable[[C], Path], fingerprint: str, keep_bundle: bool) -> dict[str, Any]:
    """The report of one run, which is made unless it is there; an interrupted run starts anew.

    fingerprint: see data_fingerprint. keep_bundle: else the classifier is deleted once it is tested.
    Raises ConfigError when the run was made with other options or data, and whatever the job raises.
    """
    from evax.files import read_json

    path = run.out / "report.json"
    if not path.is_file():
        if run.out.exists():
            shutil.rmtree(run.out)
        job(run)
    if not keep_bundle and (run.out / "bundle").is_dir():
        shutil.rmtree(run.out / "bundle")
    report: dict[str, Any] = read_json(path)
    # a run made before an option existed had what is now its default
    asked, made = to_plain(run), to_plain(type(run)(store=run.store, out=run.out)) | report["recipe"]
    changed = [name for name in asked if name not in MAY_DIFFER and asked[name] != made[name]]
    if changed or report["data_fingerprint"] != fingerprint:
        what = changed[0] if changed else "store or split"
        raise ConfigError(
            f"{run.out} was made with another {what}. Choose another --out, or delete that folder."
        )
    return report


def row_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a study keeps of a run; the interval is the one over patients."""
    return {
        **scores_of(report, report["test_metrics"]),
        "validation_mauc": report["validation_mauc"],
        "best_step": report["best_step"],
        "folder": f"{RUNS}/{Path(report['recipe']['out']).name}",
    }


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


def over_seeds(config: C, job: Callable[[C], Path], seeds: Sequence[int], resume: bool) -> Path:
    """The same run with each seed, OUT/runs/seed-*; returns the path of OUT/seeds.json."""
    from evax.data.labelled import data_fingerprint
    from evax.data.store import open_store
    from evax.files import write_json
    from evax.reporting.paper import choices_of
    from evax.reporting.protocol import study_card
    from evax.training.tracking import start_run

    fingerprint = data_fingerprint(open_store(config.store), config.split)
    config = with_one_precision(config, resume)
    start_run(config.out, config, resume)
    reports = []
    for seed in seeds:
        run = run_of(type(config), config, out=config.out / RUNS / f"seed-{seed}", seed=seed, **ALONE)
        reports.append(report_of(run, job, fingerprint, keep_bundle=True))
    rows = [row_of(report) for report in reports]
    leaks = config.split_by == "film"
    card = study_card(config, "seeds", fingerprint, name="", leaks=leaks, spread=SPREAD.format("seeds"))
    card["protocol"] |= choices_of(reports[0]["protocol"])
    write_json(card | summary_of(rows) | {"runs": rows}, config.out / "seeds.json")
    write_rows(rows, config.out / "seeds.csv")
    return config.out / "seeds.json"

"""evax fewshot: how many labels are needed? The same fine-tuning on shares of the training patients."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from evax.config import read_recipe, to_plain
from evax.errors import ConfigError
from evax.jobs.finetune import FinetuneConfig, finetune

RUNS = "runs"
MAY_DIFFER = ("out", "store", "workers")  # where things lie, and how fast; the store has a fingerprint


@dataclass(frozen=True, kw_only=True)
class FewshotConfig(FinetuneConfig):
    """Fine-tune on growing shares of the training patients, with several seeds; all else is as in finetune.

    A seed draws the patients, the head, the order and the crops. Each run is a folder OUT/runs/*; the results
    are OUT/fewshot.json, fewshot.csv, fewshot.svg and fewshot.png.
    """

    out: Path
    """Run folder of the sweep; an existing one is continued with resume."""
    name: str = ""
    """Of the curve in figures; empty: encoder and the end of the weights' path."""
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Shares of the training patients, each in (0, 1]."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run per seed and share."""
    lrs: tuple[float, ...] = ()
    """Peak learning rates to choose from, per share, by the first seed's validation mAUC; the choice then
    holds for all seeds. Empty: optimizer.lr."""
    bundles: bool = False
    """Keep the classifier of every run, OUT/runs/*/bundle."""
    resume: bool = False
    """Continue the sweep in OUT: finished runs are not repeated."""
    label_fraction: Annotated[float, tyro.conf.Suppress] = 1.0
    """Set by fractions."""
    seed: Annotated[int, tyro.conf.Suppress] = 0
    """Set by seeds."""
    protocol: Annotated[Literal["clean", "paper"], tyro.conf.Suppress] = "clean"
    """Of every run; validation chooses the learning rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_fraction != 1 or self.seed != 0:
            raise ConfigError("fewshot sets label_fraction and seed itself: give fractions and seeds.")
        if self.protocol != "clean":
            raise ConfigError("fewshot has the clean protocol only: leave protocol out.")
        for name in ("fractions", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name} must be different values, at least one, got {values}.")
        if not all(0 < fraction <= 1 for fraction in self.fractions):
            raise ConfigError(f"fractions must lie in (0, 1], got {self.fractions}.")
        if not all(lr > 0 for lr in self.lrs):
            raise ConfigError(f"lrs must be above 0, got {self.lrs}.")


def fewshot(config: FewshotConfig) -> Path:
    """Runs what is not finished yet and returns the path of fewshot.json.

    Raises ConfigError when a finished run in OUT was made with other options, and whatever finetune raises.
    """
    from evax.data.store import open_store
    from evax.files import write_json
    from evax.reporting.few_labels import draw_few_labels
    from evax.training.tracking import start_run

    fingerprint = open_store(config.store).fingerprint
    config = with_one_precision(config)
    log = start_run(config.out, config, config.resume)
    points = []
    for fraction in sorted(config.fractions):
        trials = {
            lr: one_run(config, fingerprint, fraction, config.seeds[0], lr)["validation_mauc"]
            for lr in config.lrs
        }
        lr = max(trials, key=lambda lr: trials[lr]) if trials else config.optimizer.lr
        runs = [row_of(one_run(config, fingerprint, fraction, seed, lr)) for seed in config.seeds]
        tried = [{"lr": lr, "validation_mauc": score} for lr, score in trials.items()]
        points.append({"fraction": fraction, "lr": lr, "lr_trials": tried, **summary_of(runs), "runs": runs})
        log.write("fraction", fraction=fraction, lr=lr, mauc=points[-1]["mauc"]["mean"])
    result = config.out / "fewshot.json"
    write_json(protocol_of(config, fingerprint) | {"points": points}, result)
    write_table(points, config.out / "fewshot.csv")
    draw_few_labels([result], config.out / "fewshot")
    return result


def with_one_precision(config: FewshotConfig) -> FewshotConfig:
    """The precision of all runs, decided once: the timing behind "auto" depends on the machine's load."""
    from evax.training.runtime import bf16_is_faster

    if config.precision != "auto":
        return config
    before = config.out / "config.yaml"
    if config.resume and before.is_file():
        return replace(config, precision=read_recipe(before, FewshotConfig)["precision"])
    return replace(config, precision="bf16" if bf16_is_faster() else "fp32")


def one_run(config: FewshotConfig, fingerprint: str, fraction: float, seed: int, lr: float) -> dict[str, Any]:
    """The report of one run, which is made unless it is there; an interrupted run starts anew."""
    from evax.files import read_json

    shared = {item.name: getattr(config, item.name) for item in fields(FinetuneConfig)}
    own = {
        "out": config.out / RUNS / f"share-{fraction:g}-lr-{lr:g}-seed-{seed}",
        "label_fraction": fraction,
        "seed": seed,
        "optimizer": replace(config.optimizer, lr=lr),
    }
    run = FinetuneConfig(**(shared | own))
    path = run.out / "report.json"
    if not path.is_file():
        if run.out.exists():
            shutil.rmtree(run.out)
        finetune(run)
    if not config.bundles and (run.out / "bundle").is_dir():
        shutil.rmtree(run.out / "bundle")
    report: dict[str, Any] = read_json(path)
    asked, made = to_plain(run), report["recipe"]
    changed = [name for name in asked if name not in MAY_DIFFER and asked[name] != made.get(name)]
    if changed or report["data_fingerprint"] != fingerprint:
        what = changed[0] if changed else "store"
        raise ConfigError(
            f"{run.out} was made with another {what}. Choose another --out, or delete that folder."
        )
    return report


def row_of(report: dict[str, Any]) -> dict[str, Any]:
    """What the sweep keeps of a run; the interval is the one over patients."""
    metrics = report["test_metrics"]
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
        "validation_mauc": report["validation_mauc"],
        "best_step": report["best_step"],
        "folder": f"{RUNS}/{Path(report['recipe']['out']).name}",
    }


def summary_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean, sd and t-interval over seeds of mAUC and mAcc; None where undefined."""
    import numpy as np

    from evax.evaluation.intervals import seed_interval

    def plain(number: float) -> float | None:
        return None if np.isnan(number) else float(number)

    summary: dict[str, Any] = {}
    for score in ("mauc", "macc"):
        values = np.array([run[score] for run in runs], dtype=np.float64)
        defined = values[~np.isnan(values)]
        interval = seed_interval(values)
        summary[score] = {
            "mean": plain(defined.mean()) if len(defined) else None,
            "sd": plain(defined.std(ddof=1)) if len(defined) > 1 else None,
            "interval": [plain(interval.low), plain(interval.high)],
            "interval_method": interval.method,
        }
    return summary


def protocol_of(config: FewshotConfig, fingerprint: str) -> dict[str, Any]:
    """What every number of the sweep must carry."""
    from evax.reporting.protocol import CLEAN

    start = "/".join(config.weights.parts[-2:]) if config.weights else "random weights"
    return {
        "kind": "fewshot",
        "name": config.name or f"{config.encoder}, {start}",
        "encoder": config.encoder,
        "weights": str(config.weights) if config.weights else None,
        "data_fingerprint": fingerprint,
        "protocol": {
            **CLEAN,
            "checkpoint_chosen_on": "validation mAUC; mAUC and mAcc are those of this one checkpoint",
            "lr_chosen_on": f"validation mAUC of seed {config.seeds[0]}, per share, then fixed for all seeds"
            if config.lrs
            else "not chosen: optimizer.lr",
            "subset": "fixed: drawn once per seed among the training patients, the smaller within the larger",
            "steps": "the same for every share",
            "spread": "mean, sd (n - 1) and 95 % t-interval over seeds; *_patient_interval is the bootstrap "
            "over test patients of one run",
        },
        "recipe": to_plain(config),
    }


def write_table(points: Sequence[dict[str, Any]], path: Path) -> None:
    """One line per run."""
    import csv

    from evax.files import replaced_whole

    rows = [
        {"fraction": point["fraction"], "lr": point["lr"], **run} for point in points for run in point["runs"]
    ]
    for row in rows:
        for score in ("mauc", "macc"):
            row[f"{score}_low"], row[f"{score}_high"] = row.pop(f"{score}_patient_interval")
    with replaced_whole(path) as unfinished, unfinished.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)

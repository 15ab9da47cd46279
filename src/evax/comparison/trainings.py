"""A finished fine-tuning, or one classifier of a probe, read from its folder: its report and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evax.errors import DataError
from evax.runs.files import Facts, of_way, read_facts, read_predictions

INSTEAD = {  # a result that is no run -> what it is, and what to give
    "crossvalidate.json": "a cross-validation, whose folds are tested on different films. Give the same "
    "fold of each, as {folder}/runs/fold-0",
}


@dataclass(frozen=True, eq=False)
class Answers:
    """A network's probabilities (S, K) and the labels (S, K), 1, 0 or NaN, of one split."""

    images: Any
    patients: Any
    labels: Any
    probabilities: Any
    """In the precision that they were given in: thresholds lie between these very numbers."""


@dataclass(frozen=True, eq=False)
class Training:
    """One fine-tuning, or one of the two classifiers of a probe: its report and its answers."""

    folder: Path
    report: Facts
    test: Answers
    validation: Answers | None
    """None where the table was not kept, or there are no such films."""

    @property
    def images(self) -> Any:
        """(S,), names of the test films in order."""
        return self.test.images

    @property
    def thresholds(self) -> Any:
        """(K,), chosen on validation, NaN where there is none."""
        return np.array([row["threshold"] for row in self.report["test_metrics"]["findings"]], dtype=float)

    @property
    def learned(self) -> Any:
        """(K,), findings that its training films taught; of a run that does not say, all."""
        return np.array([row.get("learned", True) for row in self.report["test_metrics"]["findings"]])


def read_report(folder: Path) -> Facts:
    """Of a finished fine-tuning or probe. Raises DataError, saying what is missing, for anything else."""
    for name, instead in INSTEAD.items():
        if (folder / name).is_file():
            raise DataError(f"{folder} is {instead.format(folder=folder)}.")
    if not (folder / "report.json").is_file():
        raise DataError(
            f"{folder} holds no finished run: it has none of report.json, seeds.json, fewshot.json and "
            "linear.json. Give the folder that --out of finetune, fewshot or probe named, once that run is "
            "done."
        )
    report = read_facts(folder / "report.json")
    if report["kind"] not in ("finetune", "probe"):
        raise DataError(
            f"{folder} is a run of {report['kind']}; compare takes runs of finetune, fewshot and probe, or "
            "of pretrain alone."
        )
    return report


def read_training(folder: Path, report: Facts, way: str | None) -> Training:
    """A fine-tuning, or the classifier of a probe that was learned in this way, with its answers.

    Raises DataError when its answers for the test films are missing.
    """
    report = report if way is None else of_way(report, way)
    metrics = report["test_metrics"]
    findings = [row["name"] for row in metrics["findings"]]
    stem, precision = ("predictions", np.float32) if way is None else (f"predictions-{way}", np.float64)
    test = read_answers(folder / f"{stem}-test.csv", findings, metrics["n"], precision)
    if test is None:
        raise DataError(f"{folder} has no {stem}-test.csv, which every comparison needs: run it again.")
    films = report["validation"]["films"]  # protocol paper needs none
    validation = read_answers(folder / f"{stem}-val.csv", findings, films, precision) if films else None
    return Training(folder, report, test, validation)


def read_answers(path: Path, findings: Sequence[str], films: int, precision: type) -> Answers | None:
    """A table of predictions, None where it was not kept. precision: of the probabilities."""
    table = read_predictions(path, findings, films)
    if table is None:
        return None

    def columns(kind: str) -> pd.DataFrame:
        return table[[f"{kind}:{finding}" for finding in findings]]

    return Answers(
        images=table["image"].to_numpy(dtype=str),
        patients=table["patient"].to_numpy(dtype=str),
        labels=columns("label").to_numpy(dtype=np.float64),
        probabilities=columns("probability").to_numpy(dtype=precision),
    )

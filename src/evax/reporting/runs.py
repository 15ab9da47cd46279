"""Finished runs that may be compared: same films, split and protocol, or a sentence that says why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evax.errors import ConfigError, DataError
from evax.evaluation.report import TOP1
from evax.reporting.run_files import Facts, read_facts, read_predictions

# of a protocol: what a comparison may be about, and what follows from the share of the labels
MAY_DIFFER = {"label_fraction", "label_count", "patients_in_several_parts", "seed", "interval"}
INSTEAD = {  # a result that is no run -> what it is, and what to give
    "crossvalidate.json": "a cross-validation, whose folds are tested on different films. Give the same "
    "fold of each, as {folder}/runs/fold-0",
    "linear.json": "a sweep of evax probe, which fine-tunes nothing; its scores stand in linear.csv and "
    "knn.csv beside it. Give runs of finetune or fewshot",
}


@dataclass(frozen=True, eq=False)
class Answers:
    """A network's probabilities (S, K) and the labels (S, K), 1, 0 or NaN, of one split."""

    images: Any
    patients: Any
    labels: Any
    probabilities: Any
    """float32, as the network gave them: thresholds lie between these very numbers."""


@dataclass(frozen=True, eq=False)
class Training:
    """One fine-tuning: its report and its answers."""

    folder: Path
    report: Facts
    test: Answers
    validation: Answers | None
    """None where the table was not kept, or there are no such films."""

    @property
    def thresholds(self) -> Any:
        """(K,), chosen on validation, NaN where there is none."""
        return np.array([row["threshold"] for row in self.report["test_metrics"]["findings"]], dtype=float)


@dataclass(frozen=True, eq=False)
class Entry:
    """A row of the comparison: one fine-tuning, its seeds, or those of a sweep at one share of the labels."""

    name: str
    run: str
    """Name of the run or sweep it belongs to."""
    fraction: float
    trainings: tuple[Training, ...]

    @property
    def report(self) -> Facts:
        """Of the first training; what all seeds of a sweep share can be read there."""
        return self.trainings[0].report

    @property
    def seeds(self) -> list[int]:
        """Of the trainings, in order."""
        return [training.report["protocol"]["seed"] for training in self.trainings]

    def range_of(self, part: str, unit: str) -> list[int]:
        """The fewest and the most films or patients of a split over the trainings."""
        counts = [training.report[part][unit] for training in self.trainings]
        return [min(counts), max(counts)]


@dataclass(frozen=True, eq=False)
class Runs:
    """Rows that were tested on the same films under the same protocol, and what they share."""

    entries: tuple[Entry, ...]
    sweeps: tuple[tuple[str, Path], ...]
    """Name and fewshot.json of each sweep."""
    findings: tuple[str, ...]
    exclusive: bool

    @property
    def test(self) -> Answers:
        """Films, patients and labels of the test split (and the first run's probabilities)."""
        return self.entries[0].trainings[0].test


def read_runs(folders: Sequence[Path], names: Sequence[str]) -> Runs:
    """Reads finished runs of finetune, one by one or over seeds, and of fewshot.

    names: one per folder, or none: then the folders' own, with as many parents as tell them apart.
    Raises DataError for a folder that holds no finished run, and for runs that must not be compared.
    """
    if names and (len(names) != len(folders) or len(set(names)) < len(names)):
        raise ConfigError(f"{len(names)} names for {len(folders)} runs: give each run a name of its own.")
    entries: list[Entry] = []
    sweeps: list[tuple[str, Path]] = []
    for folder, name in zip(folders, names or distinct_names(folders), strict=True):
        if (folder / "fewshot.json").is_file():
            sweeps.append((name, folder / "fewshot.json"))
            for point in read_facts(folder / "fewshot.json")["points"]:
                count = point.get("count")
                amount = f"{count} patients" if count else f"{100 * point['fraction']:g} %"
                trainings = read_trainings(folder, point["runs"])
                entries.append(Entry(f"{name}, {amount}", name, point["fraction"], trainings))
        elif (folder / "seeds.json").is_file():
            trainings = read_trainings(folder, read_facts(folder / "seeds.json")["runs"])
            fraction = trainings[0].report["protocol"]["label_fraction"]
            entries.append(Entry(name, name, fraction, trainings))
        else:
            training = read_training(folder)
            fraction = training.report["protocol"]["label_fraction"]
            entries.append(Entry(name, name, fraction, (training,)))
    first, *others = [training for entry in entries for training in entry.trainings]
    for other in others:
        refuse_other_ground(first, other)
    metrics = first.report["test_metrics"]
    findings = tuple(row["name"] for row in metrics["findings"])
    return Runs(tuple(entries), tuple(sweeps), findings, metrics["macc"]["reading"] == TOP1)


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or the whole path where two end alike."""
    ends = [folder.resolve().name for folder in folders]
    counts = Counter(ends)
    names = [end if counts[end] == 1 else str(folder) for end, folder in zip(ends, folders, strict=True)]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ConfigError(f"{twice} is given twice: a run differs from itself by nothing. Leave one out.")
    return names


def read_trainings(folder: Path, runs: Sequence[Facts]) -> tuple[Training, ...]:
    """The fine-tunings of a study that lie in its folder."""
    return tuple(read_training(folder / "runs" / Path(run["folder"]).name) for run in runs)


def read_training(folder: Path) -> Training:
    """A finished fine-tuning. Raises DataError, saying what is missing, for anything else."""
    for name, instead in INSTEAD.items():
        if (folder / name).is_file():
            raise DataError(f"{folder} is {instead.format(folder=folder)}.")
    if not (folder / "report.json").is_file():
        raise DataError(
            f"{folder} holds no finished run: it has none of report.json, seeds.json and fewshot.json. Give "
            "the folder that --out of finetune or fewshot named, once that run is done."
        )
    report = read_facts(folder / "report.json")
    if report["kind"] != "finetune":
        raise DataError(f"{folder} is a run of {report['kind']}; compare takes runs of finetune and fewshot.")
    metrics = report["test_metrics"]
    findings = [row["name"] for row in metrics["findings"]]
    test = read_answers(folder / "predictions-test.csv", findings, metrics["n"])
    if test is None:
        raise DataError(f"{folder} has no predictions-test.csv, which every comparison needs: run it again.")
    films = report["validation"]["films"]  # protocol paper needs none
    validation = read_answers(folder / "predictions-val.csv", findings, films) if films else None
    return Training(folder, report, test, validation)


def read_answers(path: Path, findings: Sequence[str], films: int) -> Answers | None:
    """A table of predictions, None where it was not kept."""
    table = read_predictions(path, findings, films)
    if table is None:
        return None

    def columns(kind: str) -> pd.DataFrame:
        return table[[f"{kind}:{finding}" for finding in findings]]

    return Answers(
        images=table["image"].to_numpy(dtype=str),
        patients=table["patient"].to_numpy(dtype=str),
        labels=columns("label").to_numpy(dtype=np.float64),
        probabilities=columns("probability").to_numpy(dtype=np.float32),
    )


def refuse_other_ground(first: Training, other: Training) -> None:
    """Raises DataError unless both numbers are about the same films, labels and choices."""
    where = f"{first.folder} and {other.folder}"
    ours, theirs = first.report, other.report
    if ours["data_fingerprint"] != theirs["data_fingerprint"]:
        raise DataError(
            f"{where} learned from different stores (fingerprints {ours['data_fingerprint'][:12]} and "
            f"{theirs['data_fingerprint'][:12]}): a difference could come from the films. "
            "Run one of them again on the other's store."
        )
    names = [[row["name"] for row in report["test_metrics"]["findings"]] for report in (ours, theirs)]
    if names[0] != names[1]:
        raise DataError(
            f"{where} were tested for different findings ({', '.join(names[0])} and {', '.join(names[1])}): "
            "their means are different quantities. Run one of them again with the other's labels."
        )
    if not np.array_equal(first.test.images, other.test.images):
        apart = len(set(first.test.images) ^ set(other.test.images))
        raise DataError(
            f"{where} were not tested on the same films: {apart} films are in one test split only. "
            "Run both on one store with one split."
        )
    mine, yours = ours["protocol"], theirs["protocol"]
    for key in sorted((set(mine) | set(yours)) - MAY_DIFFER):
        if mine.get(key) != yours.get(key):
            raise DataError(
                f"{where} were run under different protocols: {key.replace('_', ' ')} is "
                f"'{mine.get(key)}' in the first and '{yours.get(key)}' in the second. "
                "Run one of them again as the other."
            )
    if not np.array_equal(first.test.labels, other.test.labels, equal_nan=True):
        raise DataError(
            f"{where} have other labels for the same test films: one table was changed. Run it again."
        )

"""Finished runs as the rows of a comparison: one training, the seeds of one, or a share of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evax.comparison.comparable import refuse_other_films, refuse_other_labels, refuse_other_protocols
from evax.comparison.trainings import Answers, Training, read_report, read_training
from evax.errors import ConfigError
from evax.evaluation.report import TOP1
from evax.evaluation.study_rows import RUNS, WAYS
from evax.files import name_of
from evax.runs.files import Facts, read_facts

SWEEPS = {"fewshot.json": None, "linear.json": "linear", "knn.json": "knn"}  # result -> way of the probes


@dataclass(frozen=True, eq=False)
class Entry:
    """A row of the comparison: one training, its seeds, or those of a sweep at one share of the labels."""

    name: str
    run: str
    """Name of the run or sweep it belongs to."""
    way: str | None
    """One of WAYS for a probe, None for a fine-tuning."""
    fraction: float
    trainings: tuple[Training, ...]

    @property
    def curve(self) -> str:
        """Name of all rows of its run that were learned in its way."""
        return curve_name(self.run, self.way)

    @property
    def learned_by(self) -> str:
        """The way in words."""
        return "fine-tuning" if self.way is None else WAYS[self.way]

    @property
    def report(self) -> Facts:
        """Of the first training; what all seeds of a sweep share can be read there."""
        return self.trainings[0].report

    @property
    def seeds(self) -> list[int]:
        """Of the trainings, in order."""
        return [training.report["protocol"]["seed"] for training in self.trainings]

    @property
    def learned(self) -> Any:
        """(K,), findings that all its trainings learned."""
        return np.all([training.learned for training in self.trainings], axis=0)

    def range_of(self, part: str, unit: str) -> list[int]:
        """The fewest and the most films or patients of a split over the trainings."""
        counts = [training.report[part][unit] for training in self.trainings]
        return [min(counts), max(counts)]


@dataclass(frozen=True, eq=False)
class Runs:
    """Rows that were tested on the same films under the same protocol, and what they share."""

    entries: tuple[Entry, ...]
    sweeps: tuple[tuple[str, Path], ...]
    """Name of its curve and result of each sweep, see SWEEPS."""
    findings: tuple[str, ...]
    exclusive: bool

    @property
    def test(self) -> Answers:
        """Films and patients of the test split (and the first run's answers)."""
        return self.entries[0].trainings[0].test

    @property
    def labels(self) -> Any:
        """(S, K), 1, 0 or NaN; probes keep no labels of a finding that they do not know."""
        trainings = [training for entry in self.entries for training in entry.trainings]
        knowing = [
            next((each for each in trainings if each.learned[k]), trainings[0])
            for k in range(len(self.findings))
        ]
        return np.stack([each.test.labels[:, k] for k, each in enumerate(knowing)], axis=1)


def read_runs(folders: Sequence[Path], names: Sequence[str]) -> Runs:
    """Reads finished runs of finetune, one by one or over seeds, of fewshot, and of probe, single or sweeps.

    names: one per folder, or none: then the folders' own, with as many parents as tell them apart.
    Raises DataError for a folder that holds no finished run, and for runs that must not be compared.
    """
    if names and (len(names) != len(folders) or len(set(names)) < len(names)):
        raise ConfigError(f"{len(names)} names for {len(folders)} runs: give each run a name of its own.")
    entries: list[Entry] = []
    sweeps: list[tuple[str, Path]] = []
    for folder, name in zip(folders, names or distinct_names(folders), strict=True):
        results = [(folder / file, way) for file, way in SWEEPS.items() if (folder / file).is_file()]
        for result, way in results:
            sweeps.append((curve_name(name, way), result))
            entries += sweep_entries(name, result, way)
        if not results:
            entries += run_entries(name, folder)
    first, *others = trainings = [training for entry in entries for training in entry.trainings]
    for other in others:
        refuse_other_films(first, other)
    refuse_other_protocols(trainings)
    for other in others:
        refuse_other_labels(first, other)
    metrics = first.report["test_metrics"]
    findings = tuple(row["name"] for row in metrics["findings"])
    return Runs(tuple(entries), tuple(sweeps), findings, metrics["macc"]["reading"] == TOP1)


def curve_name(run: str, way: str | None) -> str:
    """What the rows of a run are called that were learned in one way."""
    return run if way is None else f"{run}, {way}"


def sweep_entries(name: str, result: Path, way: str | None) -> list[Entry]:
    """A row per share of the labels or number of patients. result, way: see SWEEPS."""
    entries = []
    for point in read_facts(result)["points"]:
        count = point.get("count")
        amount = f"{count} patients" if count else f"{100 * point['fraction']:g} %"
        trainings = read_trainings(result.parent, point["runs"], way)
        entries.append(Entry(f"{curve_name(name, way)}, {amount}", name, way, point["fraction"], trainings))
    return entries


def run_entries(name: str, folder: Path) -> list[Entry]:
    """The row of a fine-tuning or of its seeds, or the two of a probe."""
    rows: dict[str | None, tuple[Training, ...]]
    if (folder / "seeds.json").is_file():
        rows = {None: read_trainings(folder, read_facts(folder / "seeds.json")["runs"], None)}
    else:
        report = read_report(folder)
        ways: Sequence[str | None] = (*WAYS,) if report["kind"] == "probe" else (None,)
        rows = {way: (read_training(folder, report, way),) for way in ways}
    return [
        Entry(curve_name(name, way), name, way, row[0].report["protocol"]["label_fraction"], row)
        for way, row in rows.items()
    ]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or the whole path where two end alike."""
    ends = [name_of(folder.resolve().name) for folder in folders]
    counts = Counter(ends)
    names = [end if counts[end] == 1 else name_of(folder) for end, folder in zip(ends, folders, strict=True)]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ConfigError(f"{twice} is given twice: a run differs from itself by nothing. Leave one out.")
    return names


def read_trainings(folder: Path, runs: Sequence[Facts], way: str | None) -> tuple[Training, ...]:
    """The runs of a study that lie in its folder. way: of probes."""
    places = [folder / RUNS / Path(run["folder"]).name for run in runs]
    return tuple(read_training(place, read_report(place), way) for place in places)

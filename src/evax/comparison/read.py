"""Finished runs -> rows that may be compared, or an error that says why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from evax.errors import ConfigError, DataError
from evax.evaluation.metrics import TOP1
from evax.evaluation.study_rows import RUNS, WAYS
from evax.files import name_of, read_text
from evax.runs.files import NO_THRESHOLDS, Facts, of_way, read_facts, read_predictions

ALONE = {  # kind of a report: what such a run is, why it is alone, and what to do instead
    "pretrain": (
        "a pre-training",
        "no images test a pre-training, so the two share no measure. Compare pre-trainings with each other; "
        "to compare an encoder with other classifiers, give a run of evax probe --weights {one}/encoder",
    ),
    "segment": (
        "a segmentation",
        "masks and labels share no measure. Compare segmentations with each other",
    ),
}

BEGINNING = ("environment.json", "mlflow.json")  # what a run writes before it has a result


def kind_alone(folders: Sequence[Path]) -> str | None:
    """The kind of these runs where it is one of ALONE.

    Raises ConfigError where it is that of some only, and as refuse_unfinished does.
    """
    check_finished(folders)
    reports = [folder / "report.json" for folder in folders]
    kinds = [read_facts(path).get("kind") if path.is_file() else None for path in reports]
    for kind, (what, why) in ALONE.items():
        if kind in kinds and set(kinds) != {kind}:
            one, other = (
                folders[i] for i in (kinds.index(kind), [each == kind for each in kinds].index(False))
            )
            raise ConfigError(f"{one} is {what}, {other} is no finished one: {why.format(one=one)}.")
    return kinds[0] if kinds[0] in ALONE else None


def check_finished(folders: Sequence[Path]) -> None:
    """Raises DataError for a folder that does not exist, and for a run that has no result yet."""
    for folder in folders:
        if not folder.exists():
            raise DataError(f"{folder} does not exist. Give the folders that --out of the runs named.")
        if not (folder / "config.yaml").is_file() or {*folder.glob("*.json")} - {
            folder / name for name in BEGINNING
        }:
            continue
        pretrains = "\ntokenizer: " in read_text(folder / "config.yaml")
        rest = "evax pretrain ... --resume" if pretrains else "wait for it, or run its command again"
        raise DataError(f"{folder} is not finished: {rest}.")


def named(folders: Sequence[Path], names: Sequence[str]) -> list[str]:
    """The names given, else the folders'. Raises ConfigError unless each run has one of its own."""
    if names and (len(names) != len(folders) or len(set(names)) < len(names)):
        raise ConfigError(f"{len(names)} names for {len(folders)} runs: give each run a name of its own.")
    return list(names) or distinct_names(folders)


INSTEAD = {  # a result that is no run -> what it is, and what to give
    "crossvalidate.json": "a cross-validation, whose folds are tested on different images. Give the same "
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
    """None where the table was not kept, or there are no such images."""

    @property
    def images(self) -> Any:
        """(S,), names of the test images in order."""
        return self.test.images

    @property
    def thresholds(self) -> Any:
        """(K,), chosen on validation, NaN where there is none."""
        return np.array([row["threshold"] for row in self.report["test_metrics"]["findings"]], dtype=float)

    @property
    def learned(self) -> Any:
        """(K,), findings that its training images taught; of a run that does not say, all."""
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

    Raises DataError when its answers for the test images are missing.
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


# of a protocol: what a comparison may be about, and what follows from the share of the labels
MAY_DIFFER = {"label_fraction", "label_count", "patients_in_several_parts", "seed", "interval"}
# what a fine-tuning has to say and a probe has not, or the other way round; those who say it must agree
OF_SOME = ("checkpoint_chosen_on", "strength_chosen_on", "features")
UNSAID = {"subset": "fixed", "stratified": False}  # of probes, and of runs before there was a choice


class Tested(Protocol):
    """A run with the images it was tested on."""

    @property
    def folder(self) -> Path: ...
    @property
    def report(self) -> Facts: ...
    @property
    def images(self) -> Any:
        """(S,), names of the test images in order."""


def check_same_images(first: Tested, other: Tested) -> None:
    """Raises DataError unless both numbers are about the same findings on the same images."""
    where = f"{first.folder} and {other.folder}"
    ours, theirs = first.report, other.report
    if ours["data_fingerprint"] != theirs["data_fingerprint"]:
        raise DataError(
            f"{where} learned from different stores (fingerprints {ours['data_fingerprint'][:12]} and "
            f"{theirs['data_fingerprint'][:12]}): a difference could come from the images. "
            "Run one of them again on the other's store."
        )
    names = [[row["name"] for row in report["test_metrics"]["findings"]] for report in (ours, theirs)]
    if names[0] != names[1]:
        raise DataError(
            f"{where} were tested for different findings ({', '.join(names[0])} and {', '.join(names[1])}): "
            "their means are different quantities. Run one of them again with the other's labels."
        )
    if not np.array_equal(first.images, other.images):
        apart = len(set(first.images) ^ set(other.images))
        raise DataError(
            f"{where} were not tested on the same images: {apart} images are in one test split only. "
            "Run both on one store with one split."
        )


def protocol_entry(training: Tested, key: str) -> Any:
    """Of its protocol; what older runs and probes do not say is what it then was.

    Older runs of exclusive classes chose thresholds, which no number of a comparison uses.
    """
    protocol, accuracy = training.report["protocol"], training.report["test_metrics"].get("macc", {})
    exclusive = accuracy.get("reading") == TOP1
    if key == "thresholds_chosen_on" and exclusive and protocol["name"] != "paper":
        return NO_THRESHOLDS
    return protocol.get(key, UNSAID.get(key))


def check_same_protocols(trainings: Sequence[Tested]) -> None:
    """Raises DataError unless all trainings agree in whatever chose and scored them."""
    for key in sorted({key for training in trainings for key in training.report["protocol"]} - MAY_DIFFER):
        bound = [each for each in trainings if key not in OF_SOME or key in each.report["protocol"]]
        for other in bound[1:]:
            mine, yours = (protocol_entry(each, key) for each in (bound[0], other))
            if mine != yours:
                raise DataError(
                    f"{bound[0].folder} and {other.folder} were run under different protocols: "
                    f"{key.replace('_', ' ')} is '{mine}' in the first and '{yours}' in the second. "
                    "Run one of them again as the other."
                )


def check_same_labels(first: Training, other: Training) -> None:
    """Raises DataError unless both were held against the same labels."""
    where = f"{first.folder} and {other.folder}"
    both = first.learned & other.learned  # of the others, a probe keeps no labels where it knows none
    silent = [np.isnan(each.test.labels).all(axis=0) & both for each in (first, other)]
    if (apart := np.flatnonzero(silent[0] != silent[1])).size:
        quiet = other if silent[1][apart[0]] else first
        name = first.report["test_metrics"]["findings"][apart[0]]["name"]
        raise DataError(
            f"{where} cannot be compared: no training image of {quiet.folder} knows {name}, so that its mean "
            "is over fewer findings. Run both with --findings that all their training images know, or compare "
            "larger shares."
        )
    if not np.array_equal(first.test.labels[:, both], other.test.labels[:, both], equal_nan=True):
        raise DataError(
            f"{where} have other labels for the same test images: one table was changed. Run it again."
        )


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
        """The fewest and the most images or patients of a split over the trainings."""
        counts = [training.report[part][unit] for training in self.trainings]
        return [min(counts), max(counts)]


@dataclass(frozen=True, eq=False)
class Runs:
    """Rows that were tested on the same images under the same protocol, and what they share."""

    entries: tuple[Entry, ...]
    sweeps: tuple[tuple[str, Path], ...]
    """Name of its curve and result of each sweep, see SWEEPS."""
    findings: tuple[str, ...]
    exclusive: bool

    @property
    def test(self) -> Answers:
        """Images and patients of the test split (and the first run's answers)."""
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
        check_same_images(first, other)
    check_same_protocols(trainings)
    for other in others:
        check_same_labels(first, other)
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

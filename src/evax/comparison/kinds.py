"""Runs that are compared among themselves alone, because nothing else is measured as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evax.comparison.runs import distinct_names
from evax.errors import ConfigError, DataError
from evax.files import read_text
from evax.runs.files import read_facts

ALONE = {  # kind of a report: what such a run is, why it is alone, and what to do instead
    "pretrain": (
        "a pre-training",
        "no films test a pre-training, so the two share no measure. Compare pre-trainings with each other; "
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
    refuse_unfinished(folders)
    reports = [folder / "report.json" for folder in folders]
    kinds = [read_facts(path).get("kind") if path.is_file() else None for path in reports]
    for kind, (what, why) in ALONE.items():
        if kind in kinds and set(kinds) != {kind}:
            one, other = (
                folders[i] for i in (kinds.index(kind), [each == kind for each in kinds].index(False))
            )
            raise ConfigError(f"{one} is {what}, {other} is no finished one: {why.format(one=one)}.")
    return kinds[0] if kinds[0] in ALONE else None


def refuse_unfinished(folders: Sequence[Path]) -> None:
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

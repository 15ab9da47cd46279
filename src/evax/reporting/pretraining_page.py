"""Finished runs of `evax pretrain` -> one page, table and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from evax.errors import ConfigError
from evax.reporting.drawing import svg_of
from evax.reporting.pretraining import tokenizer_in_words
from evax.reporting.run_files import read_facts
from evax.reporting.runs import distinct_names
from evax.reporting.template import write_page

OF_REPORT = (  # columns of the table, in order
    "encoder", "image_size", "images", "steps", "batch_size", "final_cosine", "knn_auc_first", "knn_auc_last",
    "linear_auc_last", "rankme_last", "images_per_s", "seconds",
)  # fmt: skip


def are_pretrainings(folders: Sequence[Path]) -> bool:
    """Whether all of these are finished pre-trainings. Raises ConfigError where only some are."""
    reports = [folder / "report.json" for folder in folders]
    found = [path.is_file() and read_facts(path).get("kind") == "pretrain" for path in reports]
    if any(found) and not all(found):
        one, other = folders[found.index(True)], folders[found.index(False)]
        raise ConfigError(
            f"{one} is a pre-training, {other} is no finished one: no films test a pre-training, so the "
            "two share no measure. Compare pre-trainings with each other; to compare an encoder with other "
            f"classifiers, give a run of evax probe --weights {one / 'encoder'}."
        )
    return all(found)


def pretraining_rows(folders: Sequence[Path], names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per run. names: as for read_runs. Raises DataError for a report that lacks a number."""
    if names and (len(names) != len(folders) or len(set(names)) < len(names)):
        raise ConfigError(f"{len(names)} names for {len(folders)} runs: give each run a name of its own.")
    rows = []
    for folder, name in zip(folders, names or distinct_names(folders), strict=True):
        report = read_facts(folder / "report.json")
        tokenizer = {"tokenizer": tokenizer_in_words(report["tokenizer"])}
        rows.append({"name": name} | tokenizer | {key: report[key] for key in OF_REPORT})
    return rows


def write_pretraining_page(path: Path, content: Mapping[str, Any], figure: Figure) -> None:
    """One self-contained page. content: compare.json. figure: see pretraining_figure."""
    title = "kNN mean AUC, and cosine with the tokenizer, against images seen"
    write_page(
        path,
        "pretrainings.html.j2",
        title="Comparison of pre-trainings",
        environment=content["environment"],
        comparison=content,
        picture=(title, svg_of(figure, title)),
    )

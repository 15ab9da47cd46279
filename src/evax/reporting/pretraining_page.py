"""Finished runs of `evax pretrain` -> one page, table and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from evax.reporting.drawing import svg_of
from evax.reporting.kinds import named
from evax.reporting.pretraining import tokenizer_in_words
from evax.reporting.run_files import read_facts
from evax.reporting.template import write_page

OF_REPORT = (  # columns of the table, in order
    "encoder", "image_size", "images", "steps", "batch_size", "final_cosine", "knn_auc_first", "knn_auc_last",
    "linear_auc_last", "rankme_last", "images_per_s", "seconds",
)  # fmt: skip


def pretraining_rows(folders: Sequence[Path], names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per run. names: as for named. Raises DataError for a report that lacks a number."""
    rows = []
    for folder, name in zip(folders, named(folders, names), strict=True):
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

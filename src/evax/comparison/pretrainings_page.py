"""Finished runs of `evax pretrain` -> one page, table and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from evax.comparison.kinds import named
from evax.comparison.recipe_entries import differing_entries
from evax.config import flat_options
from evax.files import read_text
from evax.pages.drawing import svg_of
from evax.pages.template import write_page
from evax.runs.files import read_facts, read_log, tokenizer_in_words

OF_REPORT = (  # columns of the table, in order
    "encoder", "image_size", "images", "images_total", "steps", "batch_size", "final_cosine",
    "knn_auc_first", "knn_auc_last", "linear_auc_last", "rankme_last", "images_per_s", "seconds",
)  # fmt: skip

NOT_LEARNED = {"out", "resume", "checkpoint_every", "probe_store", "track", "audit"}
OF_TOKENIZER = {"tokenizer_weights", "tokenizer_layer", "tokenizer_view"}  # in its words already


def pretraining_rows(folders: Sequence[Path], names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per run. names: as for named. Raises DataError for a report that lacks a number."""
    rows = []
    for folder, name in zip(folders, named(folders, names), strict=True):
        report = read_facts(folder / "report.json")
        tokenizer = {"tokenizer": tokenizer_in_words(report["tokenizer"])}
        rows.append({"name": name} | tokenizer | {key: report[key] for key in OF_REPORT})
    return rows


def differing_recipes(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """See differing_entries. Raises DataError for a report that lacks what a run is."""
    recipes = [[recipe_of(folder)] for folder in folders]
    return differing_entries(["pretrain"] * len(recipes), recipes, NOT_LEARNED)


def recipe_of(folder: Path) -> dict[str, Any]:
    """The options that a run began with; stores, weights and tokenizer by what they are in place of where
    they lay, and the precision it had.
    """
    report, log = read_facts(folder / "report.json"), read_log(folder / "log.jsonl")
    asked = yaml.safe_load(read_text(folder / "config.yaml"))
    known = {
        "stores": "fingerprint " + ", ".join(store[:12] for store in report["stores"]),
        "weights": report["weights"],
        "tokenizer": tokenizer_in_words(report["tokenizer"]),
        "precision": log["start"]["precision"].iloc[-1],
    }
    return flat_options({name: value for name, value in asked.items() if name not in OF_TOKENIZER} | known)


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

"""A run folder -> report.html: one file that shows what was done, on which films, and what came out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evax.data.store import open_store
from evax.errors import DataError
from evax.pages import figures
from evax.pages.classifier_section import comparisons, fine_tuning
from evax.pages.data_sheet import data_sheet
from evax.pages.localization_section import localisation
from evax.pages.template import write_page
from evax.runs.files import Facts, numbers, read_facts, read_log, tokenizer_in_words

KINDS = {"store", "fetch", "pretrain", "finetune", "localize", "predict"}


def write_report(run: Path) -> Path:
    """Reads the run folder and writes its report.html; returns that path.

    run: holds run.json and the folders its steps name; a step whose results are absent has no section.
    Raises DataError naming the file that is missing, damaged or incomplete.
    """
    journal = read_facts(run / "run.json")
    steps = [
        dict(step) | {"path": run / step["folder"], "kind": known_kind(step)} for step in journal["steps"]
    ]

    def views(kind: str, file: str, view: Callable[[str, Path], dict[str, Any]]) -> list[dict[str, Any]]:
        mine = [step for step in steps if step["kind"] == kind and (step["path"] / file).is_file()]
        return [view(step["name"], step["path"]) for step in mine]

    return render(
        run / "report.html",
        title=journal["title"],
        steps=steps,
        environment=journal["environment"],
        stores=views("store", "store.json", lambda name, folder: data_sheet(name, open_store(folder))),
        pretrainings=views("pretrain", "report.json", pre_training),
        runs=views("finetune", "report.json", lambda name, folder: fine_tuning(name, folder, run)),
        localisations=views("localize", "report.json", localisation),
    )


def render(
    page: Path,
    *,
    title: str,
    steps: list[dict[str, Any]],
    environment: dict[str, Any],
    stores: list[dict[str, Any]] | None = None,
    pretrainings: list[dict[str, Any]] | None = None,
    runs: list[dict[str, Any]] | None = None,
    localisations: list[dict[str, Any]] | None = None,
    segmentations: list[dict[str, Any]] | None = None,
) -> Path:
    """Writes the page and returns its path; what is not given has no section."""
    return write_page(
        page,
        "report.html.j2",
        title=title,
        steps=steps,
        environment=environment,
        stores=stores or [],
        pretrainings=pretrainings or [],
        runs=runs or [],
        comparisons=comparisons(runs or []),
        localisations=localisations or [],
        segmentations=segmentations or [],
        synthetic=any(makes_phantoms(step) for step in steps) or reads_phantoms(stores or []),
    )


def known_kind(step: Facts) -> str:
    """The kind of a step. Raises DataError for one the report does not know."""
    if step["kind"] not in KINDS:
        raise DataError(
            f"{step.path}: a step is of kind '{step['kind']}'; known: {', '.join(sorted(KINDS))}."
        )
    return str(step["kind"])


def makes_phantoms(step: dict[str, Any]) -> bool:
    """Whether a step draws or reads synthetic films."""
    return step["kind"] in ("fetch", "store") and "phantom" in step["command"]


def reads_phantoms(stores: list[dict[str, Any]]) -> bool:
    """Whether a store was made of synthetic films, as far as its source says so."""
    return any("phantom" in str(sheet["store"].card["source"]).lower() for sheet in stores)


def pre_training(name: str, folder: Path) -> dict[str, Any]:
    """The report of a pre-training run and its curves against image views."""
    report, log = read_facts(folder / "report.json"), read_log(folder / "log.jsonl")

    def curve(event: str, key: str, title: str, chance: float | None = None) -> list[tuple[str, str]]:
        table = log.get(event)
        if table is None or key not in table or not np.isfinite(numbers(table, key)).any():
            return []
        views, label = numbers(table, "images"), f"{title} of {name} against image views"
        svg = figures.curve_panel(
            views, numbers(table, key), label=label, x_label="image views", y_label=title, chance=chance
        )
        return [(title, svg)]

    probes = log.get("probe", pd.DataFrame())
    return {
        "name": name,
        "report": report,
        "tokenizer": tokenizer_in_words(report["tokenizer"]),
        "probed": len(probes) > 0,
        "probe_findings": sorted({int(n) for n in probes.get("knn_findings", ()) if n}),
        "curves": [
            *curve("step", "cosine", "cosine with the tokenizer"),
            *curve("step", "lr", "learning rate"),
            *curve("probe", "knn_auc", "kNN mean AUC", chance=0.5),
            *curve("probe", "rankme", "RankMe (effective rank)"),
        ],
    }

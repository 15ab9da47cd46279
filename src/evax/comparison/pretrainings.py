"""Finished runs of `evax pretrain` -> curves, table and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, ScalarFormatter

from evax.comparison.read import named
from evax.comparison.score import differing_entries
from evax.config import flat_options
from evax.data.store import open_store
from evax.errors import DataError
from evax.files import path_of, read_text
from evax.pages.drawing import QUIET, STYLE, add_legend, curve_style, means_of_stretches, svg_of
from evax.pages.template import write_page
from evax.runs.files import numbers, read_facts, read_log, tokenizer_in_words

STRETCHES = 60  # the cosine of single steps is noisy: means of so many stretches of a run are drawn
PANELS = (("probe", "knn_auc", "kNN mean AUC"), ("step", "cosine", "cosine with its tokenizer"))


@dataclass(frozen=True, eq=False)
class Curve:
    """What is drawn of one run in one panel."""

    run: str
    event: str
    """One of PANELS."""
    images: Any
    """(n,), image views so far."""
    values: Any
    """(n,)."""


def read_curves(runs: Sequence[Path], names: Sequence[str]) -> list[Curve]:
    """Of each run its probes and its steps, these in at most STRETCHES points.

    runs: run folders, finished or not. names: what each is called. Cosines with different tokenizers are no
    common measure; the kNN AUC on one probe store is.
    Raises DataError for a folder without steps or probes, and for runs that were probed on different stores.
    """
    logs = [read_log(run / "log.jsonl") for run in runs]
    for run, log in zip(runs, logs, strict=True):
        if not {"step", "probe"} <= log.keys():
            raise DataError(f"{run} holds no probed pre-training: run evax pretrain with --probe-store.")
    stores = [probe_store_of(run, log) for run, log in zip(runs, logs, strict=True)]
    if other := next((i for i, store in enumerate(stores) if store != stores[0]), None):
        raise DataError(
            f"{runs[0]} was probed on the store with the fingerprint {stores[0][:12]}, {runs[other]} on that "
            f"with {stores[other][:12]}: other images or labels, so compare them apart."
        )
    curves = []
    for event, key, _ in PANELS:
        for name, log in zip(names, logs, strict=True):
            images, values = numbers(log[event], "images"), numbers(log[event], key)
            images, values = images[np.isfinite(values)], values[np.isfinite(values)]
            if event == "step":
                images, values = means_of_stretches(images, values, STRETCHES)
            curves.append(Curve(name, event, images, values))
    return curves


def probe_store_of(run: Path, log: Mapping[str, pd.DataFrame]) -> str:
    """Fingerprint of the labelled store that tells how good the features of a run are.

    log: of the run, see read_log. Where its probes do not name their store, as those of early runs, it is
    the store that lies where config.yaml says. Raises DataError for probes on several stores.
    """
    probes = log["probe"]
    stores = [*probes["probe_store"].dropna().unique()] if "probe_store" in probes else []
    if len(stores) > 1:
        raise DataError(
            f"{run} was probed on several stores, with the fingerprints "
            f"{', '.join(store[:12] for store in stores)}: its probes are no curve. Pre-train it again."
        )
    return str(stores[0]) if stores else open_store(Path(str(probe_path(run)))).fingerprint


def probe_path(run: Path) -> str | None:
    """Where the labelled store lay when a run began; None where it was probed only later."""
    path: str | None = yaml.safe_load(read_text(run / "config.yaml"))["probe_store"]
    return None if path is None else path_of(path)


def points_of(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Every number that is drawn, as rows of a table."""
    keys = {event: key for event, key, _ in PANELS}
    return [
        {"name": curve.run, "of": keys[curve.event], "images": float(images), "value": float(value)}
        for curve in curves
        for images, value in zip(curve.images, curve.values, strict=True)
    ]


def pretraining_figure(curves: Sequence[Curve]) -> Figure:
    """Of the frozen features the kNN AUC, and the cosine with the tokenizer, over images seen."""
    names = list(dict.fromkeys(curve.run for curve in curves))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.2 + 0.28 * len(names)), layout="constrained", facecolor="none")
        for axes, (event, _, title) in zip(figure.subplots(1, 2), PANELS, strict=True):
            for curve in curves:
                if curve.event == event:
                    axes.plot(
                        curve.images, curve.values, label=curve.run if event == "probe" else None,
                        linewidth=2, markersize=6, markevery=1 if event == "probe" else 10,
                        **curve_style(names.index(curve.run)),
                    )  # fmt: skip
            if event == "probe":
                axes.axhline(0.5, color=QUIET, linestyle="--", linewidth=1)
            axes.set(xlabel="images seen", ylabel=title)
            axes.tick_params(length=0, pad=6)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))  # digits from the tick step
        add_legend(figure)
    return figure


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

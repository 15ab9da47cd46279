"""Results of `evax crossvalidate` in one figure, as the paper's Fig. 6."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evax.files import read_json
from evax.pages.drawing import BLUE, INK, QUIET, STYLE, VERMILLION

MEAN = "mean of findings"
FEWEST = 4  # values that have quartiles


def folds_figure(result: Path) -> Figure:
    """How the AUROC of each finding, and their mean, spread over the folds. result: crossvalidate.json."""
    content = read_json(result)
    scores = {name: [row[f"auroc:{name}"] for row in content["folds"]] for name in content["findings"]}
    scores[MEAN] = [row["mauc"] for row in content["folds"]]
    return fold_boxes(
        scores,
        title=content["name"],
        x_label="AUROC on the test films of each fold",
        warning=content["protocol"].get("leak", ""),
    )


def seeds_of_folds_figure(result: Path) -> Figure:
    """How the mAUC spreads over the folds of each seed, and over the seeds' means.

    result: seeds.json of a cross-validation, whose studies lie beside it.
    """
    content = read_json(result)
    scores = {}
    for run in content["runs"]:
        study = read_json(result.parent / run["folder"] / "crossvalidate.json")
        scores[f"folds of seed {run['seed']}"] = [row["mauc"] for row in study["folds"]]
    scores["means of the seeds"] = [run["mauc"] for run in content["runs"]]
    return fold_boxes(
        scores,
        title=content["name"],
        x_label="mAUC on the test films of each fold, and mean of a seed",
        warning=content["protocol"].get("leak", ""),
    )


def fold_boxes(
    scores: dict[str, list[float | None]], *, title: str, x_label: str, warning: str = ""
) -> Figure:
    """One box of AUROCs per row, from quartile to quartile, each value as a dot, and mean and sd as text.
    Fewer than FEWEST values are dots without a box.

    scores: name -> one score per fold, None where undefined; the last row, of means, stands apart. warning:
    written above the boxes.
    """
    with matplotlib.rc_context(STYLE):
        height = 96 + 34 * len(scores) + (22 if warning else 0)
        figure = Figure(figsize=(640 / 72, height / 72), layout="constrained")
        axes = figure.add_subplot()
        rows = [np.array(values, dtype=np.float64) for values in scores.values()]  # None becomes NaN
        rows = [values[~np.isnan(values)] for values in rows]
        boxes = [(place, values) for place, values in enumerate(rows, start=1) if len(values) >= FEWEST]
        if boxes:
            axes.boxplot(
                [values for _, values in boxes], positions=[place for place, _ in boxes], manage_ticks=False,
                orientation="horizontal", widths=0.55, showfliers=False, patch_artist=True,
                boxprops={"facecolor": "#d6e6f2", "edgecolor": BLUE}, whiskerprops={"color": BLUE},
                capprops={"color": BLUE}, medianprops={"color": INK, "linewidth": 1.5},
            )  # fmt: skip
        for place, values in enumerate(rows, start=1):
            axes.plot(values, np.full(len(values), place), "o", color=BLUE, markersize=5, alpha=0.7)
            axes.text(
                1.02, place, _mean_and_sd(values), transform=axes.get_yaxis_transform(), va="center",
                color=QUIET, fontsize=11,
            )  # fmt: skip
        axes.axvline(0.5, color=QUIET, linestyle="--", linewidth=1)  # an AUROC by chance
        axes.axhline(len(rows) - 0.5, color=QUIET, linewidth=0.8)  # the mean stands apart
        axes.set_yticks(range(1, len(rows) + 1), list(scores))
        axes.set_ylim(len(rows) + 0.5, 0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(length=0)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set(xlabel=x_label)
        axes.set_title(title, loc="left", fontsize=12, pad=28 if warning else 10)
        if warning:
            axes.text(0, 1.02, warning, transform=axes.transAxes, color=VERMILLION, fontsize=10)
    return figure


def _mean_and_sd(values: np.ndarray) -> str:
    if not len(values):
        return "not defined"
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}"

"""Figures of studies: score against labels, as the paper's Fig. 3c, and boxes of folds, as its Fig. 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from evax.errors import DataError
from evax.evaluation.study_rows import (
    AUROC,
    defined_in,
    is_overall,
    learned_by_all,
    mean_over,
    spread_of,
)
from evax.files import read_json
from evax.pages.drawing import (
    BLUE,
    INK,
    QUIET,
    STYLE,
    VERMILLION,
    add_legend,
    curve_style,
    new_panel,
    save_figure,
)

Score = Literal["mauc", "macc"]
MEAN = "mean of findings"
FEWEST = 4  # values that have quartiles


def draw_study(results: Sequence[Path]) -> None:
    """The figure of a study as SVG and PNG beside its results, named after its command; seeds have none."""
    first = read_json(results[0])
    if "points" in first:
        save_figure(few_labels_figure(results), results[0].with_name(first["kind"]))
    elif first["kind"] == "crossvalidate":
        save_figure(folds_figure(results[0]), results[0].with_suffix(""))


def few_labels_figure(
    results: Sequence[Path],
    score: Score = "mauc",
    names: Sequence[str] | None = None,
    findings: Sequence[str] | None = None,
) -> Figure:
    """Mean and sd over seeds against the amount of labels, one curve per result of a sweep.

    The axis is logarithmic. It shows numbers of patients if all points have one, else shares, and the number
    of validation images, whose labels are used as well.
    results: fewshot.json, linear.json or knn.json. names: of the curves; None: those in the results.
    findings: that the means of all curves are over; None: those that every run of every curve has learned.
    Raises DataError if the results were not tested on the same images, or lack the findings of single runs.
    Source: form of the paper's Fig. 3c.
    """
    contents = [read_json(path) for path in results]
    for path, content in zip(results, contents, strict=True):
        if "findings_in_means" not in content:
            raise DataError(
                f"{path} was written before sweeps kept each finding of a run. Repeat its command with "
                "--resume, which repeats no finished run."
            )
        if content["data_fingerprint"] != contents[0]["data_fingerprint"]:
            raise DataError(
                f"{path} and {results[0]} were not tested on the same images; draw them in two figures."
            )
    points = [point for content in contents for point in content["points"]]
    runs = [run for point in points for run in point["runs"]]
    over = learned_by_all(runs) if findings is None else findings
    amount = "count" if all(point.get("count") for point in points) else "fraction"
    ticks = {point[amount]: f"{point[amount]:g}" for point in points}
    if amount == "fraction":
        ticks = {share: f"{100 * share:.3g} %" for share in ticks}
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((480, 300 + 20 * len(contents)))
        for number, content in enumerate(contents):
            spreads = [
                spread_of([mean_over(run, score, over) for run in point["runs"]], "seeds")
                for point in content["points"]
            ]
            rows = [(spread["mean"], spread["sd"]) for spread in spreads]
            means, deviations = np.array(rows, dtype=np.float64).T  # None becomes NaN
            aside = 1.04 ** (number - (len(contents) - 1) / 2)  # bars stand beside each other
            axes.errorbar(
                [point[amount] * aside for point in content["points"]],
                means, yerr=np.nan_to_num(deviations), label=names[number] if names else content["name"],
                linewidth=2, markersize=6, capsize=3, elinewidth=1.5, **curve_style(number),
            )  # fmt: skip
        if score == "mauc":  # an AUROC by chance
            axes.axhline(0.5, color=QUIET, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks(sorted(ticks), [ticks[place] for place in sorted(ticks)])
        axes.minorticks_off()
        validation = _validation_images(results[0], contents[0])
        axes.set(
            xlabel=f"labelled training patients\n(+ {validation} that choose)",
            ylabel=f"{_score_label(score, over, runs)}, mean ± sd over seeds",
        )
        axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))  # digits from the tick step
        add_legend(figure)
    return figure


def _score_label(score: Score, findings: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> str:
    """With the number of findings a mean is over, if some run has a number of other findings, too."""
    label = {"mauc": "mAUC", "macc": "mAcc"}[score]
    names = [column.removeprefix(AUROC) for column in runs[0] if column.startswith(AUROC)]
    others = [name for name in names if name not in findings]
    if is_overall(runs[0], score) or not any(defined_in(run, score, others) for run in runs):
        return label
    entered = max(len(defined_in(run, score, findings)) for run in runs)
    return f"{label} of {entered} finding{'' if entered == 1 else 's'}"


def _validation_images(result: Path, content: Mapping[str, Any]) -> str:
    """Their number, which is the same for all shares; without it if the runs are not next to the result."""
    report = result.parent / content["points"][0]["runs"][0]["folder"] / "report.json"
    number = f"{read_json(report)['validation']['films']:,} " if report.is_file() else ""
    return f"{number}validation images"


def folds_figure(result: Path) -> Figure:
    """How the AUROC of each finding, and their mean, spread over the folds. result: crossvalidate.json."""
    content = read_json(result)
    scores = {name: [row[f"auroc:{name}"] for row in content["folds"]] for name in content["findings"]}
    scores[MEAN] = [row["mauc"] for row in content["folds"]]
    return fold_boxes(
        scores,
        title=content["name"],
        x_label="AUROC on the test images of each fold",
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
        x_label="mAUC on the test images of each fold, and mean of a seed",
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

"""Results of `evax fewshot` and `evax probe` in one figure, as the paper's Fig. 3c."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from evax.errors import DataError
from evax.evaluation.study_rows import (
    AUROC,
    defined_in,
    learned_by_all,
    mean_over,
    of_all_together,
    spread_of,
)
from evax.files import read_json
from evax.pages.drawing import QUIET, STYLE, add_legend, curve_style, new_panel

Score = Literal["mauc", "macc"]


@dataclass(frozen=True, eq=False)
class LabelCurve:
    """One encoder's scores on growing amounts of labels; all arrays have the same length."""

    name: str
    amounts: Float[np.ndarray, " n"]
    """Shares or numbers of training patients, rising."""
    means: Float[np.ndarray, " n"]
    deviations: Float[np.ndarray, " n"]
    """Standard deviation over seeds; NaN draws no bar."""


def few_labels_figure(
    results: Sequence[Path],
    score: Score = "mauc",
    names: Sequence[str] | None = None,
    findings: Sequence[str] | None = None,
) -> Figure:
    """One curve per fewshot.json, linear.json or knn.json, under its own name or those given.

    The axis shows numbers of patients when all points were asked for as such, else shares; and says how many
    validation films, whose labels are used besides, chose. findings: that the means of all curves are over;
    None: those that every run of every curve has learned.

    Raises DataError when they were not tested on the same films, or do not hold each finding of a run.
    """
    contents = [read_json(path) for path in results]
    for path, content in zip(results, contents, strict=True):
        if "findings_in_means" not in content:
            raise DataError(
                f"{path} was written before sweeps kept each finding of a run: give its command once more "
                "with --resume, which repeats no finished run."
            )
        if content["data_fingerprint"] != contents[0]["data_fingerprint"]:
            raise DataError(
                f"{path} and {results[0]} were not tested on the same films; draw them in two figures."
            )
    counted = all(point.get("count") for content in contents for point in content["points"])
    amount = "count" if counted else "fraction"
    runs = [run for content in contents for point in content["points"] for run in point["runs"]]
    over = learned_by_all(runs) if findings is None else findings
    curves = [
        _curve(content, name, score, amount, over)
        for content, name in zip(contents, names or [each["name"] for each in contents], strict=True)
    ]
    return label_curves(
        curves,
        x_label=f"labelled training patients\n(+ {_validation_films(results[0], contents[0])} that choose)",
        y_label=f"{_score_in_words(score, over, runs)}, mean ± sd over seeds",
        tick=(lambda count: f"{count:g}") if counted else (lambda share: f"{100 * share:.3g} %"),
        chance=0.5 if score == "mauc" else None,
    )


def _score_in_words(score: Score, findings: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> str:
    """Says how many findings a mean is over where some run has a number of others, too."""
    label = {"mauc": "mAUC", "macc": "mAcc"}[score]
    names = [column.removeprefix(AUROC) for column in runs[0] if column.startswith(AUROC)]
    others = [name for name in names if name not in findings]
    if of_all_together(runs[0], score) or not any(defined_in(run, score, others) for run in runs):
        return label
    entered = max(len(defined_in(run, score, findings)) for run in runs)
    return f"{label} of {entered} finding{'' if entered == 1 else 's'}"


def _validation_films(result: Path, content: Mapping[str, Any]) -> str:
    """How many there are, whatever the share; without a number where the runs are not beside the result."""
    report = result.parent / content["points"][0]["runs"][0]["folder"] / "report.json"
    if not report.is_file():
        return "validation films"
    return f"{read_json(report)['validation']['films']:,} validation films"


def _curve(
    content: Mapping[str, Any], name: str, score: Score, amount: str, findings: Sequence[str]
) -> LabelCurve:
    points = content["points"]
    spreads = [
        spread_of([mean_over(run, score, findings) for run in point["runs"]], "seeds") for point in points
    ]
    columns = [[spread[key] for spread in spreads] for key in ("mean", "sd")]
    columns.append([point[amount] for point in points])
    means, deviations, amounts = np.array(columns, dtype=np.float64)  # None becomes NaN
    return LabelCurve(name, amounts, means, deviations)


def label_curves(
    curves: Sequence[LabelCurve],
    *,
    x_label: str,
    y_label: str,
    tick: Callable[[float], str],
    chance: float | None = None,
) -> Figure:
    """Score against the amount of labels on a logarithmic axis, mean with its deviation over seeds.

    tick: an amount as its axis shows it. chance: a horizontal dashed line.
    Source: form of the paper's Fig. 3c.
    """
    amounts = np.unique(np.concatenate([curve.amounts for curve in curves]))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((480, 300 + 20 * len(curves)))
        for number, curve in enumerate(curves):
            axes.errorbar(
                curve.amounts * 1.04 ** (number - (len(curves) - 1) / 2),  # bars stand beside each other
                curve.means, yerr=np.nan_to_num(curve.deviations), label=curve.name,
                linewidth=2, markersize=6, capsize=3, elinewidth=1.5, **curve_style(number),
            )  # fmt: skip
        if chance is not None:
            axes.axhline(chance, color=QUIET, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks(amounts, [tick(amount) for amount in amounts])
        axes.minorticks_off()
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))  # digits from the tick step
        add_legend(figure)
    return figure

"""Results of `evax fewshot` in one figure, as the paper's Fig. 3c."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from evax.errors import DataError
from evax.files import read_json
from evax.reporting.drawing import STYLE, add_legend, curve_style, new_panel, save_figure

Score = Literal["mauc", "macc"]


@dataclass(frozen=True, eq=False)
class LabelCurve:
    """One encoder's scores on growing shares of the labels; all arrays have the same length."""

    name: str
    shares: Float[np.ndarray, " n"]
    """In (0, 1], rising."""
    means: Float[np.ndarray, " n"]
    deviations: Float[np.ndarray, " n"]
    """Standard deviation over seeds; NaN draws no bar."""


def draw_few_labels(results: Sequence[Path], stem: Path, score: Score = "mauc") -> None:
    """STEM.svg and STEM.png with one curve per fewshot.json; see `few_labels_figure`."""
    save_figure(few_labels_figure(results, score), stem)


def few_labels_figure(
    results: Sequence[Path], score: Score = "mauc", names: Sequence[str] | None = None
) -> Figure:
    """One curve per fewshot.json, under its own name or those given.

    Raises DataError when they were not tested on the same films.
    """
    contents = [read_json(path) for path in results]
    for path, content in zip(results, contents, strict=True):
        if content["data_fingerprint"] != contents[0]["data_fingerprint"]:
            raise DataError(
                f"{path} and {results[0]} were not tested on the same films; draw them in two figures."
            )
    label = {"mauc": "mAUC", "macc": "mAcc"}[score]
    curves = [
        _curve(content, name, score)
        for content, name in zip(contents, names or [each["name"] for each in contents], strict=True)
    ]
    return label_curves(curves, y_label=f"{label}, mean ± sd over seeds")


def _curve(content: Mapping[str, Any], name: str, score: Score) -> LabelCurve:
    points = content["points"]

    def column(name: str) -> Any:
        return np.array([point[score][name] for point in points], dtype=np.float64)  # None becomes NaN

    shares = np.array([point["fraction"] for point in points], dtype=np.float64)
    return LabelCurve(name, shares, column("mean"), column("sd"))


def label_curves(curves: Sequence[LabelCurve], *, y_label: str) -> Figure:
    """Score against the share of labels on a logarithmic axis, mean with its deviation over seeds.

    Source: form of the paper's Fig. 3c.
    """
    shares = np.unique(np.concatenate([curve.shares for curve in curves]))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((480, 300 + 20 * len(curves)))
        for number, curve in enumerate(curves):
            axes.errorbar(
                curve.shares * 1.04 ** (number - (len(curves) - 1) / 2),  # bars stand beside each other
                curve.means, yerr=np.nan_to_num(curve.deviations), label=curve.name,
                linewidth=2, markersize=6, capsize=3, elinewidth=1.5, **curve_style(number),
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
        axes.minorticks_off()
        axes.set(xlabel="labelled training patients", ylabel=y_label)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        add_legend(figure)
    return figure

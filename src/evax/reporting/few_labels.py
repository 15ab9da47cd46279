"""Results of `evax fewshot` and `evax probe` in one figure, as the paper's Fig. 3c."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from evax.errors import DataError
from evax.files import read_json
from evax.reporting.figures import LabelCurve, label_curves, save_figure

Score = Literal["mauc", "macc"]


def draw_few_labels(results: Sequence[Path], stem: Path, score: Score = "mauc") -> None:
    """STEM.svg and STEM.png with one curve per result; see `few_labels_figure`."""
    save_figure(few_labels_figure(results, score), stem)


def few_labels_figure(
    results: Sequence[Path], score: Score = "mauc", names: Sequence[str] | None = None
) -> Figure:
    """One curve per fewshot.json, linear.json or knn.json, under its own name or those given.

    The axis shows numbers of patients when all points were asked for as such, else shares.

    Raises DataError when they were not tested on the same films.
    """
    contents = [read_json(path) for path in results]
    for path, content in zip(results, contents, strict=True):
        if content["data_fingerprint"] != contents[0]["data_fingerprint"]:
            raise DataError(
                f"{path} and {results[0]} were not tested on the same films; draw them in two figures."
            )
    label = {"mauc": "mAUC", "macc": "mAcc"}[score]
    counted = all(point.get("count") for content in contents for point in content["points"])
    amount = "count" if counted else "fraction"
    curves = [
        _curve(content, name, score, amount)
        for content, name in zip(contents, names or [each["name"] for each in contents], strict=True)
    ]
    return label_curves(
        curves,
        y_label=f"{label}, mean ± sd over seeds",
        tick=(lambda count: f"{count:g}") if counted else (lambda share: f"{100 * share:.3g} %"),
    )


def _curve(content: Mapping[str, Any], name: str, score: Score, amount: str) -> LabelCurve:
    points = content["points"]

    def column(name: str) -> Any:
        return np.array([point[score][name] for point in points], dtype=np.float64)  # None becomes NaN

    amounts = np.array([point[amount] for point in points], dtype=np.float64)
    return LabelCurve(name, amounts, column("mean"), column("sd"))

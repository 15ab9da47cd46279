"""The log of a pre-training run -> one figure of all its curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from evax.pages.drawing import QUIET, STYLE, curve_style, means_of_stretches
from evax.pages.figures import POINTS

PANELS = (  # title, (event, value, name of the curve), logarithmic, chance
    ("cosine with the tokenizer", (("step", "cosine", ""),), False, None),
    ("learning rate", (("step", "lr", ""),), False, None),
    ("gradient norm before clipping", (("step", "grad_norm", ""),), True, None),
    ("spread of the predictions over the features'", (("step", "spread", ""),), False, None),
    ("films per second", (("step", "images_per_s", ""),), False, None),
    ("share of the speed of a plain matrix product", (("step", "matmul_share", ""),), False, None),
    (
        "mean AUC on the validation films",
        (("probe", "knn_auc", "20 nearest neighbours"), ("probe", "linear_auc", "linear probe")),
        False,
        0.5,
    ),
    ("RankMe (effective rank)", (("probe", "rankme", ""),), False, None),
)


def run_curves(steps: Sequence[dict[str, Any]], probes: Sequence[dict[str, Any]]) -> Figure:
    """Everything that was logged against image views; of a step that was done twice the last line counts.

    steps, probes: lines of log.jsonl. The panels of the probes are left out without probes.
    """
    events = {"step": steps, "probe": probes}
    panels = [panel for panel in PANELS if events[panel[1][0][0]]]
    columns = 2
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.1 * rows), layout="constrained", facecolor="white")
        for axes, (title, curves, logarithmic, chance) in zip(
            figure.subplots(rows, columns, squeeze=False).flat, panels, strict=True
        ):
            for number, (event, value, name) in enumerate(curves):
                _draw(axes, *_series(events[event], value), number, name)
            if chance is not None:
                axes.axhline(chance, color=QUIET, linestyle="--", linewidth=1)
            if logarithmic:
                axes.set_yscale("log")
            if any(name for *_, name in curves):
                axes.legend(frameon=False, fontsize=10)
            axes.set_title(title, fontsize=12, loc="left")
            axes.set_xlabel("image views")
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.tick_params(length=0, pad=6)
    return figure


def _series(
    lines: Sequence[dict[str, Any]], value: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Image views and values, in order; a long one as the means of stretches."""
    known = {line["images"]: line[value] for line in lines if line.get(value) is not None}
    x, y = np.array(sorted(known), float), np.array([known[views] for views in sorted(known)], float)
    return means_of_stretches(x, y, POINTS)


def _draw(axes: Axes, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], number: int, name: str) -> None:
    style = curve_style(number) | ({} if len(x) <= 30 else {"marker": ""})
    axes.plot(x, y, linewidth=2, markersize=5, label=name, **style)

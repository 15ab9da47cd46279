"""Numbers -> figures of a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, ScalarFormatter

from evax.evaluation.calibration import ReliabilityCurve
from evax.evaluation.classification import Floats
from evax.pages.drawing import (
    BLUE,
    QUIET,
    SQUARE,
    STYLE,
    VERMILLION,
    WIDE,
    add_legend,
    curve_style,
    means_of_stretches,
    new_panel,
    svg_of,
)

POINTS = 300  # a longer curve is drawn as the means of so many stretches


def curve_panel(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    *,
    label: str,
    x_label: str,
    y_label: str,
    chance: float | None = None,
    best: int | float | None = None,
) -> str:
    """A quantity along a training run, NaN left out; a few points are marked one by one.

    label: what a screen reader says. chance: a horizontal dashed line. best: the x of the point to ring.
    """
    known = np.isfinite(y)
    x, y = x[known], y[known]
    marker = "o" if len(x) <= 30 else ""
    x, y = means_of_stretches(x, y, POINTS)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((WIDE, 230))
        axes.plot(x, y, color=BLUE, linewidth=2, marker=marker, markersize=5)
        if chance is not None:
            axes.axhline(chance, color=QUIET, linestyle="--", linewidth=1)
        if best is not None and (x == best).any():
            at = int(np.argmax(x == best))
            axes.plot(x[at], y[at], "o", color=VERMILLION, markersize=11, fillstyle="none", markeredgewidth=2)
        axes.set(xlabel=x_label, ylabel=y_label)
        if len(x) == 1 and x[0] > 0:  # around a single point the library shows a part of it, to decimals
            axes.set_xlim(0, 1.1 * x[0])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        # in thousands and millions; a share stays a decimal
        axes.xaxis.set_major_formatter(EngFormatter(sep="") if x.max(initial=0) > 1 else ScalarFormatter())
        axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))  # digits from the tick step
        return svg_of(figure, label)


def threshold_panel(
    thresholds: Float[np.ndarray, " t"],
    curves: Mapping[str, Float[np.ndarray, " t"]],
    *,
    label: str,
    x_label: str,
    y_label: str,
    chosen: Sequence[float],
) -> str:
    """Named scores against a threshold, and the thresholds that were chosen, dashed."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((WIDE, 230))
        for at in chosen:
            axes.axvline(at, color=QUIET, linestyle="--", linewidth=1)
        for number, (name, scores) in enumerate(curves.items()):
            style = curve_style(number) | {"marker": ""}
            axes.plot(thresholds, scores, linewidth=2, label=name, **style)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        add_legend(figure)
        return svg_of(figure, label)


def roc_panel(
    false_positive_rate: Float[np.ndarray, " t"],
    true_positive_rate: Float[np.ndarray, " t"],
    *,
    label: str,
    point: tuple[float, float] | None = None,
) -> str:
    """A ROC curve over its diagonal; point: (1 - specificity, sensitivity) of the threshold in use."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((SQUARE, SQUARE))
        axes.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1)
        false_positive_rate, true_positive_rate = _thinned(false_positive_rate, true_positive_rate)
        axes.fill_between(false_positive_rate, true_positive_rate, color=BLUE, alpha=0.08, linewidth=0)
        axes.plot(false_positive_rate, true_positive_rate, color=BLUE, linewidth=2)
        if point is not None:
            axes.plot(*point, "o", color=VERMILLION, markersize=8, markeredgecolor="white", clip_on=False)
        _square(axes, 1.0)
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        return svg_of(figure, label)


def precision_recall_panel(
    recall: Float[np.ndarray, " t"],
    precision: Float[np.ndarray, " t"],
    *,
    label: str,
    chance: float,
    point: tuple[float, float] | None = None,
) -> str:
    """Precision against recall in steps, never joined up between them; chance: the prevalence.

    recall: falling, as scikit-learn gives it. point: (sensitivity, PPV) of the threshold in use.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((SQUARE, SQUARE))
        axes.axhline(chance, color=QUIET, linestyle="--", linewidth=1)
        recall, precision = _thinned(recall, precision)
        axes.fill_between(recall, precision, step="post", color=BLUE, alpha=0.08, linewidth=0)
        axes.step(recall, precision, where="post", color=BLUE, linewidth=2)
        if point is not None:
            axes.plot(*point, "o", color=VERMILLION, markersize=8, markeredgecolor="white", clip_on=False)
        _square(axes, 1.0)
        axes.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)")
        return svg_of(figure, label)


def reliability_panel(curve: ReliabilityCurve, *, label: str, after: ReliabilityCurve | None = None) -> str:
    """Predicted against observed frequency, with the Wilson band; both axes end where the data do.

    after: the same images after calibration, dashed with squares.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((SQUARE, SQUARE))
        ends = [float(curve.predicted.max()), float(curve.high.max())]
        if after is not None:
            ends.append(float(after.predicted.max()))
        end = min(1.0, 1.08 * max(ends))
        axes.plot([0, end], [0, end], color=QUIET, linestyle="--", linewidth=1)
        axes.fill_between(curve.predicted, curve.low, curve.high, color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(
            curve.predicted, curve.observed, "o-", color=BLUE, markersize=5, linewidth=1.5, clip_on=False
        )
        if after is not None:
            axes.plot(
                after.predicted, after.observed, "s--", color=VERMILLION, markersize=5, linewidth=1.5,
                markerfacecolor="white", clip_on=False,
            )  # fmt: skip
        _square(axes, end)
        axes.set(xlabel="predicted probability", ylabel="observed share")
        return svg_of(figure, label)


def interval_plot(
    rows: Sequence[tuple[str, float, tuple[float, float] | None]],
    *,
    label: str,
    x_label: str,
    limits: tuple[int | float, int | float],
    reference: float | None = None,
    bars: bool = False,
) -> str:
    """One line per row: name and value as text, and below them the value with its interval.

    rows: (name, value, interval or None). limits: of the axis; widened where an interval reaches further.
    reference: a dashed line beside each value (chance). bars: from the left end to the value, for shares.
    """
    ends = [end for _, value, interval in rows for end in (value, *(interval or ()))]
    left, right = min([limits[0], *ends]), max([limits[1], *ends])
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False}):
        figure, axes = new_panel((WIDE, 48 + 44 * len(rows)))
        axes.set_xlim(left - 0.01, right + 0.01)  # room for round line ends
        axes.set_ylim(len(rows) - 0.15, -0.15)
        for number, (name, value, interval) in enumerate(rows):
            at = number + 0.62
            if reference is not None:  # beside the values only: the names stay clear of it
                axes.vlines(reference, at - 0.2, at + 0.2, color=QUIET, linestyle="--", linewidth=1)
            if bars:
                axes.barh(at, value - left, left=left, height=0.3, color=BLUE, alpha=0.25, linewidth=0)
            if interval is not None:
                axes.plot(interval, [at, at], color=BLUE, linewidth=3, solid_capstyle="round")
            axes.plot(value, at, "o", color=BLUE, markersize=8, markeredgecolor="white", clip_on=False)
            ends_text = "not defined" if interval is None else f"{interval[0]:.3f}, {interval[1]:.3f}"
            place = axes.get_yaxis_transform()  # x in fractions of the panel, y in rows
            axes.text(0, number + 0.28, _shortened(name, 30), transform=place, parse_math=False)
            axes.text(
                1, number + 0.28, f"{value:.3f} [{ends_text}]", transform=place, ha="right", color=QUIET
            )
        axes.set_yticks([])
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        return svg_of(figure, label)


def age_histogram(ages: Float[np.ndarray, " n"], *, label: str) -> str:
    """Images per ten years of age; NaN left out."""
    known = ages[np.isfinite(ages)]
    bins = np.arange(0, max(100.0, float(known.max()) + 1) + 10, 10)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((WIDE, 170))
        axes.hist(known, bins=bins.tolist(), color=BLUE, alpha=0.75, rwidth=0.9)
        axes.grid(axis="x", visible=False)
        axes.set(xlabel="age in years", ylabel="films")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        return svg_of(figure, label)


def score_histogram(
    scores: Float[np.ndarray, " n"], *, label: str, x_label: str, y_label: str, threshold: float
) -> str:
    """How many scores in [0, 1] fall where, on a logarithmic axis, and the threshold between them."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((WIDE, 230))
        axes.hist(scores, bins=np.linspace(0, 1, 51).tolist(), color=BLUE, alpha=0.75)
        axes.axvline(threshold, color=VERMILLION, linestyle="--", linewidth=1.5)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if len(scores) < 1000 else (1,)))
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.minorticks_off()
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1.005))
        axes.set_ylim(bottom=0.7)  # a bar of one pair is seen
        return svg_of(figure, label)


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The points that lie on another pixel than the one before: curves of many images stay small."""
    pixel = np.rint(np.stack([x, y]) * SQUARE)
    new = np.concatenate([[True], (pixel[:, 1:] != pixel[:, :-1]).any(axis=0)])
    new[-1:] = True
    return x[new], y[new]


def _square(axes: Axes, end: float) -> None:
    axes.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


PANELS = (  # title, (event, value, name of the curve), logarithmic, chance
    ("cosine with the tokenizer", (("step", "cosine", ""),), False, None),
    ("learning rate", (("step", "lr", ""),), False, None),
    ("gradient norm before clipping", (("step", "grad_norm", ""),), True, None),
    ("spread of the predictions over the features'", (("step", "spread", ""),), False, None),
    ("images per second", (("step", "images_per_s", ""),), False, None),
    ("share of the speed of a plain matrix product", (("step", "matmul_share", ""),), False, None),
    (
        "mean AUC on the validation images",
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

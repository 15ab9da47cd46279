"""The figures of a comparison: AUROC per finding (the paper's Fig. 3a) and mAUC against size (Fig. 3b)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from evax.reporting.figures import CURVES, INK, QUIET, STYLE, _panel
from evax.reporting.published import MARK, Published

MOST = 2 * len(CURVES)  # colours and markers, filled and then open


@dataclass(frozen=True)
class Bar:
    """A value with its interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SizedScore:
    """A classifier in the figure of scores against size."""

    name: str
    parameters: int
    mauc: Bar


def finding_dots(findings: Sequence[str], rows: Sequence[tuple[str, Sequence[Bar]]], mean: str) -> Figure:
    """AUROC of every finding and their mean, one dot with its interval per row of the comparison.

    rows: name, and one Bar per finding with the mean's behind them. mean: what the last line is called.
    Dots on lines instead of the paper's bars: a bar from 0 would hide differences of a hundredth.
    """
    lines = [*findings, mean]
    step = 0.8 / max(len(rows), 2)
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False}):
        figure, axes = _panel((560, 90 + 20 * len(rows) + len(lines) * (14 + 9 * len(rows))))
        for number, (name, bars) in enumerate(rows):
            style = _style(number)
            shift = (number - (len(rows) - 1) / 2) * step
            places = [place + shift for place in range(len(lines))]
            _bars(axes, [bar.value for bar in bars], places, bars, style, name, horizontal=True)
        for place in range(len(lines) - 1):
            axes.axhline(place + 0.5, color=INK if place == len(findings) - 1 else "#e3e8ed", linewidth=0.8)
        axes.set_yticks(range(len(lines)), [*lines])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("AUROC, 95 % interval over patients")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        figure.legend(loc="outside upper left", frameon=False, fontsize=11)
    return figure


def score_against_parameters(rows: Sequence[SizedScore], published: Sequence[Published]) -> Figure:
    """Mean AUROC against the number of parameters on a logarithmic axis.

    published: drawn grey, open and numbered; those without a known size are left out of the figure.
    """
    sized = [row for row in published if row.parameters is not None]
    with matplotlib.rc_context(STYLE):
        figure, axes = _panel((560, 320 + 20 * len(rows) + 7 * len(sized)))
        for number, row in enumerate(rows):
            # runs of one encoder have one size: they stand beside each other
            place = row.parameters * 1.05 ** (number - (len(rows) - 1) / 2)
            _bars(axes, [place], [row.mauc.value], [row.mauc], _style(number), row.name, horizontal=False)
        for number, other in enumerate(sized, start=1):
            value, size = other.mauc / 100, other.parameters or 0
            label = MARK if number == 1 else None
            axes.plot(size, value, "h", color=QUIET, markersize=7, fillstyle="none", label=label)
            if other.interval is not None:
                axes.plot([size, size], [end / 100 for end in other.interval], color=QUIET, linewidth=1)
            side = 1 if number % 2 else -1  # equal sizes are common: numbers go to both sides
            axes.annotate(
                str(number), (size, value), (6 * side, -3), textcoords="offset points", fontsize=9,
                color=QUIET, ha="left" if side == 1 else "right",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g} M"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        sizes = [row.parameters for row in rows] + [row.parameters or 0 for row in sized]
        axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.set(xlabel="parameters of the classifier", ylabel="mAUC, 95 % interval over patients")
        figure.legend(loc="outside upper left", frameon=False, fontsize=11)
        if sized:
            key = [f"{number} {row.name} {row.mauc:.1f}" for number, row in enumerate(sized, start=1)]
            half = math.ceil(len(key) / 2)
            columns = ["\n".join(key[:half]), "\n".join(key[half:])]
            for x, text in zip((0.0, 0.52), columns, strict=True):
                axes.annotate(
                    text, (x, -0.2), xycoords="axes fraction", fontsize=8.5, color=QUIET, va="top",
                    annotation_clip=False,
                )  # fmt: skip
    return figure


def _style(number: int) -> dict[str, str]:
    colour, marker = CURVES[number % len(CURVES)]
    return {"color": colour, "marker": marker, "fillstyle": "full" if number < len(CURVES) else "none"}


def _bars(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    bars: Sequence[Bar],
    style: dict[str, str],
    name: str,
    horizontal: bool,
) -> None:
    """Dots with their intervals; what is NaN draws nothing, an interval may be absent beside a dot."""
    below = [0.0 if math.isnan(bar.low) else max(bar.value - bar.low, 0.0) for bar in bars]
    above = [0.0 if math.isnan(bar.high) else max(bar.high - bar.value, 0.0) for bar in bars]
    ends = {"xerr" if horizontal else "yerr": [below, above]}
    axes.errorbar(
        x, y, label=name, linestyle="none", markersize=6, elinewidth=1.5, capsize=2, **ends, **style
    )  # type: ignore[arg-type]

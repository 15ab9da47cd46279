"""Plain numbers -> small SVG pictures and film thumbnails.

One panel per picture, so that the page puts as many side by side as fit its reader's screen. Text stays text
(`svg.fonttype: none`): it can be searched and read aloud, and a panel takes some 10 kB. Widths are measured
with DejaVu Sans, which is wider than the fonts browsers use, so nothing grows into its neighbour.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator
from PIL import Image, ImageDraw

from evax.evaluation.calibration import ReliabilityCurve
from evax.evaluation.classification import Floats
from evax.explain.overlay import BOX_COLOUR
from evax.files import replaced_whole

# Okabe and Ito 2008: told apart by colour-blind readers
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
CURVES = (  # colour and marker; told apart without colour too
    (BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"),
)  # fmt: skip
INK, QUIET, GRID = "#1c2733", "#5b6b7b", "#e3e8ed"
SQUARE, WIDE = 280, 400  # px: three and two beside each other on the page
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "evax",
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": "#b5c0ca",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
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
    if len(x) > POINTS:
        x, y = (np.array([part.mean() for part in np.array_split(values, POINTS)]) for values in (x, y))
    with matplotlib.rc_context(STYLE):
        figure, axes = _panel((WIDE, 230))
        axes.plot(x, y, color=BLUE, linewidth=2, marker=marker, markersize=5)
        if chance is not None:
            axes.axhline(chance, color=QUIET, linestyle="--", linewidth=1)
        if best is not None and (x == best).any():
            at = int(np.argmax(x == best))
            axes.plot(x[at], y[at], "o", color=VERMILLION, markersize=11, fillstyle="none", markeredgewidth=2)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        return _svg(figure, label)


def roc_panel(
    false_positive_rate: Float[np.ndarray, " t"],
    true_positive_rate: Float[np.ndarray, " t"],
    *,
    label: str,
    point: tuple[float, float] | None = None,
) -> str:
    """A ROC curve over its diagonal; point: (1 - specificity, sensitivity) of the threshold in use."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _panel((SQUARE, SQUARE))
        axes.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1)
        false_positive_rate, true_positive_rate = _thinned(false_positive_rate, true_positive_rate)
        axes.fill_between(false_positive_rate, true_positive_rate, color=BLUE, alpha=0.08, linewidth=0)
        axes.plot(false_positive_rate, true_positive_rate, color=BLUE, linewidth=2)
        if point is not None:
            axes.plot(*point, "o", color=VERMILLION, markersize=8, markeredgecolor="white", clip_on=False)
        _square(axes, 1.0)
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        return _svg(figure, label)


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
        figure, axes = _panel((SQUARE, SQUARE))
        axes.axhline(chance, color=QUIET, linestyle="--", linewidth=1)
        recall, precision = _thinned(recall, precision)
        axes.fill_between(recall, precision, step="post", color=BLUE, alpha=0.08, linewidth=0)
        axes.step(recall, precision, where="post", color=BLUE, linewidth=2)
        if point is not None:
            axes.plot(*point, "o", color=VERMILLION, markersize=8, markeredgecolor="white", clip_on=False)
        _square(axes, 1.0)
        axes.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)")
        return _svg(figure, label)


def reliability_panel(curve: ReliabilityCurve, *, label: str, after: ReliabilityCurve | None = None) -> str:
    """Predicted against observed frequency, with the Wilson band; both axes end where the data do.

    after: the same films after calibration, dashed with squares.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _panel((SQUARE, SQUARE))
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
        return _svg(figure, label)


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
        figure, axes = _panel((WIDE, 48 + 44 * len(rows)))
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
        return _svg(figure, label)


@dataclass(frozen=True, eq=False)
class LabelCurve:
    """One encoder's scores on growing amounts of labels; all arrays have the same length."""

    name: str
    amounts: Float[np.ndarray, " n"]
    """Shares or numbers of training patients, rising."""
    means: Float[np.ndarray, " n"]
    deviations: Float[np.ndarray, " n"]
    """Standard deviation over seeds; NaN draws no bar."""


def label_curves(curves: Sequence[LabelCurve], *, y_label: str, tick: Callable[[float], str]) -> Figure:
    """Score against the amount of labels on a logarithmic axis, mean with its deviation over seeds.

    tick: an amount as its axis shows it.
    Source: form of the paper's Fig. 3c.
    """
    amounts = np.unique(np.concatenate([curve.amounts for curve in curves]))
    with matplotlib.rc_context(STYLE):
        figure, axes = _panel((480, 300 + 20 * len(curves)))
        for number, curve in enumerate(curves):
            colour, marker = CURVES[number % len(CURVES)]
            axes.errorbar(
                curve.amounts * 1.04 ** (number - (len(curves) - 1) / 2),  # bars stand beside each other
                curve.means, yerr=np.nan_to_num(curve.deviations), label=curve.name,
                color=colour, marker=marker, linewidth=2, markersize=6, capsize=3, elinewidth=1.5,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(amounts, [tick(amount) for amount in amounts])
        axes.minorticks_off()
        axes.set(xlabel="labelled training patients", ylabel=y_label)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        figure.legend(loc="outside upper left", frameon=False, fontsize=11)  # names may be long
    return figure


def save_figure(figure: Figure, stem: Path) -> None:
    """STEM.svg, whose text stays text, and STEM.png, both on white."""
    with matplotlib.rc_context(STYLE):
        for kind, facts in (("svg", {"Date": None}), ("png", {})):
            with replaced_whole(stem.with_name(f"{stem.name}.{kind}")) as unfinished:
                figure.savefig(unfinished, format=kind, dpi=200, facecolor="white", metadata=facts)


def age_histogram(ages: Float[np.ndarray, " n"], *, label: str) -> str:
    """Films per ten years of age; NaN left out."""
    known = ages[np.isfinite(ages)]
    bins = np.arange(0, max(100.0, float(known.max()) + 1) + 10, 10)
    with matplotlib.rc_context(STYLE):
        figure, axes = _panel((WIDE, 170))
        axes.hist(known, bins=bins.tolist(), color=BLUE, alpha=0.75, rwidth=0.9)
        axes.grid(axis="x", visible=False)
        axes.set(xlabel="age in years", ylabel="films")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        return _svg(figure, label)


def score_histogram(
    scores: Float[np.ndarray, " n"], *, label: str, x_label: str, y_label: str, threshold: float
) -> str:
    """How many scores in [0, 1] fall where, on a logarithmic axis, and the threshold between them."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _panel((WIDE, 230))
        axes.hist(scores, bins=np.linspace(0, 1, 51).tolist(), color=BLUE, alpha=0.75)
        axes.axvline(threshold, color=VERMILLION, linestyle="--", linewidth=1.5)
        axes.set_yscale("log")
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1.005))
        return _svg(figure, label)


def film_picture(
    pixels: UInt8[np.ndarray, "S S"],
    boxes: Sequence[tuple[float, float, float, float]] = (),
    side: int = 300,
) -> bytes:
    """A small JPEG of a stored film with its boxes (x, y, width, height in fractions)."""
    picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for x, y, width, height in boxes:
        corners = (x * side, y * side, (x + width) * side, (y + height) * side)
        draw.rectangle(corners, outline=BOX_COLOUR, width=3)
    return jpeg(picture)


def jpeg(picture: Image.Image) -> bytes:
    """A picture as JPEG, with its colours kept sharp."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=85, subsampling=0, optimize=True)
    return file.getvalue()


def with_prefixed_ids(svg: str, prefix: str) -> str:
    """The same picture with `prefix` before every id it refers to, so that two fit on one page.

    Ids that nothing refers to are dropped.
    """
    used = set(re.findall(r"[\"(]#([\w.-]+)", svg))

    def renamed(tag: re.Match[str]) -> str:
        text = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", tag[0])
        return re.sub(r"([\"(])#([\w.-]+)", rf"\1#{prefix}\2", text)

    return re.sub(r"<[a-zA-Z][^>]*>", renamed, svg)


def _panel(size: tuple[int, int]) -> tuple[Figure, Axes]:
    """size: in CSS pixels, one of which is one unit of the picture."""
    figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.tick_params(length=0, pad=6)
    return figure, axes


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The points that lie on another pixel than the one before: curves of many films stay small."""
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


def _svg(figure: Figure, label: str) -> str:
    """The picture as an element for an HTML page: no prolog, no metadata, no fixed size, the page's font."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # the style element would govern the whole page, which has the same rule for its pictures
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text).replace("font-family: inherit;", "")
    width, height = (round(float(size)) for size in re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2])
    opening = (
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    text = re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    return re.sub(r"\s+", " ", re.sub(r">\s+<", "><", text)).strip()

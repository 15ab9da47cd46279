"""How evax draws: colours, one style, panels, figures as files or in a page, small JPEG pictures."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

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


def new_panel(size: tuple[int, int]) -> tuple[Figure, Axes]:
    """size: in CSS pixels, one of which is one unit of the picture."""
    figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.tick_params(length=0, pad=6)
    return figure, axes


def curve_style(number: int) -> dict[str, Any]:
    """Colour and marker of the nth curve; from the seventh on the markers are open."""
    colour, marker = CURVES[number % len(CURVES)]
    return {"color": colour, "marker": marker, "fillstyle": "full" if number < len(CURVES) else "none"}


def add_legend(figure: Figure, *handles_and_labels: Sequence[Any]) -> None:
    """The names above the axes, where long ones have room; in the order given, else in that of drawing."""
    figure.legend(*handles_and_labels, loc="outside upper left", frameon=False, fontsize=11)


def means_of_stretches(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], most: int
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """A curve of at most so many points: a longer one as the means of as many stretches."""
    if len(x) <= most:
        return x, y
    shorter = [np.array([part.mean() for part in np.array_split(values, most)]) for values in (x, y)]
    return shorter[0], shorter[1]


def svg_of(figure: Figure, label: str) -> str:
    """The picture as an element for an HTML page: no prolog, no metadata, no fixed size, the page's font."""
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
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


def save_figure(figure: Figure, stem: Path) -> None:
    """STEM.svg, whose text stays text, and STEM.png, both on white."""
    with matplotlib.rc_context(STYLE):
        for kind, facts in (("svg", {"Date": None}), ("png", {})):
            with replaced_whole(stem.with_name(f"{stem.name}.{kind}")) as unfinished:
                figure.savefig(unfinished, format=kind, dpi=200, facecolor="white", metadata=facts)


def with_prefixed_ids(svg: str, prefix: str) -> str:
    """The same picture with `prefix` before every id it refers to, so that two fit on one page.

    Ids that nothing refers to are dropped.
    """
    used = set(re.findall(r"[\"(]#([\w.-]+)", svg))

    def renamed(tag: re.Match[str]) -> str:
        text = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", tag[0])
        return re.sub(r"([\"(])#([\w.-]+)", rf"\1#{prefix}\2", text)

    return re.sub(r"<[a-zA-Z][^>]*>", renamed, svg)


def image_picture(
    pixels: UInt8[np.ndarray, "S S"],
    boxes: Sequence[tuple[float, float, float, float]] = (),
    side: int = 300,
) -> bytes:
    """A small JPEG of a stored image with its boxes (x, y, width, height in fractions)."""
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


def data_uri(jpeg: bytes) -> str:
    """A picture that travels inside the page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"

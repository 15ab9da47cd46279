"""compare.json -> compare.html, its figures and tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from evax.evaluation.metrics import metrics_in
from evax.evaluation.published import MARK, PublishedScore
from evax.evaluation.report import marked
from evax.files import open_csv, replaced_whole
from evax.pages.drawing import (
    CURVES,
    GRID,
    INK,
    QUIET,
    STYLE,
    add_legend,
    curve_style,
    new_panel,
    save_figure,
    svg_of,
)
from evax.pages.study_figures import few_labels_figure
from evax.pages.template import write_page

NO_SPREAD = {"mauc": {"sd": None}}  # of a sweep with one seed


def write_compare_page(path: Path, content: Mapping[str, Any], figures: Mapping[str, Figure]) -> None:
    """One self-contained page. content: compare.json. figures: title -> figure."""
    write_page(
        path,
        "compare.html.j2",
        title="Comparison on the same test images",
        environment=content["environment"],
        comparison=content,
        metrics=metrics_in(content["rows"][0]),
        methods=list(dict.fromkeys(method for row in content["rows"] for method in row["calibration"])),
        figures=[(title, svg_of(figure, title)) for title, figure in figures.items()],
    )


def write_figure(figure: Figure, rows: Sequence[Mapping[str, Any]], stem: Path) -> None:
    """STEM.svg, STEM.png, and STEM.csv with every number that is drawn."""
    save_figure(figure, stem)
    write_table(rows, stem.with_name(f"{stem.name}.csv"))


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A CSV table of flat rows; None is an empty cell, as is what a row lacks."""
    with replaced_whole(path) as unfinished, open_csv(unfinished) as file:
        table = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
        table.writeheader()
        table.writerows(rows)


def write_tables(content: Mapping[str, Any], out: Path) -> None:
    """compare.csv, operating-points.csv, differences.csv and, where asked for, published.csv."""
    write_table([summary_line(row) for row in content["rows"]], out / "compare.csv")
    operating = [
        {"name": row["name"], "finding": finding["name"], "mean_over_seeds": len(row["seeds"])}
        | {key: value for key, value in finding.items() if key not in ("name", "auroc_interval")}
        for row in content["rows"]
        for finding in row["findings"]
    ]
    write_table(operating, out / "operating-points.csv")
    differences = [
        {"name": each["name"], "reference": each["reference"], "of": of, "difference": one["value"]}
        | dict(zip(("low", "high"), one["interval"], strict=True))
        | {
            key: one[key]
            for key in ("interval_method", "p", "p_least", "p_holm", "test", "undefined", "partial")
        }
        for each in content["differences"]
        for of, one in [
            *((metric.key, each[metric.key]) for metric in metrics_in(each)),
            *zip(content["findings"], each["findings"], strict=True),
        ]
    ]
    if differences:
        write_table(differences, out / "differences.csv")
    if content["published"]:
        write_table([{"origin": MARK} | row for row in content["published"]], out / "published.csv")


def summary_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of compare.csv."""
    line = {key: row[key] for key in ("name", "encoder", "weights", "label_fraction")}
    line |= {"learned_by": row["learned_by"], "trainings": len(row["seeds"])}
    line |= dict(zip(("train_films_least", "train_films_most"), row["train"]["films"], strict=True))
    means = [metric.key for metric in metrics_in(row)]
    for mean in means:
        low, high = row[mean]["interval"]
        line |= {mean: row[mean]["value"], f"{mean}_low": low, f"{mean}_high": high}
        line |= {f"{mean}_{key}": row[mean][key] for key in ("undefined", "partial")}
    over_seeds = row["spread_over_seeds"] or {}
    for mean in means:
        for key in ("mean", "sd"):
            line[f"{mean}_seed_{key}"] = over_seeds.get(mean, {}).get(key)
    line |= {key: row[key] for key in ("wins", "parameters", "multiply_adds", "cpu_ms_per_film")}
    for method, errors in row["calibration"].items():
        line |= {f"{measure}_{method}": value for measure, value in errors.items()}
    return line


def draw_figures(
    content: Mapping[str, Any],
    sweeps: Sequence[tuple[str, Path]],
    published: Sequence[PublishedScore],
    out: Path,
) -> dict[str, Figure]:
    """The figures, each with its files in `out`; title -> figure.

    sweeps: name of its curve and result of each.
    """
    rows = content["rows"]
    findings = [marked(finding) for finding in rows[0]["findings"]]
    means = [bar(row["mauc"]["value"], row["mauc"]["interval"]) for row in rows]
    bars = [
        [*(bar(each["auroc"], each["auroc_interval"]) for each in row["findings"]), mean]
        for row, mean in zip(rows, means, strict=True)
    ]
    names = [row["name"] for row in rows]
    of_all = f"mean of {rows[0]['findings_entered']}"
    dots = finding_dots(findings, list(zip(names, bars, strict=True)), of_all)
    write_figure(
        dots,
        [
            {"finding": finding, "name": name, "auroc": one.value, "low": one.low, "high": one.high}
            for name, each in zip(names, bars, strict=True)
            for finding, one in zip([*content["findings"], of_all], each, strict=True)
        ],
        out / "findings",
    )
    sized = [SizedScore(row["name"], row["parameters"], one) for row, one in zip(rows, means, strict=True)]
    against_size = score_against_parameters(sized, published)
    write_figure(
        against_size,
        [size_line(each.name, each.parameters, each.mauc, "measured") for each in sized]
        + [size_line(each.name, each.parameters, in_shares(each), MARK) for each in published],
        out / "parameters",
    )
    drawn = {"AUROC per finding": dots, "mAUC against parameters": against_size}
    if sweeps:
        runs, results = zip(*sweeps, strict=True)
        entering = [name for name in content["findings"] if name not in content["not_learned"]]
        curves = few_labels_figure(results, names=runs, findings=entering)
        points = [
            {"name": row["curve"], "share": row["label_fraction"], "trainings": len(row["seeds"])}
            | {"mauc": row["mauc"]["value"], "sd": (row["spread_over_seeds"] or NO_SPREAD)["mauc"]["sd"]}
            for row in rows
            if row["curve"] in runs
        ]
        write_figure(curves, points, out / "few-labels")
        drawn["mAUC against the share of labels"] = curves
    return drawn


def bar(value: float | None, interval: Sequence[float | None]) -> Bar:
    """A number of compare.json for a figure."""
    return Bar(*(math.nan if number is None else number for number in (value, *interval)))


def in_shares(row: PublishedScore) -> Bar:
    """A published mAUC in [0, 1] instead of percent."""
    return bar(
        row.mauc / 100, [None if row.interval is None else end / 100 for end in row.interval or (0, 0)]
    )


def size_line(name: str, parameters: int | None, mauc: Bar, origin: str) -> dict[str, Any]:
    """A point of the figure of scores against size, as a row of its table."""
    line = {"name": name, "parameters": parameters, "mauc": mauc.value, "low": mauc.low, "high": mauc.high}
    return {key: None if value != value else value for key, value in line.items()} | {"origin": origin}


PLOT_HEIGHT = 260  # px, about, of the plot of scores against size without legend and key
NEARLY = 0.01  # two sizes that the axis cannot show apart
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


def finding_dots(
    findings: Sequence[str], rows: Sequence[tuple[str, Sequence[Bar]]], mean: str, score: str = "AUROC"
) -> Figure:
    """A score of every finding and their mean, one dot with its interval per row of the comparison.

    rows: name, and one Bar per finding with the mean's behind them. mean: what the last line is called.
    score: of an AUROC a dashed line marks chance.
    Dots on lines instead of the paper's bars: a bar from 0 would hide differences of a hundredth.
    """
    lines = [*findings, mean]
    step = 0.8 / max(len(rows), 2)
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False}):
        figure, axes = new_panel((480, 90 + 20 * len(rows) + len(lines) * (14 + 9 * len(rows))))
        for number, (name, bars) in enumerate(rows):
            shift = (number - (len(rows) - 1) / 2) * step
            places = [place + shift for place in range(len(lines))]
            _bars(axes, [bar.value for bar in bars], places, bars, number, name, horizontal=True)
        for place in range(len(lines) - 1):
            axes.axhline(place + 0.5, color=INK if place == len(findings) - 1 else GRID, linewidth=0.8)
        axes.set_yticks(range(len(lines)), [*lines])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        chance = ""
        if score == "AUROC":
            axes.axvline(0.5, color=QUIET, linestyle="--", linewidth=1)
            chance = " (dashed: chance)"
        axes.set_xlabel(f"{score}, 95 % interval over patients{chance}")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        add_legend(figure)
    return figure


def score_against_parameters(rows: Sequence[SizedScore], published: Sequence[PublishedScore]) -> Figure:
    """Mean AUROC against the number of parameters on a logarithmic axis.

    published: drawn grey, open and numbered; those without a known size are left out of the figure.
    """
    quoted = [(row.name, row.parameters, row) for row in published if row.parameters is not None]
    sizes, beside = [row.parameters for row in rows], False
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((480, PLOT_HEIGHT + 60 + 20 * len(rows) + 7 * len(quoted)))
        for number, row in enumerate(rows):
            # runs of one encoder have one size, or nearly (another head): they stand beside each other
            twins = [other for other, size in enumerate(sizes) if abs(size / row.parameters - 1) < NEARLY]
            beside = beside or len(twins) > 1
            place = row.parameters * 1.05 ** (twins.index(number) - (len(twins) - 1) / 2)
            _bars(axes, [place], [row.mauc.value], [row.mauc], number, row.name, horizontal=False)
        for number, (_, size, other) in enumerate(quoted):
            label = None if number else MARK
            axes.plot(size, other.mauc / 100, "h", color=QUIET, markersize=7, fillstyle="none", label=label)
            if other.interval is not None:
                axes.plot([size, size], [end / 100 for end in other.interval], color=QUIET, linewidth=1)
        sizes += [size for _, size, _ in quoted]
        axes.set_xscale("log")
        axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g} M"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))  # digits from the tick step
        said = " (equal ones side by side)" if beside else ""
        axes.set(xlabel=f"parameters of the classifier{said}", ylabel="mAUC, 95 % interval over patients")
        _numbers(axes, [(size, other.mauc / 100) for _, size, other in quoted])
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda place: labels[place] == MARK)  # ours first
        add_legend(figure, [handles[place] for place in order], [labels[place] for place in order])
        key = [f"{number} {name} {row.mauc:.1f}" for number, (name, _, row) in enumerate(quoted, start=1)]
        half = math.ceil(len(key) / 2)
        for x, lines in ((0.0, key[:half]), (0.52, key[half:])):
            axes.annotate(
                "\n".join(lines), (x, -0.2), xycoords="axes fraction", fontsize=8.5, color=QUIET, va="top",
                annotation_clip=False,
            )  # fmt: skip
    return figure


def _numbers(axes: Axes, points: Sequence[tuple[int, float]]) -> None:
    """1, 2, 3 ... beside points, from top to bottom in the points' order even where these lie on each other.

    points: (parameters, score).
    """
    low, high = axes.get_ylim()
    per_unit = PLOT_HEIGHT / (high - low)
    columns: list[list[int]] = []  # points of nearly one size
    for number in sorted(range(len(points)), key=lambda number: points[number]):
        if not columns or points[number][0] > 1.02 * points[columns[-1][0]][0]:
            columns.append([])
        columns[-1].append(number)
    for place, column in enumerate(columns):
        column.sort(key=lambda number: points[number][1])
        size = points[column[0]][0]
        crowded = place + 1 < len(columns) and points[columns[place + 1][0]][0] < 1.15 * size
        heights = [points[number][1] * per_unit for number in column]
        for low_one in range(1, len(heights)):
            heights[low_one] = max(heights[low_one], heights[low_one - 1] + 10)
        down = sum(heights) / len(column) - sum(points[number][1] * per_unit for number in column) / len(
            column
        )
        for number, height in zip(column, heights, strict=True):
            offset = (-7 if crowded else 7, height - down - points[number][1] * per_unit - 3)
            axes.annotate(
                str(number + 1), points[number], offset, textcoords="offset points", fontsize=9, color=QUIET,
                ha="right" if crowded else "left",
            )  # fmt: skip


def _bars(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    bars: Sequence[Bar],
    number: int,
    name: str,
    horizontal: bool,
) -> None:
    """Dots with their intervals; what is NaN draws nothing, an interval may be absent beside a dot."""
    below = [0.0 if math.isnan(bar.low) else max(bar.value - bar.low, 0.0) for bar in bars]
    above = [0.0 if math.isnan(bar.high) else max(bar.high - bar.value, 0.0) for bar in bars]
    errors = [below, above]
    axes.errorbar(
        x, y, xerr=errors if horizontal else None, yerr=None if horizontal else errors, label=name,
        linestyle="none", markersize=6, elinewidth=1.5, capsize=2, **curve_style(number),
    )  # fmt: skip

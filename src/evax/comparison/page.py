"""compare.json -> compare.html and the tables beside it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from evax.comparison.figures import Bar, SizedScore, finding_dots, score_against_parameters
from evax.evaluation.marks import marked
from evax.evaluation.networks import MEANS
from evax.evaluation.published import MARK, Published
from evax.files import open_csv, replaced_whole
from evax.pages.drawing import save_figure, svg_of
from evax.pages.study_figures import few_labels_figure
from evax.pages.template import write_page

NO_SPREAD = {"mauc": {"sd": None}}  # of a sweep with one seed


def write_compare_page(path: Path, content: Mapping[str, Any], figures: Mapping[str, Figure]) -> None:
    """One self-contained page. content: compare.json. figures: title -> figure."""
    write_page(
        path,
        "compare.html.j2",
        title="Comparison on the same test films",
        environment=content["environment"],
        comparison=content,
        methods=list(dict.fromkeys(method for row in content["rows"] for method in row["calibration"])),
        figures=[(title, svg_of(figure, title)) for title, figure in figures.items()],
    )


def write_figure(figure: Figure, rows: Sequence[Mapping[str, Any]], stem: Path) -> None:
    """STEM.svg, STEM.png, and STEM.csv with every number that is drawn."""
    save_figure(figure, stem)
    write_rows(rows, stem.with_name(f"{stem.name}.csv"))


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A CSV table of flat rows; None is an empty cell, as is what a row lacks."""
    with replaced_whole(path) as unfinished, open_csv(unfinished) as file:
        table = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
        table.writeheader()
        table.writerows(rows)


def write_tables(content: Mapping[str, Any], out: Path) -> None:
    """compare.csv, operating-points.csv, differences.csv and, where asked for, published.csv."""
    write_rows([summary_line(row) for row in content["rows"]], out / "compare.csv")
    operating = [
        {"name": row["name"], "finding": finding["name"], "mean_over_seeds": len(row["seeds"])}
        | {key: value for key, value in finding.items() if key not in ("name", "auroc_interval")}
        for row in content["rows"]
        for finding in row["findings"]
    ]
    write_rows(operating, out / "operating-points.csv")
    differences = [
        {"name": each["name"], "reference": each["reference"], "of": of, "difference": one["value"]}
        | dict(zip(("low", "high"), one["interval"], strict=True))
        | {
            key: one[key]
            for key in ("interval_method", "p", "p_least", "p_holm", "test", "undefined", "partial")
        }
        for each in content["differences"]
        for of, one in [
            *((mean, each[mean]) for mean in MEANS if mean in each),
            *zip(content["findings"], each["findings"], strict=True),
        ]
    ]
    if differences:
        write_rows(differences, out / "differences.csv")
    if content["published"]:
        write_rows([{"origin": MARK} | row for row in content["published"]], out / "published.csv")


def summary_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of compare.csv."""
    line = {key: row[key] for key in ("name", "encoder", "weights", "label_fraction")}
    line |= {"learned_by": row["learned_by"], "trainings": len(row["seeds"])}
    line |= dict(zip(("train_films_least", "train_films_most"), row["train"]["films"], strict=True))
    means = [mean for mean in MEANS if mean in row]
    for mean in means:
        low, high = row[mean]["interval"]
        line |= {mean: row[mean]["value"], f"{mean}_low": low, f"{mean}_high": high}
        line |= {f"{mean}_{key}": row[mean][key] for key in ("undefined", "partial")}
    over_seeds = row["spread_over_seeds"] or {}
    for mean in (mean for mean in means if mean != "map"):
        for key in ("mean", "sd"):
            line[f"{mean}_seed_{key}"] = over_seeds.get(mean, {}).get(key)
    line |= {key: row[key] for key in ("wins", "parameters", "multiply_adds", "cpu_ms_per_film")}
    for method, errors in row["calibration"].items():
        line |= {f"{measure}_{method}": value for measure, value in errors.items()}
    return line


def draw_figures(
    content: Mapping[str, Any],
    sweeps: Sequence[tuple[str, Path]],
    published: Sequence[Published],
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


def in_shares(row: Published) -> Bar:
    """A published mAUC in [0, 1] instead of percent."""
    return bar(
        row.mauc / 100, [None if row.interval is None else end / 100 for end in row.interval or (0, 0)]
    )


def size_line(name: str, parameters: int | None, mauc: Bar, origin: str) -> dict[str, Any]:
    """A point of the figure of scores against size, as a row of its table."""
    line = {"name": name, "parameters": parameters, "mauc": mauc.value, "low": mauc.low, "high": mauc.high}
    return {key: None if value != value else value for key, value in line.items()} | {"origin": origin}

"""Finished runs of `evax segment` on the same test images -> rows, paired differences, page and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from evax.comparison.page import Bar, finding_dots, write_figure, write_table
from evax.comparison.read import check_same_images, check_same_protocols, named
from evax.errors import DataError, unknown_name
from evax.evaluation.comparison import holm, paired_difference
from evax.evaluation.intervals import macro_draws
from evax.evaluation.report import plain
from evax.evaluation.segmentation import Overlaps, dice_draws, global_dice
from evax.pages.drawing import svg_of
from evax.pages.masks import PIXELS
from evax.pages.template import write_page
from evax.runs.files import Facts, numbers, read_facts, read_table

TITLE = "Dice on test"


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A run, and what its masks have in common with the true ones, image by image."""

    name: str
    folder: Path
    report: Facts
    images: Any
    """(S,), names of the test images in order."""
    patients: Any
    """(S,)."""
    overlaps: Overlaps
    """At the thresholds of the run."""


def read_segmentations(folders: Sequence[Path], names: Sequence[str]) -> list[Segmentation]:
    """Raises DataError for a damaged run, and unless all were tested on the same images under one protocol."""
    runs = [
        read_segmentation(folder, name) for folder, name in zip(folders, named(folders, names), strict=True)
    ]
    for other in runs[1:]:
        check_same_images(runs[0], other)
    check_same_protocols(runs)
    return runs


def read_segmentation(folder: Path, name: str) -> Segmentation:
    """Of report.json and dice-test.csv; the pixels of an image without any number are unknown."""
    report, path = read_facts(folder / "report.json"), folder / "dice-test.csv"
    table = read_table(path, dtype={"image": str, "patient": str}, na_values=[""])
    findings = report["test_metrics"]["findings"]
    columns = [[f"{column}:{finding['name']}" for finding in findings] for column in PIXELS]
    if missing := [column for column in ("image", "patient", *chain(*columns)) if column not in table]:
        raise DataError(f"{path} lacks the column '{missing[0]}': run it again.")
    if len(table) != report["test_metrics"]["n"]:
        raise DataError(f"{path} has {len(table)} images, its report {report['test_metrics']['n']}.")
    inside, called, both = (
        np.stack([numbers(table, column) for column in of_one], axis=1) for of_one in columns
    )
    known = ~np.isnan(inside)
    thresholds = np.array([[finding["threshold"]] for finding in findings], dtype=np.float64)
    inside, called, both = (np.nan_to_num(each).astype(np.int64) for each in (inside, called, both))
    # how many pixels an image has is not asked for here
    overlaps = Overlaps(both[..., None], called[..., None], inside, 1, known, thresholds)
    images, patients = (table[column].to_numpy(dtype=str) for column in ("image", "patient"))
    return Segmentation(name, folder, report, images, patients, overlaps)


def segmentation_rows(runs: Sequence[Segmentation]) -> list[dict[str, Any]]:
    """What each run's report says of its test."""
    return [
        {
            "name": run.name,
            "encoder": run.report["encoder"],
            "weights": run.report["weights"],
            "train": run.report["train"],
            "parameters": run.report["model"]["parameters"],
            "mdice": run.report["test_metrics"]["mdice"],
            "findings": run.report["test_metrics"]["findings"],
        }
        for run in runs
    ]


def segmentation_differences(
    runs: Sequence[Segmentation], reference: str, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Each run against the reference (the first without a name), the same patients in every resample.

    p of the means is adjusted over the runs (Holm), p of the findings over runs and findings.
    Raises ConfigError for a name that no run has.
    """
    names = [run.name for run in runs]
    if reference and reference not in names:
        raise unknown_name("run", reference, names)
    scores = [global_dice(run.overlaps)[:, 0] for run in runs]  # (K,) each
    draws = [dice_draws(run.overlaps, run.patients, resamples, seed) for run in runs]  # (K, R) each
    first = names.index(reference) if reference else 0
    patients = len(np.unique(runs[0].patients))
    rows = []
    for run, own_scores, own_draws in zip(runs, scores, draws, strict=True):
        if run is runs[first]:
            continue
        pairs = [
            *zip(own_scores, scores[first], own_draws, draws[first], strict=True),
            (
                float(macro_draws(own_scores[:, None])[0]), float(macro_draws(scores[first][:, None])[0]),
                macro_draws(own_draws), macro_draws(draws[first]),
            ),
        ]  # fmt: skip
        compared = [paired_difference(float(a), float(b), c, d, patients) for a, b, c, d in pairs]
        rows.append((run.name, compared))
    of_means = holm([compared[-1].p for _, compared in rows])
    of_findings = holm([each.p for _, compared in rows for each in compared[:-1]]).reshape(len(rows), -1)
    return [
        {
            "name": name,
            "reference": names[first],
            "mdice": plain(compared[-1]) | {"p_holm": plain(float(of_means[i]))},
            "findings": [
                {"finding": finding["name"]} | plain(each) | {"p_holm": plain(float(adjusted))}
                for finding, each, adjusted in zip(
                    runs[0].report["test_metrics"]["findings"], compared[:-1], of_findings[i], strict=True
                )
            ],
        }
        for i, (name, compared) in enumerate(rows)
    ]


def dice_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Dice of every finding and their mean, a dot per run."""

    def bar(value: float | None, ends: Sequence[float | None]) -> Bar:
        return Bar(*(np.nan if number is None else number for number in (value, *ends)))

    names = [finding["name"] for finding in rows[0]["findings"]]
    bars = [
        (row["name"], [bar(finding["dice"], finding["dice_interval"]) for finding in row["findings"]])
        for row in rows
    ]
    if len(names) == 1:  # its own mean
        return finding_dots([], bars, names[0], "Dice")
    for (_, of_row), row in zip(bars, rows, strict=True):
        of_row.append(bar(row["mdice"]["value"], row["mdice"]["interval"]))
    return finding_dots(names, bars, "mean", "Dice")


def write_segmentation_page(out: Path, content: Mapping[str, Any]) -> Path:
    """compare.html, compare.csv, differences.csv, and the figure as SVG, PNG and CSV; returns the page."""
    scores = [
        {
            "name": row["name"],
            "encoder": row["encoder"],
            "weights": row["weights"],
            "finding": finding["name"],
        }
        | {key: value for key, value in finding.items() if key != "name" and not isinstance(value, list)}
        | dict(zip(("dice_low", "dice_high"), finding["dice_interval"], strict=True))
        for row in content["rows"]
        for finding in row["findings"]
    ]
    write_table(scores, out / "compare.csv")
    differences = [
        {"name": each["name"], "reference": each["reference"], "of": of, "difference": one["value"]}
        | dict(zip(("low", "high"), one["interval"], strict=True))
        | {key: one[key] for key in ("p", "p_holm", "test")}
        for each in content["differences"]
        for of, one in [("mean", each["mdice"]), *((one["finding"], one) for one in each["findings"])]
    ]
    write_table(differences, out / "differences.csv")
    figure = dice_figure(content["rows"])
    drawn = [
        {key: line[key] for key in ("name", "finding", "dice", "dice_low", "dice_high")} for line in scores
    ]
    write_figure(figure, drawn, out / "dice")
    write_page(
        out / "compare.html",
        "segmentations.html.j2",
        title="Comparison of segmentations on the same test images",
        environment=content["environment"],
        comparison=content,
        picture=(TITLE, svg_of(figure, TITLE)),
    )
    return out / "compare.html"

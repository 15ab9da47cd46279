"""Statistics of stores as JSON, CSV, figures and a page."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure

from evax.data import statistics
from evax.data.leaks import unnamed_patients
from evax.data.manifest import OF_FILM, SPLITS
from evax.data.statistics import image_pixels, measured_rows, of_films
from evax.data.store import ImageStore, open_store, short_names
from evax.evaluation.comparison import holm
from evax.files import make_folder, open_csv, replaced_whole, write_json
from evax.pages.drawing import BLUE, QUIET, STYLE, add_legend, curve_style, new_panel, save_figure, svg_of
from evax.pages.template import write_page

MOST_FINDINGS = 20  # drawn; the table has all


def write_statistics_page(out: Path, content: dict[str, Any], stores: Sequence[ImageStore]) -> None:
    """OUT/statistics.html, and every figure of it as OUT/figures/NAME.svg and .png."""
    names = [store["name"] for store in content["stores"]]
    drawn: list[tuple[str, Figure]] = []
    ages = [store.manifest.table["age"].dropna().to_numpy(np.float64) for store in stores]
    if any(len(values) for values in ages):
        drawn.append(("Age", boxes(names, ages, "age in years")))
    for column, title, unit in (
        ("height", "Height of an image", "pixels, as read"),
        ("width", "Width of an image", "pixels, as read"),
        ("spacing_mm", "Spacing of an image's pixels", "mm, as read"),
    ):
        of_stores = [of_films(store.manifest.table, column) for store in stores]
        if any(len(values) for values in of_stores):
            drawn.append((title, boxes(names, of_stores, unit)))
    pixels = [image_pixels(store, measured_rows(store)) for store in stores]
    drawn.append(
        ("Mean of an image's pixels", boxes(names, [values[:, 0] for values in pixels], "grey, 0 to 1"))
    )
    drawn.append(
        (
            "Contrast of an image",
            boxes(names, [values[:, 1] for values in pixels], "standard deviation of grey"),
        )
    )
    if any(store["findings"] for store in content["stores"]):
        drawn.append(("Share of images with a finding", prevalences(content["stores"])))
    drawn += [
        (f"Findings together: {store['name']}", together(store))
        for store in content["stores"]
        if len(store["findings"]) > 1
    ]
    for title, figure in drawn:
        save_figure(figure, out / "figures" / re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"))
    write_page(
        out / "statistics.html",
        "statistics.html.j2",
        title="Statistics of " + (f"{len(names)} stores" if len(names) > 1 else names[0]),
        content=content,
        figures=[(title, svg_of(figure, title)) for title, figure in drawn],
        findings=sorted({finding for store in content["stores"] for finding in store["findings"]}),
    )


def boxes(names: Sequence[str], values: Sequence[Float64[np.ndarray, " _"]], x_label: str) -> Figure:
    """Median, quartiles and the central 90 % of each store; a store without values has an empty line."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((480, 70 + 34 * len(names)))
        known = [number for number, each in enumerate(values) if len(each)]
        axes.boxplot(
            [values[number] for number in known], positions=known, orientation="horizontal", whis=(5, 95),
            showfliers=False, widths=0.55, patch_artist=True, medianprops={"color": "white", "linewidth": 2},
            boxprops={"facecolor": BLUE, "edgecolor": BLUE}, whiskerprops={"color": BLUE},
            capprops={"color": BLUE},
        )  # fmt: skip
        quartiles = {number: np.percentile(values[number], (25, 50, 75)) for number in known}
        if flat := {number: median for number, (low, median, high) in quartiles.items() if low == high}:
            # a box without width is hidden by its white median
            axes.plot(list(flat.values()), list(flat), "|", color=BLUE, ms=16, mew=4, zorder=4)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{x_label} (box: quartiles; line: 5 to 95 %)")
    return figure


def prevalences(stores: Sequence[dict[str, Any]]) -> Figure:
    """Share of the images with each finding, of those where it is known; one mark per store."""
    shares = [
        {finding: n["present"] / n["known"] for finding, n in store["findings"].items() if n["known"]}
        for store in stores
    ]
    findings = sorted({finding for each in shares for finding in each}, key=lambda finding: (
        -max(each.get(finding, 0.0) for each in shares), finding
    ))[:MOST_FINDINGS]  # fmt: skip
    with matplotlib.rc_context(STYLE):
        figure, axes = new_panel((480, 90 + 24 * len(findings) + 20 * len(stores)))
        for number, (store, share) in enumerate(zip(stores, shares, strict=True)):
            rows = [row for row, finding in enumerate(findings) if finding in share]
            if rows:
                axes.plot(
                    [100 * share[findings[row]] for row in rows], rows, linestyle="none",
                    label=store["name"], markersize=7, clip_on=False, **curve_style(number),
                )  # fmt: skip
        axes.set_yticks(range(len(findings)), findings)
        axes.set_ylim(len(findings) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("images with the finding, %, of those where it is known")
        add_legend(figure)
    return figure


def together(store: dict[str, Any]) -> Figure:
    """Of the images with the finding of a row, how many per cent have that of the column too."""
    findings = list(store["findings"])[:MOST_FINDINGS]
    counts = np.array(store["together"], np.float64)[: len(findings), : len(findings)]
    own = np.diag(counts)[:, None]
    shares = 100 * np.divide(counts, own, out=np.full_like(counts, np.nan), where=own > 0)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = new_panel((180 + 30 * len(findings), 150 + 26 * len(findings)))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for row, column in np.argwhere(np.isfinite(shares)):
            share = shares[row, column]
            colour = "white" if share > 55 else QUIET
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(len(findings)), findings, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(findings)), findings)
        axes.set_xlabel("% of the row's images\nthat have this one, too")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
    return figure


def write_statistics(out: Path, paths: Sequence[Path]) -> Path:
    """Writes the table, the figures and the page; returns the path of statistics.json. paths: of stores."""
    stores, names = [open_store(path) for path in paths], short_names(paths)
    differences = statistics.differences(stores, names)
    adjusted = holm([each["p"] for each in differences]).tolist()
    content = {
        "kind": "statistics",
        "stores": [described(name, store) for name, store in zip(names, stores, strict=True)],
        "differences": [each | {"p_holm": p} for each, p in zip(differences, adjusted, strict=True)],
    }
    write_json(content, make_folder(out) / "statistics.json")
    path = out / "statistics.csv"
    with replaced_whole(path) as unfinished, open_csv(unfinished) as file:
        csv.writer(file).writerows([("store", "variable", "value", "number", "of"), *lines(content)])
    write_statistics_page(out, content, stores)
    return out / "statistics.json"


def described(name: str, store: ImageStore) -> dict[str, Any]:
    """The numbers of one store; splits in their order, and how many patients are none by name."""
    numbers = statistics.describe_stores(name, store)
    order = (*SPLITS, statistics.NOT_STATED)
    numbers["splits"] = {split: numbers["splits"][split] for split in order if split in numbers["splits"]}
    return numbers | {"unnamed_patients": unnamed_patients(store)}


def lines(content: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The table in long form: store, variable, value, number, and of how many."""
    for store in content["stores"]:
        name, films = store["name"], store["films"]
        yield name, "films", "", films, ""
        yield name, "patients", "", store["patients"], ""
        yield (
            name,
            "patients",
            "images or studies that name nobody",
            store["unnamed_patients"],
            store["patients"],
        )
        for variable in ("splits", "sex", "view"):
            for value, count in store[variable].items():
                yield name, variable, value, count, films
        for finding, counts in store["findings"].items():
            yield name, "finding", finding, counts["present"], counts["known"]
        for row, (first, together) in enumerate(zip(store["findings"], store["together"], strict=True)):
            for second, count in list(zip(store["findings"], together, strict=True))[row + 1 :]:
                yield name, "findings together", f"{first} + {second}", count, films
        for variable in ("age", "films_per_patient", *OF_FILM, "film_mean", "film_std"):
            spread = store[variable]
            if spread["n"]:
                for value, number in zip(
                    ("quartile 1", "median", "quartile 3"), spread["quartiles"], strict=True
                ):
                    yield name, variable, value, f"{number:.6g}", spread["n"]
                yield name, variable, "mean", f"{spread['mean']:.6g}", spread["n"]
        yield name, "stored size", "pixels", store["stored_size"], ""
        yield name, "pixels", "mean", f"{store['pixel_mean']:.6g}", store["pixel_films"]
        yield name, "pixels", "standard deviation", f"{store['pixel_std']:.6g}", store["pixel_films"]

"""What a page shows of masks: scores, Dice against the threshold, images with true and drawn edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64
from PIL import Image

from evax.data.masked import MaskedData
from evax.data.store import ImageStore
from evax.errors import DataError
from evax.evaluation.classification import FEW
from evax.evaluation.report import plain
from evax.evaluation.segmentation import THRESHOLDS, Overlaps, false_area, film_dice
from evax.explain.overlay import CALLED_EDGE, TRUE_EDGE, outlined
from evax.files import make_folder, replaced_whole
from evax.pages import figures
from evax.pages.drawing import data_uri, jpeg
from evax.runs.files import Facts, interval, numbers, read_facts, read_log

Rows = Int64[np.ndarray, " S"]
PIXELS = ("inside", "called", "both")  # columns of dice-test.csv


def write_dice_table(
    path: Path, store: ImageStore, rows: Rows, findings: Sequence[str], overlaps: Overlaps
) -> None:
    """One line per film: row of the store, image, patient; of every finding Dice and pixels: inside, called
    inside, and both.

    overlaps: of these images, at one threshold per finding. A finding of which nothing is known is empty.
    """
    table = store.manifest.table.loc[rows, ["image", "patient"]].reset_index(drop=True)
    table.insert(0, "row", rows)
    each = film_dice(overlaps)
    for k, finding in enumerate(findings):
        table[f"dice:{finding}"] = each[:, k]
        counts = (overlaps.inside[:, k], overlaps.called[:, k, 0], overlaps.both[:, k, 0])
        for column, pixels in zip(PIXELS, counts, strict=True):
            known = pd.Series(pixels, dtype="Int64").where(pd.Series(overlaps.known[:, k]))
            table[f"{column}:{finding}"] = known
    with replaced_whole(path) as unfinished:
        table.to_csv(unfinished, index=False)


def draw_masks(
    folder: Path,
    films: MaskedData,
    overlaps: Overlaps,
    count: int,
    probabilities_of: Callable[[Rows], Iterable[Float[np.ndarray, "K H W"]]],
) -> list[dict[str, Any]]:
    """Pictures of test images, per finding from the best Dice to the worst, and false alarms; says which.

    overlaps: of images.test, at one threshold per finding. count: of pictures, of all findings together.
    probabilities_of: the segmenter on rows of the store.
    """
    shown: list[dict[str, Any]] = []
    for k, finding in enumerate(films.findings):
        of_finding = count // len(films.findings) + (k < count % len(films.findings))
        places = shown_places(overlaps, k, of_finding)
        threshold, each = float(overlaps.thresholds[k, 0]), film_dice(overlaps)[:, k]
        for place, answer in zip(places, probabilities_of(films.test[places]), strict=True):
            row = int(films.test[place])
            truth, called = films.truth(row)[k] == 1, answer[k] >= threshold
            film = films.store.pixels(row) / 255
            picture = outlined(film, [(truth, TRUE_EDGE), (called, CALLED_EDGE)])
            # numbered: an image's name may be its patient's, and findings may hold any character
            path = make_folder(folder) / f"{len(shown):03d}.png"
            picture.save(path)
            own = {"dice": plain(float(each[place])), "called": float(called.mean())}
            shown.append({"picture": path.name, "finding": finding, "row": row, **own})
    return shown


def shown_places(overlaps: Overlaps, finding: int, count: int) -> Int64[np.ndarray, " n"]:
    """At most so many images of a finding: the worst false alarms, a quarter, behind images that have it."""
    called = false_area(overlaps)[:, finding]
    false = np.argsort(-called)[: min(count // 4, int(np.nansum(called > 0)))]
    each = film_dice(overlaps)[:, finding]
    ranked = np.argsort(-each)[: np.count_nonzero(~np.isnan(each))]
    wanted = min(len(ranked), count - len(false))
    spread = ranked[np.linspace(0, len(ranked) - 1, wanted).round().astype(int)]
    return np.concatenate([spread, false]).astype(np.int64)


def segmentation(name: str, folder: Path) -> dict[str, Any]:
    """What report.html shows of a run of evax segment."""
    report, log = read_facts(folder / "report.json"), read_log(folder / "log.jsonl")
    rows = [
        (f"{row['name']}, n = {row['films_with']}", row["dice"], interval(row["dice_interval"]))
        for row in report["test_metrics"]["findings"]
        if row["dice"] is not None
    ]
    curves = [("Dice on test", figures.interval_plot(
        rows, label=f"Dice of {name}", x_label="Dice of all pixels", limits=(0, 1), bars=True
    ))]  # fmt: skip
    for event, key, title in (("step", "loss", "loss"), ("validation", "dice", "validation Dice")):
        if (table := log.get(event)) is not None:
            svg = figures.curve_panel(
                numbers(table, "step"), numbers(table, key),
                label=f"{title} of {name} against steps", x_label="steps", y_label=title,
            )  # fmt: skip
            curves.append((title, svg))
    for finding, scores in report["validation_dice_by_threshold"].items():
        svg = figures.curve_panel(
            THRESHOLDS, np.array(scores, dtype=float), label=f"Dice of {finding} against the threshold",
            x_label="threshold", y_label="validation Dice",
        )  # fmt: skip
        curves.append((f"{finding}: Dice by threshold", svg))
    return {
        "name": name,
        "report": report,
        "metrics": report["test_metrics"],
        "curves": curves,
        "few": FEW,
        "pictures": [pictured(folder, shown) for shown in report["pictures"]],
    }


def pictured(folder: Path, shown: Facts) -> tuple[str, str, str]:
    """Finding, words and the picture itself."""
    path = folder / "pictures" / Path(shown["picture"]).name
    try:
        with Image.open(path) as picture:
            film = data_uri(jpeg(picture))
    except OSError as error:
        raise DataError(f"The picture {path} cannot be read: {error}. Run that step again.") from error
    said = f"Dice {shown['dice']:.3f}" if shown["dice"] is not None else f"none; {shown['called']:.1%} drawn"
    return shown["finding"], f"row {shown['row']} · {said}", film

"""The section of one localisation: scores, their curve against the threshold, the pointing game, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evax.errors import DataError
from evax.evaluation.localization import THRESHOLDS
from evax.evaluation.published import MARK
from evax.pages import figures
from evax.pages.pictures import data_uri, jpeg
from evax.runs.files import Facts, interval, read_facts


def localisation(name: str, folder: Path) -> dict[str, Any]:
    """What the section shows of the folder of an evax localize."""
    report = read_facts(folder / "report.json")
    scored, scores = report["pointing"], report["localization"]
    of_finding = {row["finding"]: row for row in scored}
    return {
        "name": name,
        "report": report,
        "protocol_name": report["protocol"]["name"],
        "hits": sum(row["hits"] for row in scored),
        "films": sum(row["films"] for row in scored),
        "figure": pointing_figure(name, scored),
        "curve": threshold_figure(name, scores),
        "at_an_end": bool({THRESHOLDS[0], THRESHOLDS[-1]} & set(scores["overall"]["thresholds"])),
        "rows": [(row, of_finding[row["finding"]]) for row in scores["findings"]],
        "published_mark": MARK,
        "pictures": pictures(report, folder / "overlays"),
    }


def pictures(report: Facts, folder: Path) -> list[tuple[str, str, str]]:
    """Finding, what is to be said, and the picture of each overlay. Raises DataError for one that is gone."""
    shown = []
    for overlay in report["overlays"]:
        path = folder / Path(overlay["picture"]).name
        try:
            with Image.open(path) as picture:
                film = data_uri(jpeg(picture))
        except OSError as error:
            raise DataError(f"The picture {path} cannot be read: {error}. Run that step again.") from error
        region = "mask" if overlay["truth"] == "masks" else "box"
        peak = f"peak {'inside' if overlay['hit'] else 'outside'} the {region}"
        shown.append((overlay["finding"], f"probability {overlay['probability']:.2f}, {peak}", film))
    return shown


def pointing_figure(name: str, scored: list[Facts]) -> str:
    """The share of hits per finding with its interval."""
    rows = [
        (f"{row['finding']} ({row['hits']} of {row['films']})", row["rate"], interval(row["interval"]))
        for row in scored
    ]
    label, x_label = f"Pointing game of {name}", "share of peaks inside"
    return figures.interval_plot(rows, label=label, x_label=x_label, limits=(0, 1), bars=True)


def threshold_figure(name: str, scores: Facts) -> str:
    """The scored cases' mAP and mIoU at every threshold, and the thresholds that were chosen."""
    curve = scores["curve"]
    return figures.threshold_panel(
        np.array(curve["threshold"]),
        {"mAP": np.array(curve["map"]), "mIoU": np.array(curve["miou"])},
        label=f"mAP and mIoU of {name} against the threshold",
        x_label="threshold of the map",
        y_label="over the scored cases",
        chosen=scores["overall"]["thresholds"],
    )

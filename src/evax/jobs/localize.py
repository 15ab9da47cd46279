"""evax localize: does Grad-CAM of a classifier point at the boxes of a store?"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from evax.config import command_line
from evax.errors import ConfigError, DataError

if TYPE_CHECKING:
    from evax.data.store import ImageStore


@dataclass(frozen=True, kw_only=True)
class LocalizeConfig:
    """Pointing game: how often the map's peak lies in a true box, per finding, on films that have one."""

    bundle: tyro.conf.Positional[Path]
    """Classifier bundle written by `evax finetune`, or a published classifier, as in `evax predict`."""
    store: Path
    """Store whose films have boxes."""
    out: Path
    """Run folder for report.json and overlays/."""
    at: Literal["norm1", "output"] = "norm1"
    """Layer of the map: norm1 as the paper, or output."""
    split: Literal["train", "val", "test"] = "test"
    """Films that are scored."""
    overlays: int = 3
    """Pictures per finding, of the films with the highest probability."""
    resamples: int = 2000
    """Bootstrap resamples of the patients."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.overlays < 0 or self.resamples <= 0:
            raise ConfigError("overlays must be at least 0 and resamples above 0.")


def localize(config: LocalizeConfig) -> Path:
    """Scores every (film, finding) of the split that has a box; returns the path of report.json.

    Raises DataError when no film of the split has a box of a finding the bundle knows.
    """
    import numpy as np

    from evax.data.store import open_store
    from evax.deploy.predictor import open_bundle
    from evax.evaluation.intervals import mean_interval
    from evax.evaluation.localization import peak_in_box
    from evax.explain.heatmap import spread
    from evax.explain.overlay import overlay
    from evax.files import make_folder, write_json
    from evax.reporting.run_page import write_run_page
    from evax.training.tracking import progress_bar, start_run

    start = time.perf_counter()
    predictor, store = open_bundle(config.bundle), open_store(config.store)
    findings = predictor.card.findings
    if predictor.card.kind != "classifier":
        raise ConfigError(
            f"{config.bundle} holds an encoder; localize needs a classifier. Fine-tune it first."
        )
    if (needed := predictor.card.preprocess.store_size) != store.size:
        raise DataError(
            f"{config.bundle} was trained on films kept at {needed} pixels, {config.store} keeps them at "
            f"{store.size}: prepare the store with --size {needed}."
        )
    cases = films_with_boxes(store, config.split, findings)
    if not cases:
        raise DataError(f"No {config.split} film of {config.store} has a box of {', '.join(findings)}.")
    start_run(config.out, config, resume=False)
    rows: list[dict[str, Any]] = []
    with progress_bar("localising", len(cases)) as advance:
        for row, boxes_of in cases.items():
            pixels = store.pixels(row)
            seen = predictor.card.preprocess.to_input(pixels)
            inputs = seen.reshape(1, -1, *seen.shape[-2:])
            maps, scores = predictor.maps(inputs, config.at)[0], predictor.predict_inputs(inputs)[0]
            for finding, boxes in boxes_of.items():
                column = findings.index(finding)
                heatmap = spread(maps[column], pixels.shape, predictor.card.preprocess)
                rows.append(
                    {
                        "row": row,
                        "image": store.manifest.table.at[row, "image"],
                        "patient": store.manifest.table.at[row, "patient"],
                        "finding": finding,
                        "probability": float(scores[column]),
                        "hit": peak_in_box(heatmap, np.array(boxes)),
                        "heatmap": maps[column],
                        "boxes": boxes,
                    }
                )
            advance("")
    pointing, overlays = [], list[dict[str, Any]]()
    for finding in findings:
        of_finding = sorted(
            (row for row in rows if row["finding"] == finding), key=lambda row: -row["probability"]
        )
        if not of_finding:
            continue
        hits = np.array([row["hit"] for row in of_finding])
        patients = [row["patient"] for row in of_finding]
        interval = mean_interval(hits, patients, config.resamples, config.seed)
        pointing.append(
            {
                "finding": finding, "films": len(hits), "hits": int(hits.sum()), "rate": float(hits.mean()),
                "interval": [None if math.isnan(end) else end for end in (interval.low, interval.high)],
            }
        )  # fmt: skip
        for shown in of_finding[: config.overlays]:
            film = store.pixels(shown["row"]) / 255.0
            heatmap = spread(shown["heatmap"], film.shape, predictor.card.preprocess)
            picture = overlay(film, heatmap, shown["boxes"])
            # numbered: a film's name may be its patient's, and findings may hold any character
            path = make_folder(config.out / "overlays") / f"{len(overlays):03d}.png"
            picture.save(path)
            overlays.append(
                {"picture": path.name, "finding": finding, "row": shown["row"],
                 "probability": shown["probability"], "hit": shown["hit"]}
            )  # fmt: skip
    report = {
        "kind": "localize",
        "at": config.at,
        "split": config.split,
        "data_fingerprint": store.fingerprint,
        "bundle": str(config.bundle),
        "pointing": pointing,
        "overlays": overlays,
        "command": command_line("localize", config),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_json(report, config.out / "report.json")
    write_run_page(config.out)
    return config.out / "report.json"


def films_with_boxes(
    store: ImageStore, split: str, findings: tuple[str, ...]
) -> dict[int, dict[str, list[tuple[float, float, float, float]]]]:
    """Row -> finding -> boxes (x, y, width, height in fractions)."""
    wanted = {store.manifest.table.at[row, "image"]: int(row) for row in store.rows(split)}
    cases: dict[int, dict[str, list[tuple[float, float, float, float]]]] = {}
    for box in store.manifest.boxes.itertuples():
        if box.image in wanted and box.finding in findings:
            case = cases.setdefault(wanted[box.image], {})
            case.setdefault(str(box.finding), []).append((box.x, box.y, box.width, box.height))  # type: ignore[arg-type]
    return dict(sorted(cases.items()))

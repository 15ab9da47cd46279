"""What evax localize leaves: scores with their protocol, a line per case, and pictures.

Shape legend: T thresholds; C cases of a finding on a film: one, or one per box in the paper's protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64

from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore
from evax.evaluation.intervals import mean_interval
from evax.evaluation.localization import SCORES, THRESHOLDS, case_scores, localization_scores
from evax.evaluation.published import PUBLISHED_MAPS
from evax.evaluation.report import plain
from evax.explain.heatmap import spread
from evax.explain.overlay import overlay
from evax.explain.regions import Box, Drawn
from evax.files import make_folder, replaced_whole

NONE = -1
"""In place of a threshold's place where none could be chosen."""
CLEAN = {"name": "clean", "case": "a finding of a film: all its boxes together, or its mask"}
PAPER = {
    "name": "paper",
    "warning": "the cases that are reported chose the threshold: optimistic, never to be compared with a "
    "clean number",
    "case": "each box; its sides in pixels are cut to whole numbers",
}
OFFICIAL_BOXES = "chestxray14"  # source of the stores whose boxes the published numbers are of


@dataclass(frozen=True, eq=False)
class Pair:
    """A finding of a film whose place is known, and how its map did."""

    row: int
    finding: str
    truth: Drawn
    boxes: tuple[Box, ...]
    probability: float
    grid: Float[np.ndarray, "h w"]
    """Grad-CAM on the patch grid."""
    hit: bool
    """Whether the map's peak lies in a box, or in the mask."""
    share: float
    """Of the film's area inside the boxes or the mask: what a point drawn by chance would hit."""
    ious: Float[np.ndarray, "C T"]


@dataclass(frozen=True, eq=False)
class Localized:
    """The pairs of the films that are scored, and the threshold of each."""

    pairs: list[Pair]
    places: Int64[np.ndarray, " _"]
    """Of each pair's threshold in THRESHOLDS, or NONE."""
    patients: list[str]
    """Of each pair."""

    def of(self, finding: str) -> Localized:
        """Only the pairs of a finding."""
        kept = [number for number, pair in enumerate(self.pairs) if pair.finding == finding]
        return Localized(
            [self.pairs[number] for number in kept],
            self.places[kept],
            [self.patients[number] for number in kept],
        )

    def cases(self) -> tuple[Float[np.ndarray, " S"], list[str]]:
        """IoU of every case at its threshold, NaN without one, and its patient."""
        ious = [
            pair.ious[:, place] if place != NONE else np.full(len(pair.ious), np.nan)
            for pair, place in zip(self.pairs, self.places, strict=True)
        ]
        owners = [patient for patient, own in zip(self.patients, ious, strict=True) for _ in range(len(own))]
        return np.concatenate(ious), owners


def protocol_entries(
    name: Literal["clean", "paper"], chosen_on: str, side: int, resamples: int
) -> dict[str, str]:
    """What every number of the run must carry. side: of the maps that were thresholded, in pixels."""
    return {
        **(CLEAN if name == "clean" else PAPER),
        "threshold_chosen_on": chosen_on,
        "threshold_chosen_by": "highest mAP of one threshold for all findings, from 0.01 to 0.60 by 0.01",
        "map": f"least value 0 and largest 1, bilinear to {side} x {side} pixels",
        "ap25_and_ap50": "shares of cases with IoU above 0.25 and 0.5: accuracies, not average precisions",
        "interval": f"patient-clustered bootstrap, percentile, {resamples} resamples, thresholds as they are",
    }


def scores_of(localized: Localized, findings: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    """`pointing` per finding, `localization` overall and per finding, and the curve against the threshold.

    findings: in the order of the tables; those without a pair are left out.
    """
    parts = {name: part for name in findings if (part := localized.of(name)).pairs}
    curve = case_scores(np.concatenate([pair.ious for pair in localized.pairs])).mean(axis=0)  # (T, 4)
    return {
        "pointing": [{"finding": name, **pointing(part, resamples, seed)} for name, part in parts.items()],
        "localization": {
            "overall": {
                "pointing": pointing(localized, resamples, seed),
                **overlap(localized, resamples, seed),
            },
            "findings": [
                {"finding": name, "truth": part.pairs[0].truth, **overlap(part, resamples, seed)}
                for name, part in parts.items()
            ],
            "curve": {
                "threshold": THRESHOLDS.tolist(),
                **{name: curve[:, k].tolist() for k, name in enumerate(SCORES)},
            },
        },
    }


def pointing(localized: Localized, resamples: int, seed: int) -> dict[str, Any]:
    """The pointing game: of how many pairs of film and finding the peak lies inside."""
    hits = np.array([pair.hit for pair in localized.pairs])
    return {
        "films": len(hits),
        "hits": int(hits.sum()),
        "rate": float(hits.mean()),
        "interval": plain(mean_interval(hits, localized.patients, resamples, seed)),
    }


def overlap(localized: Localized, resamples: int, seed: int) -> dict[str, Any]:
    """The scores of the cases, and what they must be read with."""
    ious, owners = localized.cases()
    chosen = sorted({int(place) for place in localized.places} - {NONE})
    return {
        "films": len({pair.row for pair in localized.pairs}),
        "thresholds": [float(THRESHOLDS[place]) for place in chosen],
        "share_of_film": float(np.mean([pair.share for pair in localized.pairs])),
        "empty_maps": sum(not pair.grid.any() for pair in localized.pairs),
        **localization_scores(ious, owners, resamples, seed),
    }


def published_maps(store: ImageStore) -> list[dict[str, Any]]:
    """The published numbers, where the store's boxes are those they are of."""
    return [asdict(row) for row in PUBLISHED_MAPS] if store.manifest.source == OFFICIAL_BOXES else []


def write_cases(path: Path, store: ImageStore, localized: Localized, protocol: str) -> None:
    """One line per case: image, patient, finding, and how its map did at its threshold.

    protocol: in a column of its own when it is not the clean one.
    """
    lines = []
    for pair, place in zip(localized.pairs, localized.places, strict=True):
        film = {name: store.manifest.table.at[pair.row, name] for name in ("image", "patient")}
        for number, ious in enumerate(pair.ious, start=1):
            lines.append(
                {
                    **film,
                    **({"protocol": protocol} if protocol != "clean" else {}),
                    "finding": pair.finding,
                    "case": number,
                    "truth": pair.truth,
                    "probability": pair.probability,
                    "hit": int(pair.hit),
                    "threshold": None if place == NONE else THRESHOLDS[place],
                    "iou": None if place == NONE else ious[place],
                }
            )
    with replaced_whole(path) as unfinished:
        pd.DataFrame(lines).to_csv(unfinished, index=False)


def draw_overlays(
    out: Path, store: ImageStore, pairs: Sequence[Pair], preprocess: Preprocess, findings: Sequence[str],
    most: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """A picture of each finding's pairs of highest probability, at most so many; returns what they show."""
    shown: list[dict[str, Any]] = []
    for finding in findings:
        of_finding = sorted(
            (pair for pair in pairs if pair.finding == finding), key=lambda pair: -pair.probability
        )
        for pair in of_finding[:most]:
            film = store.pixels(pair.row) / 255.0
            heatmap = spread(pair.grid, film.shape, preprocess)
            picture = overlay(film, heatmap, pair.boxes, mask=mask_of(store, pair))
            # numbered: a film's name may be its patient's, and findings may hold any character
            path = make_folder(out / "overlays") / f"{len(shown):03d}.png"
            picture.save(path)
            shown.append(
                {"picture": path.name, "finding": finding, "row": pair.row, "truth": pair.truth,
                 "probability": pair.probability, "hit": pair.hit}
            )  # fmt: skip
    return shown


def mask_of(store: ImageStore, pair: Pair) -> Bool[np.ndarray, "S S"] | None:
    """The mask a pair was held against; None for boxes."""
    return store.masks(pair.row)[pair.finding] if pair.truth == "masks" else None

"""Heat maps of a classifier against drawn boxes or masks: cases, threshold, scores, table and pictures.

Shape legend: S cases; H W pixels of a map; T thresholds; C cases of a finding on an image: one, or one per
box in the paper's protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64

from evax.data.labelled import in_drawn_order
from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore
from evax.evaluation.intervals import mean_interval
from evax.evaluation.localization import (
    SCORES,
    THRESHOLDS,
    best_threshold,
    case_scores,
    iou_at_thresholds,
    localization_scores,
    mask_of_boxes,
    mask_of_truncated_box,
    peak_in_box,
    peak_in_mask,
    thresholds_of_folds,
)
from evax.evaluation.published import PUBLISHED_MAPS
from evax.evaluation.report import plain
from evax.explain.heatmap import At, Explainable, spread
from evax.explain.overlay import overlay
from evax.files import make_folder, replaced_whole

Drawn = Literal["boxes", "masks"]
Truth = Literal["boxes", "masks", "auto"]
Box = tuple[float, float, float, float]
"""x, y, width, height in fractions of the image."""
Regions = dict[int, dict[str, tuple[Box, ...]]]
"""Row -> finding -> its boxes on that image; without boxes the image's mask counts, read when it is needed."""


def kinds_of_truth(
    store: ImageStore, rows: Int64[np.ndarray, " _"], findings: Sequence[str], truth: Truth
) -> dict[str, Drawn]:
    """Finding -> what counts as the truth of all its images.

    truth: "auto" takes masks for the findings of which any of these images has one, else boxes.
    """
    if truth != "auto":
        return dict.fromkeys(findings, truth)
    drawn = store.mask_findings()
    return {
        name: "masks" if name in drawn and np.isin(store.masked_rows(name), rows).any() else "boxes"
        for name in findings
    }


def images_with_regions(
    store: ImageStore, rows: Int64[np.ndarray, " _"], kinds: Mapping[str, Drawn]
) -> Regions:
    """The images of these rows on which a finding was drawn as its kind says, in order."""
    wanted = {store.manifest.table.at[row, "image"]: int(row) for row in rows}
    found: Regions = {}
    for box in store.manifest.boxes.to_dict("records"):
        if box["image"] in wanted and kinds.get(box["finding"]) == "boxes":
            corners = (float(box["x"]), float(box["y"]), float(box["width"]), float(box["height"]))
            of_film = found.setdefault(wanted[box["image"]], {})
            of_film[box["finding"]] = (*of_film.get(box["finding"], ()), corners)
    drawn = store.mask_findings()
    for finding in (name for name, kind in kinds.items() if kind == "masks" and name in drawn):
        for row in np.intersect1d(store.masked_rows(finding), rows):
            found.setdefault(int(row), {})[finding] = ()
    return dict(sorted(found.items()))


NONE = -1
"""In place of a threshold's place where none could be chosen."""
CLEAN = {"name": "clean", "case": "a finding of an image: all its boxes together, or its mask"}
PAPER = {
    "name": "paper",
    "warning": "the cases that are reported chose the threshold: optimistic, never to be compared with a "
    "clean number",
    "case": "each box; its sides in pixels are cut to whole numbers",
}
OFFICIAL_BOXES = "chestxray14"  # source of the stores whose boxes the published numbers are of


@dataclass(frozen=True, eq=False)
class Pair:
    """A finding of an image whose place is known, and how its map did."""

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
    """Of the image's area inside the boxes or the mask: what a point drawn by chance would hit."""
    ious: Float[np.ndarray, "C T"]


@dataclass(frozen=True, eq=False)
class Localized:
    """The pairs of the images that are scored, and the threshold of each."""

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


def score_localization(
    localized: Localized, findings: Sequence[str], resamples: int, seed: int
) -> dict[str, Any]:
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
    """The pointing game: of how many pairs of image and finding the peak lies inside."""
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
            # numbered: an image's name may be its patient's, and findings may hold any character
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


FOLDS = 5
ENOUGH_TO_CHOOSE = 20  # pairs of image and finding: with fewer one image moves the threshold


# title, number of images -> a context whose function is called after each image
Progress = Callable[[str, int], AbstractContextManager[Callable[[str], None]]]


def no_progress(title: str, total: int) -> AbstractContextManager[Callable[[str], None]]:
    """Shows nothing."""
    return nullcontext(lambda note: None)


class ExplainableClassifier(Explainable, Protocol):
    """A predictor with maps and probabilities."""

    def predict_inputs(self, inputs: Any) -> Any:
        """Probabilities (S, K) of a batch that network_input made."""
        ...


@dataclass(frozen=True, eq=False)
class Maps:
    """How the maps of a store's images are made and judged."""

    predictor: ExplainableClassifier
    store: ImageStore
    at: At
    preprocess: Preprocess
    side: int
    """Of the maps in pixels."""
    each_box: bool
    """Whether each box is a case; else all boxes of a finding of an image are one."""
    progress: Progress

    @classmethod
    def of(
        cls,
        predictor: ExplainableClassifier,
        store: ImageStore,
        at: At,
        protocol: Literal["clean", "paper"],
        progress: Progress = no_progress,
    ) -> Maps:
        """At the store's size; in the paper's protocol at that of the network's input, and of the whole image
        where a central crop is usual.
        """
        preprocess = predictor.card.preprocess
        if protocol == "clean":
            return cls(predictor, store, at, preprocess, store.size, False, progress)
        whole = replace(preprocess, resize_size=None)
        return cls(predictor, store, at, whole, whole.input_size, True, progress)

    def pairs(self, films: Regions) -> list[Pair]:
        """Every finding drawn on these images, one image after the other; only patch grids are kept.

        A mask that is empty at the store's size is left out.
        """
        pairs: list[Pair] = []
        with self.progress("localising", len(films)) as advance:
            for row, drawn in films.items():
                pairs += self._of_film(row, drawn)
                advance("")
        return pairs

    def _of_film(self, row: int, drawn: dict[str, tuple[Box, ...]]) -> list[Pair]:
        seen = self.preprocess.to_input(self.store.pixels(row))
        inputs = seen.reshape(1, -1, *seen.shape[-2:])
        grids = self.predictor.maps(inputs, self.at)[0]  # (K, h, w)
        probabilities = self.predictor.predict_inputs(inputs)[0]
        masks = self.store.masks(row)
        pairs = []
        for finding, boxes in drawn.items():
            if not boxes and not masks[finding].any():
                continue
            column = self.predictor.card.findings.index(finding)
            heatmap = spread(grids[column], (self.side, self.side), self.preprocess)
            cases = self._cases(boxes) if boxes else [masks[finding]]
            pairs.append(
                Pair(
                    row=row,
                    finding=finding,
                    truth="boxes" if boxes else "masks",
                    boxes=boxes,
                    probability=float(probabilities[column]),
                    grid=grids[column],
                    hit=peak_in_box(heatmap, np.array(boxes)) if boxes else peak_in_mask(heatmap, cases[0]),
                    share=float(np.any(cases, axis=0).mean()),
                    ious=np.stack([iou_at_thresholds(heatmap, case) for case in cases]),
                )
            )
        return pairs

    def _cases(self, boxes: tuple[Box, ...]) -> list[Bool[np.ndarray, "H W"]]:
        if self.each_box:
            return [mask_of_truncated_box(np.array(box), self.side) for box in boxes]
        return [mask_of_boxes(np.array(boxes), (self.side, self.side))]


@dataclass(frozen=True, eq=False)
class Chosen:
    """The threshold of each scored pair."""

    places: Int64[np.ndarray, " pairs"]
    """In THRESHOLDS, or NONE."""
    on: str
    """What it was chosen on, in words."""


def chosen_thresholds(
    maps: Maps, pairs: list[Pair], patients: list[str], split: str, kinds: dict[str, Drawn], seed: int
) -> Chosen:
    """One threshold for all findings, chosen on images that are not scored; see choosing_films. Where too
    little was drawn on those, the scored images choose for each other, in folds of patients.

    patients: of each pair. split: that of the pairs. In the paper's protocol the scored cases choose.
    """
    if maps.each_box:
        ious = np.concatenate([pair.ious for pair in pairs])
        return Chosen(
            np.full(len(pairs), best_threshold(ious)), f"the very {len(ious)} cases that are reported"
        )
    for other in choosing_splits(split):
        films = choosing_images(maps.store, other, kinds, set(patients))
        choosing = maps.pairs(films) if sum(map(len, films.values())) >= ENOUGH_TO_CHOOSE else []
        if len(choosing) >= ENOUGH_TO_CHOOSE:
            best = best_threshold(np.concatenate([pair.ious for pair in choosing]))
            said = f"{len(choosing)} cases on {len({pair.row for pair in choosing})} {other} images"
            return Chosen(np.full(len(pairs), best), said)
    return chosen_in_folds(pairs, patients, split, seed)


def choosing_splits(split: str) -> list[str]:
    """Which splits may choose for a scored one, the better one first; test images choose for no other."""
    return [name for name in ("val", "train") if name != split]


def choosing_images(store: ImageStore, split: str, kinds: dict[str, Drawn], scored: set[str]) -> Regions:
    """What was drawn on the images of a split, but for those of patients who are scored."""
    rows = store.rows(split)
    others = ~store.manifest.table["patient"].iloc[rows].isin(scored).to_numpy()
    return images_with_regions(store, rows[others], kinds)


def chosen_in_folds(pairs: list[Pair], patients: list[str], split: str, seed: int) -> Chosen:
    """Each pair's threshold is the best on the pairs of the other folds of patients, of one case each."""
    order = in_drawn_order(np.array(patients), seed, purpose="threshold:")
    if len(order) < 2:
        return Chosen(np.full(len(pairs), NONE), "nothing: the boxes or masks are of one patient")
    fold_of = {patient: place % FOLDS for place, patient in enumerate(order)}
    fold = np.array([fold_of[patient] for patient in patients])
    ious = np.concatenate([pair.ious for pair in pairs])
    said = f"the other folds of the {split} patients, of {min(FOLDS, len(order))}"
    return Chosen(thresholds_of_folds(ious, fold), said)

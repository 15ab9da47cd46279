"""The heat maps of a classifier held against what was drawn on films, and what chooses the threshold.

No job: it has no command. Heavy rooms may be imported here; evax localize loads it when it begins to look.

Shape legend: S cases, H W pixels of a map.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from evax.data.labelled import in_drawn_order
from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore
from evax.deploy.predictor import Predictor
from evax.evaluation.localization import (
    best_threshold,
    iou_at_thresholds,
    mask_of_boxes,
    mask_of_truncated_box,
    peak_in_box,
    peak_in_mask,
    thresholds_of_folds,
)
from evax.explain.heatmap import At, spread
from evax.explain.localization import NONE, Pair
from evax.explain.regions import Box, Drawn, Regions, films_with_regions
from evax.runs.progress import progress_bar

FOLDS = 5
ENOUGH_TO_CHOOSE = 20  # pairs of film and finding: with fewer one film moves the threshold


@dataclass(frozen=True, eq=False)
class Maps:
    """How the maps of a store's films are made and judged."""

    predictor: Predictor
    store: ImageStore
    at: At
    preprocess: Preprocess
    side: int
    """Of the maps in pixels."""
    each_box: bool
    """Whether each box is a case; else all boxes of a finding of a film are one."""

    @classmethod
    def of(cls, predictor: Predictor, store: ImageStore, at: At, protocol: Literal["clean", "paper"]) -> Maps:
        """At the store's size; in the paper's protocol at that of the network's input, and of the whole film
        where a central crop is usual.
        """
        preprocess = predictor.card.preprocess
        if protocol == "clean":
            return cls(predictor, store, at, preprocess, store.size, each_box=False)
        whole = replace(preprocess, resize_size=None)
        return cls(predictor, store, at, whole, whole.input_size, each_box=True)

    def pairs(self, films: Regions) -> list[Pair]:
        """Every finding drawn on these films, one film after the other; only patch grids are kept.

        A mask that is empty at the store's size is left out.
        """
        pairs: list[Pair] = []
        with progress_bar("localising", len(films)) as advance:
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
    """One threshold for all findings, chosen on films that are not scored; see choosing_films. Where too
    little was drawn on those, the scored films choose for each other, in folds of patients.

    patients: of each pair. split: that of the pairs. In the paper's protocol the scored cases choose.
    """
    if maps.each_box:
        ious = np.concatenate([pair.ious for pair in pairs])
        return Chosen(
            np.full(len(pairs), best_threshold(ious)), f"the very {len(ious)} cases that are reported"
        )
    for other in choosing_splits(split):
        films = choosing_films(maps.store, other, kinds, set(patients))
        choosing = maps.pairs(films) if sum(map(len, films.values())) >= ENOUGH_TO_CHOOSE else []
        if len(choosing) >= ENOUGH_TO_CHOOSE:
            best = best_threshold(np.concatenate([pair.ious for pair in choosing]))
            said = f"{len(choosing)} cases on {len({pair.row for pair in choosing})} {other} films"
            return Chosen(np.full(len(pairs), best), said)
    return chosen_in_folds(pairs, patients, split, seed)


def choosing_splits(split: str) -> list[str]:
    """Which splits may choose for a scored one, the better one first; test films choose for no other."""
    return [name for name in ("val", "train") if name != split]


def choosing_films(store: ImageStore, split: str, kinds: dict[str, Drawn], scored: set[str]) -> Regions:
    """What was drawn on the films of a split, but for those of patients who are scored."""
    rows = store.rows(split)
    others = ~store.manifest.table["patient"].iloc[rows].isin(scored).to_numpy()
    return films_with_regions(store, rows[others], kinds)


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

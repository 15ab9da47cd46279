"""How well masks agree with drawn ones: Dice and Jaccard, of all pixels together and image by image.

Shape legend: S images, K findings, T thresholds. Counts are of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray

from evax.evaluation.classification import FEW
from evax.evaluation.intervals import (
    RESAMPLES,
    Interval,
    column_draws,
    macro_draws,
    macro_interval,
    mean_interval,
    percentile_interval,
)
from evax.evaluation.report import MeanReport, plain

# 0.01 to 0.99; the paper's 0.3 is one of them
THRESHOLDS = np.arange(1, 100) / 100


@dataclass(frozen=True, eq=False)
class Overlaps:
    """What the pixels of some images say at every threshold; all 0 where a finding is not known."""

    both: Int[np.ndarray, "S K T"]
    """Pixels that are inside and called inside."""
    called: Int[np.ndarray, "S K T"]
    """Pixels that are called inside."""
    inside: Int[np.ndarray, "S K"]
    """Pixels that are inside."""
    pixels: int
    """Of an image."""
    known: Bool[np.ndarray, "S K"]
    thresholds: Float[np.ndarray, "... T"] = field(default_factory=lambda: THRESHOLDS)
    """The thresholds: the same for all findings, or one of each, (K, 1)."""

    def at(self, thresholds: Float[np.ndarray, " K"]) -> Overlaps:
        """The same at one threshold per finding, T = 1.

        thresholds: some of THRESHOLDS; NaN for a finding that has none, which is then as if unknown.
        """
        has_one = ~np.isnan(thresholds)
        places = np.abs(THRESHOLDS - np.where(has_one, thresholds, 0)[:, None]).argmin(axis=1)  # (K,)
        both, called = (
            np.take_along_axis(counts, places[None, :, None], axis=2) * has_one[:, None]
            for counts in (self.both, self.called)
        )
        return Overlaps(
            both, called, self.inside * has_one, self.pixels, self.known & has_one, thresholds[:, None]
        )


def count_overlap(
    probability: Float[np.ndarray, "H W"], truth: UInt8[np.ndarray, "H W"]
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " T"], int]:
    """Pixels that are inside and called inside, those called inside, and those inside.

    probability: in [0, 1]; a pixel is called inside when it is at or above a threshold of THRESHOLDS. truth:
    1 inside, 0 outside, anything else unknown and left out.
    """
    level = np.searchsorted(THRESHOLDS, probability.ravel(), side="right")  # how many thresholds it reaches
    inside, outside = (
        np.bincount(level[truth.ravel() == value], minlength=len(THRESHOLDS) + 1) for value in (1, 0)
    )
    both, beside = (reached[::-1].cumsum()[::-1][1:] for reached in (inside, outside))
    return both, both + beside, int(inside.sum())


def dice(
    both: Float[np.ndarray, ...] | Int[np.ndarray, ...],
    called: Float[np.ndarray, ...] | Int[np.ndarray, ...],
    inside: Float[np.ndarray, ...] | Int[np.ndarray, ...],
) -> Float[np.ndarray, ...]:
    """2 |S and G| / (|S| + |G|), Eq. (10); NaN where both are empty."""
    whole = np.asarray(called + inside, dtype=np.float64)
    ratio: np.ndarray = np.divide(2.0 * both, whole, out=np.full(whole.shape, math.nan), where=whole > 0)
    return ratio


def jaccard_of(dice_value: float) -> float:
    """|S and G| / |S or G|, Eq. (11), of the same pixels: D / (2 - D)."""
    return dice_value / (2 - dice_value)


def global_dice(overlaps: Overlaps) -> Float[np.ndarray, "K T"]:
    """Dice of the pixels of all images together: as mmsegmentation (paper-facts.md 5.3)."""
    return dice(overlaps.both.sum(axis=0), overlaps.called.sum(axis=0), overlaps.inside.sum(axis=0)[:, None])


def film_dice(overlaps: Overlaps) -> Float[np.ndarray, "S K"]:
    """Dice of each image at the only threshold; NaN where nothing is inside or nothing is known.

    An image without the finding has no Dice worth a mean: one called pixel makes it 0. See false_area.
    """
    each = dice(overlaps.both[..., 0], overlaps.called[..., 0], overlaps.inside)
    return np.where(overlaps.inside > 0, each, math.nan)


def false_area(overlaps: Overlaps) -> Float[np.ndarray, "S K"]:
    """Share of an image called inside at the only threshold though nothing is; NaN for the other images."""
    empty = overlaps.known & (overlaps.inside == 0)
    return np.where(empty, overlaps.called[..., 0] / overlaps.pixels, math.nan)


def choose_mask_thresholds(overlaps: Overlaps) -> Float[np.ndarray, " K"]:
    """The threshold of each finding with the highest Dice of all pixels together; the middle one of several.

    NaN for a finding of which no image has a pixel.
    """
    scores = global_dice(overlaps)
    chosen = np.full(len(scores), math.nan)
    for k, row in enumerate(scores):
        if overlaps.inside[:, k].any():
            best = np.flatnonzero(row == np.nanmax(row))
            chosen[k] = THRESHOLDS[best[len(best) // 2]]
    return chosen


@dataclass(frozen=True)
class RegionReport:
    """One finding, over the images of which it is known; NaN where a number is undefined."""

    name: str
    films_with: int
    """Images that have a pixel of it."""
    films_without: int
    """Images that are known to have none."""
    patients_with: int
    patients_without: int
    """Patients may be on both sides."""
    few_patients: bool
    """With the finding, see `learned.FEW`."""
    threshold: float
    """Probability from which a pixel is called inside."""
    dice: float
    """Of the pixels of all known images together."""
    dice_interval: Interval
    jaccard: float
    """Of the same pixels."""
    jaccard_interval: Interval
    film_dice: float
    """Mean over the images that have the finding."""
    film_dice_interval: Interval
    film_dice_median: float
    untouched: float
    """Share of the images without the finding on which no pixel is called."""
    false_area: float
    """Mean share of the image that is called on images without the finding."""


@dataclass(frozen=True)
class SegmentationReport:
    """What `evaluate_segmenter` found: n images of so many patients, per finding and in the mean."""

    n: int
    patients: int
    findings: tuple[RegionReport, ...]
    mdice: MeanReport
    interval_method: str

    def to_json(self) -> dict[str, Any]:
        """As ClassificationReport.to_json."""
        report: dict[str, Any] = plain(self)
        return report


def evaluate_segmenter(
    overlaps: Overlaps,
    findings: Sequence[str],
    patients: Sequence[str] | NDArray[Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SegmentationReport:
    """Every number of the masks of one set of images, with intervals across patients.

    overlaps: at one threshold per finding, see Overlaps.at. findings: K names. patients: (S,), never "".
    """
    people = np.asarray(patients, dtype=np.str_)
    each, beside = film_dice(overlaps), false_area(overlaps)
    scores = global_dice(overlaps)[:, 0]
    draws = dice_draws(overlaps, people, resamples, seed)  # (K, R)
    n_patients = len(np.unique(people))
    regions = []
    for k, name in enumerate(findings):
        known, has = overlaps.known[:, k], overlaps.inside[:, k] > 0
        patients_with = len(np.unique(people[has]))
        of_finding = percentile_interval(draws[k], len(np.unique(people[known])))
        regions.append(
            RegionReport(
                name=name,
                films_with=int(has.sum()),
                films_without=int((known & ~has).sum()),
                patients_with=patients_with,
                patients_without=len(np.unique(people[known & ~has])),
                few_patients=patients_with < FEW,
                threshold=float(overlaps.thresholds[k, 0]),
                dice=float(scores[k]),
                dice_interval=of_finding,
                jaccard=jaccard_of(float(scores[k])),
                jaccard_interval=replace(
                    of_finding, low=jaccard_of(of_finding.low), high=jaccard_of(of_finding.high)
                ),
                film_dice=mean_of(each[:, k]),
                film_dice_interval=interval_of(each[:, k], people, resamples, seed),
                film_dice_median=median_of(each[:, k]),
                untouched=mean_of(np.where(np.isnan(beside[:, k]), math.nan, beside[:, k] == 0)),
                false_area=mean_of(beside[:, k]),
            )
        )
    mean = macro_interval(draws, n_patients)
    value = float(macro_draws(scores[:, None])[0])
    return SegmentationReport(
        n=len(people),
        patients=n_patients,
        findings=tuple(regions),
        mdice=MeanReport(value, mean, int((~np.isnan(scores)).sum()), len(scores)),
        interval_method=mean.method,
    )


def dice_draws(
    overlaps: Overlaps, patients: NDArray[Any], resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "K R"]:
    """Dice of all pixels together in every resample of the patients, at the only threshold."""
    unknown = np.where(overlaps.known, 0.0, math.nan)
    both = column_draws(overlaps.both[..., 0] + unknown, patients, resamples, seed)
    whole = column_draws(overlaps.called[..., 0] + overlaps.inside + unknown, patients, resamples, seed)
    # means over the same images: their number cancels out
    ratio: np.ndarray = np.divide(2 * both, whole, out=np.full(whole.shape, math.nan), where=whole > 0)
    return ratio


def interval_of(
    values: Float[np.ndarray, " S"], patients: NDArray[Any], resamples: int, seed: int
) -> Interval:
    """Of the mean of the values that are no NaN, over the patients who have one."""
    known = ~np.isnan(values)
    if not known.any():
        return percentile_interval(np.full(resamples, math.nan), 0)
    return mean_interval(values[known], patients[known], resamples, seed)


def mean_of(values: Float[np.ndarray, " S"]) -> float:
    """Of the values that are no NaN; NaN without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def median_of(values: Float[np.ndarray, " S"]) -> float:
    """Of the values that are no NaN; NaN without any."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else math.nan

"""How well a heat map finds what was drawn on a film: the pointing game, and overlap above a threshold.

A box is x, y, width, height in fractions of the image, x to the right and y downwards.

Shape legend: H W pixels of a map, S cases (a finding of an image, or one box of it), T thresholds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evax.errors import DataError
from evax.evaluation.classification import Flags, Floats, Integers, Reals
from evax.evaluation.intervals import RESAMPLES, column_draws, percentile_interval
from evax.evaluation.report import plain

THRESHOLDS = np.arange(1, 61) / 100
"""0.01 to 0.60 by 0.01, of the released code."""
SCORES = ("ap25", "ap50", "map", "miou")


def peak_in_box(heatmap: Reals, boxes: Reals) -> bool:
    """Whether the highest point of the map lies in one of the boxes (the pointing game, without tolerance).

    heatmap: (H, W), any real numbers. boxes: (n, 4) or (4,), fractions; the boxes of one finding on one image.
    Of several equal maxima their mean position counts: the first one would lean to the upper left corner, and
    any of them would reward wide plateaus. A constant map points nowhere and is a miss.
    Source: Zhang et al. 2018 (excitation backprop), who allow 15 pixels around the box.
    """
    corners = _check_boxes(boxes)
    if (peak := _peak(heatmap)) is None:
        return False
    x, y = peak
    left, top, box_width, box_height = corners.T
    return bool(np.any((left <= x) & (x < left + box_width) & (top <= y) & (y < top + box_height)))


def peak_in_mask(heatmap: Reals, mask: Flags) -> bool:
    """The same for a mask, (H, W) as the map."""
    _check_mask(heatmap, mask)
    if (peak := _peak(heatmap)) is None:
        return False
    x, y = peak
    height, width = mask.shape
    return bool(mask[int(y * height), int(x * width)])


def mask_of_boxes(boxes: Reals, shape: tuple[int, ...]) -> Flags:
    """The union of boxes as a mask: the pixels whose centre lies in one of them.

    boxes: (n, 4) or (4,), fractions. shape: (H, W). Returns (H, W).
    """
    left, top, width, height = _check_boxes(boxes).T[:, :, None]  # (n, 1) each
    y, x = ((np.arange(side) + 0.5) / side for side in shape)
    rows, columns = (top <= y) & (y < top + height), (left <= x) & (x < left + width)  # (n, H), (n, W)
    union: Flags = (rows[:, :, None] & columns[:, None, :]).any(axis=0)
    return union


def mask_of_truncated_box(box: Reals, side: int) -> Flags:
    """One box as the released code fills it: x, y, width and height in pixels, each cut to a whole number.

    box: (4,), fractions. side: of the map in pixels. Returns (side, side). Source: facts section 6. It moves
    the right and lower edge by up to two pixels; a box thinner than one pixel is empty.
    """
    left, top, width, height = (_check_boxes(box)[0] * side).astype(np.int64)
    mask = np.zeros((side, side), dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def iou_at_thresholds(heatmap: Reals, truth: Flags, thresholds: Floats = THRESHOLDS) -> Floats:
    """Overlap of (map > threshold) with the truth, |both| / |either|, for every threshold.

    heatmap: (H, W), in [0, 1]. truth: (H, W). thresholds: (T,), rising. Returns (T,), 0 where both are empty.
    Each pixel is sorted in once, whatever the number of thresholds. Source: facts section 6.
    """
    _check_mask(heatmap, truth)
    below = np.searchsorted(thresholds, heatmap.astype(np.float64))  # thresholds that each pixel exceeds

    def above(pixels: Integers) -> Integers:
        counts = np.bincount(pixels.ravel(), minlength=len(thresholds) + 1)
        return counts[::-1].cumsum()[::-1][1:]  # (T,): pixels above each threshold

    both, marked = above(below[truth]), above(below)
    either = marked + int(truth.sum()) - both
    return np.divide(both, either, out=np.zeros(len(thresholds)), where=either > 0)


def case_scores(ious: Reals) -> Floats:
    """What each case adds to the means SCORES: IoU above 0.25, above 0.5, half of both, and the IoU.

    ious: (...), NaN stays NaN. Returns (..., 4). The means of the first two are the paper's AP25 and AP50:
    shares of cases found, accuracies without any ranking, not average precisions. Source: facts section 6.
    """
    known = ~np.isnan(ious)
    at_25, at_50 = (np.where(known, ious > least, math.nan) for least in (0.25, 0.5))
    return np.stack([at_25, at_50, (at_25 + at_50) / 2, ious], axis=-1)


def best_threshold(ious: Reals) -> int:
    """Place of the threshold with the highest mAP; of equal ones that with the highest mIoU, then the lowest.

    ious: (S, T), of the cases that choose, at least one.
    """
    means = case_scores(ious).mean(axis=0)  # (T, 4)
    return int(np.lexsort((np.arange(len(means)), -means[:, 3], -means[:, 2]))[0])


def thresholds_of_folds(ious: Reals, fold: Integers) -> Integers:
    """For each case the place of the threshold that is best on the cases of all other folds.

    ious: (S, T). fold: (S,), of at least two values.
    """
    chosen = {int(number): best_threshold(ious[fold != number]) for number in np.unique(fold)}
    return np.array([chosen[int(number)] for number in fold], dtype=np.int64)


def localization_scores(
    ious: Reals, patients: list[str], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """The means SCORES over cases with patient-clustered intervals of the thresholds as they are, for JSON.

    ious: (S,), one per case at its threshold; NaN, so that the scores are None, where none could be chosen.
    patients: (S,), never "".
    """
    values, people = case_scores(ious), len(set(patients))
    content: dict[str, Any] = {"cases": len(ious), "patients": people}
    draws = column_draws(values, patients, resamples, seed)  # (4, R)
    for column, name in enumerate(SCORES):
        content[name] = plain(float(values[:, column].mean()))
        content[f"{name}_interval"] = plain(percentile_interval(draws[column], people))
    return content


def _peak(heatmap: Reals) -> tuple[float, float] | None:
    """Place (x, y) of the highest point in fractions, the mean of equal ones; None for a constant map."""
    _check_heatmap(heatmap)
    peak = heatmap.max()
    if peak == heatmap.min():
        return None
    rows, columns = np.nonzero(heatmap == peak)
    height, width = heatmap.shape
    return float((columns.mean() + 0.5) / width), float((rows.mean() + 0.5) / height)  # centre of the pixel


def _check_heatmap(heatmap: Reals) -> None:
    if heatmap.ndim != 2 or heatmap.size == 0 or not np.isfinite(heatmap).all():
        raise DataError(
            f"A heat map is (height, width) of finite numbers; this one is {heatmap.shape} "
            f"with {int((~np.isfinite(heatmap)).sum())} NaN or infinite values."
        )


def _check_mask(heatmap: Reals, mask: Flags) -> None:
    _check_heatmap(heatmap)
    if mask.shape != heatmap.shape:
        raise DataError(
            f"The mask has {mask.shape} pixels and the map {heatmap.shape}: bring the map to the mask's size."
        )


def _check_boxes(boxes: Reals) -> Floats:
    """The boxes as (n, 4) float64."""
    table = np.atleast_2d(np.asarray(boxes, dtype=np.float64))
    if table.ndim != 2 or table.shape[1] != 4 or len(table) == 0:
        raise DataError(f"Boxes have shape {np.shape(boxes)}; expected (n, 4): x, y, width, height.")
    corner, size = table[:, :2], table[:, 2:]
    wrong = ~((corner >= 0) & (corner < 1) & (size > 0) & (size <= 1)).all(axis=1)
    if wrong.any():
        raise DataError(
            f"Box {table[wrong][0].tolist()} is not in fractions of the image (x, y in [0, 1), width and "
            "height in (0, 1]); divide pixels by the size of the image they were drawn on."
        )
    return table

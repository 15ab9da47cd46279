"""Whether a heat map points at the box a radiologist drew: the pointing game.

A box is x, y, width, height in fractions of the image, x to the right and y downwards.
"""

from __future__ import annotations

import numpy as np

from evax.errors import DataError
from evax.evaluation.classification import Floats, Reals


def peak_in_box(heatmap: Reals, boxes: Reals) -> bool:
    """Whether the highest point of the map lies in one of the boxes (the pointing game, without tolerance).

    heatmap: (H, W), any real numbers. boxes: (n, 4) or (4,), fractions; the boxes of one finding on one film.
    Of several equal maxima their mean position counts: the first one would lean to the upper left corner, and
    any of them would reward wide plateaus. A constant map points nowhere and is a miss.
    Source: Zhang et al. 2018 (excitation backprop), who allow 15 pixels around the box.
    """
    _check_heatmap(heatmap)
    corners = _check_boxes(boxes)
    peak = heatmap.max()
    if peak == heatmap.min():
        return False
    rows, columns = np.nonzero(heatmap == peak)
    height, width = heatmap.shape
    x, y = (columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height  # centre of the pixel
    left, top, box_width, box_height = corners.T
    return bool(np.any((left <= x) & (x < left + box_width) & (top <= y) & (y < top + box_height)))


def _check_heatmap(heatmap: Reals) -> None:
    if heatmap.ndim != 2 or heatmap.size == 0 or not np.isfinite(heatmap).all():
        raise DataError(
            f"A heat map is (height, width) of finite numbers; this one is {heatmap.shape} "
            f"with {int((~np.isfinite(heatmap)).sum())} NaN or infinite values."
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
            "height in (0, 1]); divide pixels by the size of the film they were drawn on."
        )
    return table

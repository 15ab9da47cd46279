from __future__ import annotations

import numpy as np
import pytest

from evax.errors import DataError
from evax.evaluation.localization import peak_in_box

QUARTER = np.array([0.5, 0.0, 0.5, 0.5])  # upper right


def spot(row: int, column: int, shape=(8, 8)) -> np.ndarray:
    heatmap = np.zeros(shape, dtype=np.float32)
    heatmap[row, column] = 1
    return heatmap


def test_a_peak_inside_the_box_hits_and_outside_misses():
    assert peak_in_box(spot(1, 6), QUARTER)
    assert not peak_in_box(spot(6, 1), QUARTER)
    assert not peak_in_box(spot(1, 1), QUARTER)  # x is the column


def test_one_of_several_boxes_is_enough():
    assert peak_in_box(spot(7, 0), np.array([QUARTER, [0.0, 0.8, 0.2, 0.2]]))


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_constant_map_points_nowhere(value):
    assert not peak_in_box(np.full((4, 4), value), np.array([0.0, 0.0, 1.0, 1.0]))


def test_equal_maxima_count_by_their_mean_position_without_a_lean_to_a_corner():
    plateau = spot(0, 0) + spot(0, 7) + spot(7, 0) + spot(7, 7)
    assert peak_in_box(plateau, np.array([0.4, 0.4, 0.2, 0.2]))
    assert not peak_in_box(plateau, np.array([0.0, 0.0, 0.3, 0.3]))


def test_enlarging_a_map_without_smoothing_moves_no_peak():
    box = np.array([0.55, 0.2, 0.1, 0.1])
    for row, column in np.ndindex(7, 7):
        small = spot(row, column, (7, 7))
        assert peak_in_box(np.kron(small, np.ones((16, 16))), box) == peak_in_box(small, box)


def test_a_box_in_pixels_is_refused():
    with pytest.raises(
        DataError, match=r"\[100\.0, 200\.0, 50\.0, 50\.0\] is not in fractions.*divide pixels"
    ):
        peak_in_box(np.zeros((4, 4)), np.array([100.0, 200, 50, 50]))


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), np.zeros((2, 5))])
def test_boxes_of_another_shape_are_refused(boxes):
    with pytest.raises(DataError, match=r"expected \(n, 4\): x, y, width, height"):
        peak_in_box(spot(1, 1), boxes)


def test_a_map_with_nan_is_refused():
    with pytest.raises(DataError, match=r"\(8, 8\) with 1 NaN"):
        peak_in_box(np.where(spot(1, 1) > 0, np.nan, 0.0), QUARTER)

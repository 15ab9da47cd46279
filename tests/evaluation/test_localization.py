from __future__ import annotations

import numpy as np
import pytest

from evax.data.preprocess import Preprocess
from evax.errors import DataError
from evax.evaluation.intervals import mean_interval
from evax.evaluation.localization import (
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
from evax.explain.heatmap import spread

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


def boxes_and_map(seed: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes inside the image and a map in [0, 1] with many values on the grid of thresholds itself."""
    rng = np.random.default_rng(seed)
    corners = rng.random((3, 2)) * 0.6
    heatmap = rng.random((side, side)).astype(np.float32)
    heatmap[rng.random((side, side)) < 0.3] = np.float32(0.25)
    return np.concatenate([corners, 0.05 + rng.random((3, 2)) * 0.3], axis=1), heatmap


@pytest.mark.parametrize("seed", range(4))
def test_overlap_at_every_threshold_is_what_counting_pixels_one_by_one_gives(seed):
    boxes, heatmap = boxes_and_map(seed, 17)
    truth = mask_of_boxes(boxes, heatmap.shape)
    expected = []
    for threshold in THRESHOLDS:
        both = either = 0
        for row, column in np.ndindex(heatmap.shape):
            x, y = (column + 0.5) / 17, (row + 0.5) / 17
            inside = any(a <= x < a + w and b <= y < b + h for a, b, w, h in boxes)
            marked = float(heatmap[row, column]) > threshold
            both += inside and marked
            either += inside or marked
        expected.append(both / either if either else 0.0)
    assert iou_at_thresholds(heatmap, truth) == pytest.approx(np.array(expected), abs=1e-12)


def test_a_pixel_exactly_at_the_threshold_is_not_marked():
    heatmap = np.array([[0.25, 0.5]])
    ious = iou_at_thresholds(heatmap, np.array([[True, True]]), np.array([0.2, 0.25, 0.5]))
    assert ious.tolist() == [1.0, 0.5, 0.0]


def test_nothing_marked_and_nothing_true_is_no_overlap():
    assert iou_at_thresholds(np.zeros((4, 4)), np.zeros((4, 4), bool)).tolist() == [0.0] * 60


def test_the_thresholds_are_those_of_the_released_code():
    assert len(THRESHOLDS) == 60
    assert (THRESHOLDS[0], THRESHOLDS[-1]) == (0.01, 0.6)
    assert np.allclose(np.diff(THRESHOLDS), 0.01)


def test_a_truncated_box_is_the_released_code_s_rectangle():
    x, y, w, h = 337.898305084746, 509.559322033898, 417.627118644068, 403.525423728814  # an image's own
    drawn = np.zeros((224, 224), bool)
    for row in range(224):
        for column in range(224):
            left, top, width, height = (int(side / 1024 * 224) for side in (x, y, w, h))
            drawn[row, column] = left <= column < left + width and top <= row < top + height
    assert (mask_of_truncated_box(np.array([x, y, w, h]) / 1024, 224) == drawn).all()
    assert drawn.sum() == 91 * 88


def test_the_paper_s_scores_are_those_of_a_literal_reading_of_the_released_code():
    """The map as the grad-cam library makes it, the box in pixels, one threshold after the other."""
    cv2 = pytest.importorskip("cv2")
    image = pytest.importorskip("pytorch_grad_cam.utils.image")
    rng = np.random.default_rng(3)
    boxes_px = np.array([[100.5, 200.9, 300.3, 250.7], [600.2, 420.4, 151.9, 333.3], [30, 40, 700, 800.0]])
    grids = rng.random((3, 14, 14)).astype(np.float32) ** 3 * 1e-3
    rows = []
    for threshold in np.arange(0.01, 0.605, 0.01):
        ious = []
        for (x, y, w, h), grid in zip(boxes_px, grids, strict=True):
            cam = image.scale_cam_image(np.maximum(grid[None], 0), (224, 224))[0]
            cam = image.scale_cam_image(cam[None])[0]
            box = np.zeros((224, 224), np.uint8)
            left, top, width, height = (int(side / 1024 * 224) for side in (x, y, w, h))
            box[top : top + height, left : left + width] = 1
            mask = (cam > threshold).astype(np.uint8)
            ious.append(cv2.bitwise_and(mask, box).sum() / cv2.bitwise_or(mask, box).sum())
        at_25, at_50 = (np.mean(np.array(ious) > least) for least in (0.25, 0.5))
        rows.append([at_25, at_50, (at_25 + at_50) / 2, np.mean(ious)])
    maps = [spread(grid, (224, 224), Preprocess(store_size=256, input_size=224)) for grid in grids]
    truths = [mask_of_truncated_box(box / 1024, 224) for box in boxes_px]
    ours = case_scores(
        np.stack([iou_at_thresholds(m, truth) for m, truth in zip(maps, truths, strict=True)])
    ).mean(axis=0)
    # a pixel next to a threshold may fall on its other side: 1 of some 10 000
    assert ours == pytest.approx(np.array(rows), abs=5e-4)
    best = max(range(60), key=lambda place: rows[place][2])
    assert ours[:, 2].max() == pytest.approx(rows[best][2])


def test_ap_is_the_share_of_cases_above_an_overlap_and_not_at_it():
    scores = case_scores(np.array([0.25, 0.26, 0.5, 0.51]))
    assert scores.mean(axis=0) == pytest.approx([0.75, 0.25, 0.5, 0.38])


def test_the_best_threshold_maximises_map_then_miou_then_is_the_lowest():
    assert best_threshold(np.array([[0.2, 0.3, 0.6, 0.1]])) == 2
    assert best_threshold(np.array([[0.2, 0.3, 0.4, 0.4]])) == 2
    assert best_threshold(np.zeros((5, 7))) == 0


def test_no_case_takes_part_in_choosing_its_own_threshold():
    rng = np.random.default_rng(0)
    ious, fold = rng.random((30, 9)), np.arange(30) % 3
    chosen = thresholds_of_folds(ious, fold)
    for case in range(30):
        changed = ious.copy()
        changed[fold == fold[case]] = rng.random((10, 9))
        assert thresholds_of_folds(changed, fold)[case] == chosen[case]
        assert chosen[case] == best_threshold(ious[fold != fold[case]])


def test_intervals_are_those_of_the_mean_of_each_case():
    rng = np.random.default_rng(1)
    ious, patients = rng.random(40), [f"p{n // 3}" for n in range(40)]
    content = localization_scores(ious, patients, resamples=200, seed=4)
    assert (content["cases"], content["patients"]) == (40, 14)
    for name, values in (("ap25", ious > 0.25), ("ap50", ious > 0.5), ("miou", ious)):
        interval = mean_interval(values, patients, 200, 4)
        assert content[name] == pytest.approx(values.mean())
        assert content[f"{name}_interval"] == pytest.approx([interval.low, interval.high])
    assert content["map"] == pytest.approx((content["ap25"] + content["ap50"]) / 2)


def test_cases_without_a_threshold_are_counted_but_have_no_scores():
    content = localization_scores(np.full(2, np.nan), ["a", "b"], resamples=20)
    assert (content["cases"], content["map"], content["map_interval"]) == (2, None, [None, None])


def test_a_peak_in_a_mask_is_judged_by_its_pixel():
    mask = np.zeros((8, 8), bool)
    mask[1, 6] = True
    assert peak_in_mask(spot(1, 6), mask)
    assert not peak_in_mask(spot(6, 1), mask)
    assert not peak_in_mask(np.ones((8, 8)), np.ones((8, 8), bool))
    for row, column in np.ndindex(8, 8):
        box = np.array([0.5, 0.25, 0.375, 0.5])
        heatmap = spot(row, column)
        assert peak_in_mask(heatmap, mask_of_boxes(box, (8, 8))) == peak_in_box(heatmap, box)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(DataError, match=r"mask has \(4, 4\) pixels and the map \(8, 8\)"):
        iou_at_thresholds(spot(1, 1), np.ones((4, 4), bool))

"""Figures are small, safe to put on one page, and drawn from plain numbers."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from evax.evaluation.calibration import reliability_curve
from evax.evaluation.classification import roc_curve
from evax.explain.overlay import BOX_COLOUR
from evax.pages import figures
from evax.pages.drawing import VERMILLION, image_picture, with_prefixed_ids


def texts(svg: str) -> list[str]:
    return [
        element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")
    ]


def roc_svg() -> str:
    rng = np.random.default_rng(0)
    positives = rng.random(60) < 0.4
    false_positive_rate, true_positive_rate, _ = roc_curve(rng.random(60) + positives, positives)
    return figures.roc_panel(false_positive_rate, true_positive_rate, label="ROC", point=(0.1, 0.8))


def reliability_svg() -> str:
    rng = np.random.default_rng(1)
    probabilities = rng.random(80)
    return figures.reliability_panel(
        reliability_curve(probabilities, rng.random(80) < probabilities), label="calibration"
    )


def curve_svg(points: int = 40) -> str:
    x = np.arange(points) * 128.0
    return figures.curve_panel(x, np.sqrt(x), label="cosine", x_label="image views", y_label="cosine")


def forest_svg(name: str = "Effusion") -> str:
    rows = [(name, 0.81234, (0.75, 0.87)), ("Hernia", 0.6, None)]
    return figures.interval_plot(rows, label="AUC", x_label="AUC", limits=(0.5, 1), reference=0.5)


def ages_svg() -> str:
    return figures.age_histogram(np.array([31.0, 47.0, np.nan, 88.0]), label="ages")


def test_ticks_that_lie_close_together_do_not_read_alike():
    y = np.array([0.8380, 0.8382, 0.8384, 0.8387])
    svg = figures.curve_panel(np.arange(4.0), y, label="mAUC", x_label="step", y_label="mAUC")
    shown = [text for text in texts(svg) if text.startswith("0.8")]
    assert len(set(shown)) == len(shown) > 2
    assert all(0.8375 < float(text) < 0.839 for text in shown)


PICTURES = [roc_svg, reliability_svg, curve_svg, forest_svg, ages_svg]


@pytest.mark.parametrize("draw", PICTURES)
def test_a_figure_is_small_well_formed_and_asks_for_nothing(draw):
    svg = draw()
    ElementTree.fromstring(svg)
    assert len(svg) < 30_000
    assert 'viewBox="0 0 ' in svg
    assert 'role="img"' in svg
    assert "<metadata" not in svg
    assert "<style" not in svg  # it would govern the whole page
    assert "DejaVu" not in svg  # the page's font is used
    assert not re.search(r'(?:href|src)="(?!#)', svg)


@pytest.mark.parametrize("draw", PICTURES)
def test_the_same_figure_is_drawn_twice_without_a_difference(draw):
    assert draw() == draw()


def test_drawing_leaves_matplotlibs_settings_as_they_were():
    before = dict(matplotlib.rcParams)
    forest_svg()
    assert dict(matplotlib.rcParams) == before


def test_two_copies_of_a_figure_on_one_page_share_no_id_and_keep_their_own_parts():
    both = [with_prefixed_ids(roc_svg(), prefix) for prefix in ("a-", "b-")]
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in both]
    assert ids[0]
    assert not ids[0] & ids[1]
    for own, svg in zip(ids, both, strict=True):
        assert set(re.findall(r'[("]#([^")]+)', svg)) == own  # every reference has its target in this figure


def test_text_that_looks_like_an_id_is_not_rewritten():
    assert ' id="x" (#x)' in texts(with_prefixed_ids(forest_svg(' id="x" (#x)'), "p-"))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>"[:25], "a & b", "cost $x$ and $y$", "Größe_ä"])
def test_a_name_is_shown_as_it_is_written(name):
    assert name in texts(forest_svg(name))


def test_a_long_name_is_shortened_instead_of_running_into_the_numbers():
    shown = next(
        text for text in texts(forest_svg("a very long name of a finding, indeed")) if "very" in text
    )
    assert shown.endswith("…")
    assert len(shown) == 30


def test_a_value_stands_beside_its_interval_and_a_missing_one_is_not_defined():
    assert "0.812 [0.750, 0.870]" in texts(forest_svg())
    assert "0.600 [not defined]" in texts(forest_svg())


def test_an_interval_below_the_axis_widens_it():
    rows = [("Mass", 0.4, (0.2, 0.6))]
    shown = texts(figures.interval_plot(rows, label="AUC", x_label="AUC", limits=(0.5, 1)))
    assert "0.30" in shown
    assert "0.30" not in texts(forest_svg())


def test_a_long_training_run_does_not_make_a_large_picture():
    assert len(curve_svg(100_000)) < len(curve_svg(figures.POINTS)) * 1.2


def test_few_points_are_marked_and_the_best_one_is_ringed():
    x, y = np.array([50.0, 100.0, 150.0]), np.array([0.6, 0.7, np.nan])
    plain = figures.curve_panel(x, y, label="mAUC", x_label="step", y_label="mAUC")
    ringed = figures.curve_panel(x, y, label="mAUC", x_label="step", y_label="mAUC", best=100)
    assert "<use" in plain
    assert ringed.count("<use") == plain.count("<use") + 1
    assert VERMILLION.lower() in ringed.lower()


def test_an_image_picture_has_its_box_where_the_finding_is():
    film = np.full((64, 64), 60, dtype=np.uint8)
    picture = np.asarray(Image.open(io.BytesIO(image_picture(film, [(0.25, 0.5, 0.5, 0.25)]))), dtype=int)
    is_box = np.abs(picture - np.array(BOX_COLOUR)).sum(axis=2) < 90
    rows, columns = np.nonzero(is_box)
    side = len(picture)
    assert (columns.min() / side, rows.min() / side) == pytest.approx((0.25, 0.5), abs=0.02)
    assert (columns.max() / side, rows.max() / side) == pytest.approx((0.75, 0.75), abs=0.02)


def test_scores_against_a_threshold_are_named_and_each_chosen_threshold_is_dashed():
    def lines(chosen):
        x = np.linspace(0.01, 0.6, 60)
        svg = figures.threshold_panel(
            x, {"mAP": x, "mIoU": x / 2}, label="scores", x_label="threshold", y_label="score", chosen=chosen
        )
        assert {"mAP", "mIoU", "threshold"} <= set(texts(svg))
        return svg.count("stroke-dasharray")

    assert lines([0.2, 0.3]) - lines([]) == 2

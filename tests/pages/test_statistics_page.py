"""Figures of evax describe show every store, also the dull ones."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from evax.pages.figures import score_histogram
from evax.pages.statistics import boxes, together


def drawn(figure):
    """The picture as RGB."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=72, facecolor="white")
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def test_the_box_of_a_store_whose_values_are_all_the_same_is_seen():
    picture = drawn(boxes(["many", "one"], [np.arange(40, 80.0), np.full(30, 60.0)], "age in years"))
    lower = picture[picture.shape[0] // 2 :]
    assert ((lower[..., 2] > lower[..., 0] + 100).sum(axis=0) > 10).any(), "a blue bar"


@pytest.mark.parametrize("findings", [2, 5])
def test_the_axis_of_findings_together_fits_into_its_figure(findings):
    names = [f"Finding {number}" for number in range(findings)]
    figure = together({"findings": names, "together": np.full((findings, findings), 3).tolist()})
    drawn(figure)
    label = figure.axes[0].xaxis.label.get_window_extent()
    assert label.x0 >= 0
    assert label.x1 <= figure.bbox.width


@pytest.mark.parametrize("pairs", [3, 300, 30_000])
def test_counts_of_pairs_are_read_as_plain_numbers(pairs):
    scores = np.random.default_rng(0).random(pairs).astype(np.float64)
    svg = score_histogram(scores, label="s", x_label="correlation", y_label="pairs", threshold=0.85)
    assert ">1</text>" in svg
    assert "mathdefault" not in svg
    assert "tspan" not in svg

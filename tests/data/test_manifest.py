"""The rules of the one table: what it refuses, and in which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evax.data.manifest import BOX_COLUMNS, Manifest
from evax.errors import DataError


def table(films=3, **columns):
    texts = {name: [""] * films for name in ("study", "view", "sex", "split")}
    own = {"image": [f"{i}.png" for i in range(films)], "patient": [f"p{i}" for i in range(films)]}
    return pd.DataFrame(own | texts | {"age": [np.nan] * films} | columns)


def manifest(table, findings=(), *, exclusive=False, boxes=()):
    options = {"boxes": pd.DataFrame(boxes, columns=list(BOX_COLUMNS))} if boxes else {}
    return Manifest(
        table=table, findings=findings, exclusive=exclusive, source="mine", root=Path("mine"), **options
    )


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, np.nan]), min_size=1, max_size=20))
def test_labels_are_given_back_as_the_source_wrote_them(values):
    ours = manifest(table(len(values), A=values, B=[1.0] * len(values)), ("B", "A"))
    np.testing.assert_array_equal(ours.labels()[:, 1], np.float32(values))
    assert (ours.labels()[:, 0] == 1).all()


def test_a_table_without_findings_has_labels_of_width_0():
    assert manifest(table(4)).labels().shape == (4, 0)


def test_an_exclusive_table_with_one_finding_per_image_is_accepted():
    ours = manifest(table(2, A=[1.0, 0.0], B=[0.0, 1.0]), ("A", "B"), exclusive=True)
    assert ours.labels().sum() == 2


@pytest.mark.parametrize(
    ("columns", "findings", "message"),
    [
        ({"A": [2.0, 0, 0]}, ("A",), r"mine: A of 0.png is 2; labels are 1 \(present\), 0 \(absent\)"),
        ({"A": [0.0, 0, 0.5]}, ("A",), "mine: A of 2.png is 0.5"),
        ({}, ("A",), "mine: the table lacks the columns A"),
        ({"image": ["a", "b", "a"]}, (), "mine: the image a is listed twice"),
        ({"split": ["train", "valid", ""]}, (), "the split 'valid' is unknown; known: train, val, test or"),
        ({"A": [0.0, 0, 1]}, ("A", "A"), "the finding A has two columns, maybe in two spellings: keep one"),
        ({"films": 0}, (), "mine: the table has no images"),
        *(({name: 1.0}, (name,), f"a finding is called {name}, as a column of every store: rename it")
          for name in ("patient", "issues", "pixels", "masks")),
    ],
)  # fmt: skip
def test_a_table_that_breaks_a_rule_is_refused_with_image_and_value(columns, findings, message):
    with pytest.raises(DataError, match=message):
        manifest(table(**columns), findings)


@pytest.mark.parametrize(("second", "count"), [([0.0, 1.0, 1.0], 2), ([0.0, 0.0, 1.0], 0)])
def test_an_exclusive_table_with_none_or_two_findings_on_an_image_is_refused(second, count):
    message = f"mine: 1.png has {count} findings; a single-label table has exactly one per image"
    columns = {"A": [1.0, float(count == 2), 0.0], "B": second}
    with pytest.raises(DataError, match=message):
        manifest(table(**columns), ("A", "B"), exclusive=True)


def test_boxes_that_touch_the_border_are_accepted():
    ours = manifest(table(), boxes=[("0.png", "A", 0.0, 0.0, 1.0, 1.0), ("0.png", "A", 0.5, 0.75, 0.5, 0.25)])
    assert len(ours.boxes) == 2


def test_a_box_that_leaves_its_image_by_a_rounding_error_is_cut_and_others_stay_as_they_are():
    boxes = [("0.png", "A", -0.0004, 0.2, 0.5, 0.8003), ("1.png", "A", 0.1, 0.2, 0.7, 0.8)]
    cut = manifest(table(), boxes=boxes).boxes[list(BOX_COLUMNS[2:])].to_numpy()
    np.testing.assert_allclose(cut[0], [0, 0.2, 0.4996, 0.8])
    assert cut[1].tolist() == [0.1, 0.2, 0.7, 0.8]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        *(
            ((*box, 0.5, 0.5), "a box of 1.png leaves the image")
            for box in ((-0.002, 0), (-0.1, 0), (0, 0.6))
        ),
        ((120.0, 30.0, 200.0, 90.0), "x, y, width, height in fractions of the image"),
        ((0.2, 0.2, 0.0, 0.5), "a box of 1.png .* is empty"),
        ((0.9, 0.2, -0.5, 0.5), "a box of 1.png .* is empty"),
        ((np.nan, 0.2, 0.5, 0.5), "a box of 1.png"),
    ],
)
def test_a_box_outside_its_image_or_in_pixels_or_empty_is_refused(box, message):
    with pytest.raises(DataError, match=message):
        manifest(table(), boxes=[("0.png", "A", 0.1, 0.1, 0.5, 0.5), ("1.png", "A", *box)])


def test_a_box_of_an_image_that_is_not_in_the_table_is_refused():
    with pytest.raises(DataError, match="there is a box for 7.png, which is not in the table"):
        manifest(table(), boxes=[("7.png", "A", 0.1, 0.1, 0.5, 0.5)])


def test_boxes_without_their_columns_are_refused():
    with pytest.raises(DataError, match="mine: the boxes lack the columns width, height"):
        Manifest(
            table=table(), findings=(), exclusive=False, source="mine", root=Path("mine"),
            boxes=pd.DataFrame({name: [0] for name in BOX_COLUMNS[:4]}),
        )  # fmt: skip

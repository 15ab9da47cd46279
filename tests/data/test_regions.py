"""Boxes and masks: which images have some, and that they were drawn on these very images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.releases import written

import evax
from evax.data.building import build_store
from evax.data.masks import check_aspect
from evax.data.sources import read_source
from evax.errors import DataError
from evax.explain.localization import images_with_regions, kinds_of_truth


@pytest.fixture(scope="module")
def store(phantom_store):
    return evax.open_store(phantom_store)


def test_every_box_of_the_wanted_images_and_findings_is_found_once(store):
    rows, finding = store.rows("test"), store.manifest.boxes["finding"].iloc[0]
    films = images_with_regions(store, rows, {finding: "boxes"})
    images = set(store.manifest.table["image"].iloc[rows])
    boxes = store.manifest.boxes
    wanted = boxes[boxes["image"].isin(images) & (boxes["finding"] == finding)]
    assert sum(len(drawn[finding]) for drawn in films.values()) == len(wanted) > 0
    assert set(films) <= set(rows.tolist())
    assert list(films) == sorted(films)


def test_an_image_with_a_mask_is_found_without_reading_the_mask(store):
    finding = next(name for name in store.manifest.findings if len(store.masked_rows(name)))
    films = images_with_regions(store, np.arange(len(store)), {finding: "masks"})
    assert list(films) == store.masked_rows(finding).tolist()
    assert all(drawn == {finding: ()} for drawn in films.values())


def test_auto_looks_at_the_images_that_are_scored(store):
    finding = next(name for name in store.manifest.findings if len(store.masked_rows(name)))
    rows = store.masked_rows(finding)
    others = np.setdiff1d(np.arange(len(store)), rows)
    assert kinds_of_truth(store, rows, (finding,), "auto") == {finding: "masks"}
    assert kinds_of_truth(store, others, (finding,), "auto") == {finding: "boxes"}
    assert kinds_of_truth(store, rows, (finding,), "boxes") == {finding: "boxes"}


# --- boxes are held against the pixels of their image ------------------------------------------------

WIDE = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8) * 2  # 60 x 40, width x height


def coco(raw, stated, pixels=WIDE, bbox=(30, 10, 12, 4), **saved):
    """A COCO folder of one image with a box, whose file states this width and height."""
    raw.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(raw / "a.jpg", **saved)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": stated[0], "height": stated[1]}],
        "categories": [{"id": 1, "name": "Mass"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox}],
    }
    (raw / "annotations.json").write_text(json.dumps(content))
    return read_source("coco", raw, {})


def reason_of(manifest, out):
    """Why the first image was rejected."""
    with pytest.raises(DataError, match="None of the"):
        build_store(manifest, out, size=16)
    return (out / "rejected.csv").read_text()


@pytest.mark.parametrize("stated", [(60, 40), (600, 400), (30.0, 20.0), (61, 40)])
def test_boxes_of_an_image_or_of_a_resized_copy_lie_where_they_were_drawn(tmp_path, stated):
    width, height = stated
    bbox = (width / 2, height / 4, width / 5, height / 10)
    store = build_store(coco(tmp_path / "raw", stated, bbox=bbox), tmp_path / "store", size=16)
    box = store.manifest.boxes[["x", "y", "width", "height"]].to_numpy()
    np.testing.assert_allclose(box, [[0.5, 0.25, 0.2, 0.1]])


@pytest.mark.parametrize(
    ("stated", "bbox", "reason"),
    [
        ((40, 60), (10, 30, 4, 12),
         "drawn on 40 x 60 pixels and its image 60 x 40: width and height are exchanged"),
        ((640, 640), (320, 280, 64, 64),  # a letterboxed copy
         "drawn on 640 x 640 pixels and its image 60 x 40: it belongs to another image, or one of"),
    ],
)  # fmt: skip
def test_boxes_of_another_aspect_reject_the_image_with_both_sizes(tmp_path, stated, bbox, reason):
    assert reason in reason_of(coco(tmp_path / "raw", stated, bbox=bbox), tmp_path / "store")


@pytest.mark.parametrize(("stated", "fits"), [((40, 60), True), ((60, 40), False)])
def test_the_size_of_an_image_is_that_after_its_exif_orientation(tmp_path, stated, fits):
    exif = Image.Exif()
    exif[274] = 6  # shown turned by a quarter: 40 wide, 60 high
    manifest = coco(tmp_path / "raw", stated, bbox=(10, 10, 4, 4), exif=exif)
    if fits:
        assert len(build_store(manifest, tmp_path / "store", size=16).manifest.boxes) == 1
    else:
        assert "or one of them was turned (EXIF" in reason_of(manifest, tmp_path / "store")


def test_an_image_without_boxes_is_kept_whatever_size_is_stated(tmp_path):
    manifest = coco(tmp_path / "raw", (40, 60), bbox=(10, 30, 4, 12))
    content = json.loads((tmp_path / "raw" / "annotations.json").read_text())
    (tmp_path / "raw" / "annotations.json").write_text(json.dumps(content | {"annotations": []}))
    assert manifest.drawn_on == {"a.jpg": (40, 60)}
    assert len(build_store(read_source("coco", tmp_path / "raw", {}), tmp_path / "store", size=16)) == 1


FRACTIONS = "look like fractions of the image.*in pixels: multiply x and width"


@pytest.mark.parametrize(
    ("bbox", "message"),
    [
        ((300, 100, 120, 40), "from 300, 100 to 420, 140 in an image of 60 x 40 pixels"),
        *((bbox, FRACTIONS) for bbox in ((0.1, 0.1, 0.2, 0.3), (0, 0, 1, 1), (0.5, 0, 0.5, 1.0))),
        *((bbox, "the bbox of annotation 1 is not x, y, width, height")
          for bbox in (None, [1, 2, 3], [1, 2, 3, None], [1, 2, 3, "x"], 5)),
    ],
)  # fmt: skip
def test_a_box_out_of_the_stated_size_or_in_fractions_or_none_is_refused(tmp_path, bbox, message):
    with pytest.raises(DataError, match=message):
        coco(tmp_path, (60, 40), bbox=bbox)


def test_a_box_of_a_pixel_beside_a_larger_one_stays(tmp_path):
    assert len(coco(tmp_path, (60, 40), bbox=(0.5, 0.5, 1.5, 1)).boxes) == 1


def test_findings_that_a_store_does_not_know_have_no_places_in_it(store):
    kinds = kinds_of_truth(store, np.arange(len(store)), ("Unheard",), "auto")
    assert kinds == {"Unheard": "boxes"}
    assert images_with_regions(store, np.arange(len(store)), {"Unheard": "masks"}) == {}


@pytest.mark.parametrize("release", ["chestxray14", "rsna"])
def test_boxes_of_a_release_of_square_images_reject_an_image_that_is_not(tmp_path, release):
    raw = written(release, tmp_path / "raw")
    manifest = read_source(release, raw, {})
    boxed = manifest.boxes["image"].iloc[0]
    whole = build_store(manifest, tmp_path / "whole", size=16)
    assert boxed in set(whole.manifest.table["image"])
    Image.fromarray(WIDE).save(raw / boxed, "PNG")
    cut = build_store(manifest, tmp_path / "cut", size=16)
    assert "drawn on 1024 x 1024 pixels and its image 60 x 40" in (cut.path / "rejected.csv").read_text()
    assert len(cut) == len(whole) - 1


@given(st.integers(30, 4000), st.integers(30, 4000), st.floats(0.1, 10))
def test_any_resized_copy_has_the_aspect_of_its_image_and_a_turned_one_only_where_it_is_square(
    width, height, factor
):
    film, copy = (width, height), (width * factor, height * factor)
    check_aspect("x", copy, film)
    if (max(film) / min(film)) ** 2 > 1.02:
        with pytest.raises(DataError, match="exchanged"):
            check_aspect("x", copy[::-1], film)
    else:
        check_aspect("x", copy[::-1], film)


@pytest.mark.real
def test_boxes_of_chestxray14_at_512_pixels_are_kept(shared, tmp_path):
    manifest = read_source("chestxray14", shared / "chestxray14-sample", {})
    boxed = manifest.table["image"].isin(manifest.boxes["image"].iloc[:3])
    chosen = manifest.select(boxed.to_numpy())
    assert len(build_store(chosen, tmp_path / "store", size=16)) == len(chosen.table) > 0

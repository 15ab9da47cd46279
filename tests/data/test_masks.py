"""Masks: run lengths, pictures, and what the store keeps of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evax.data.building import build_store
from evax.data.manifest import MASK_COLUMNS, Manifest
from evax.data.masks import box_rle, decode_rle, read_mask, stored_masks, unpack
from evax.data.pictures import read_image
from evax.data.preprocess import Preprocess
from evax.data.sources import read_source
from evax.data.store import open_store
from evax.errors import DataError
from releases import film, mask


def refused(message):
    return pytest.raises(DataError, match=message)


# --- run lengths ------------------------------------------------------------------------------------


def test_runs_go_down_the_columns_and_begin_outside():
    np.testing.assert_array_equal(decode_rle("2 3 1 3"), [[0, 1, 0], [1, 1, 0]])
    assert decode_rle("2 3 0 6").all()
    assert not decode_rle("2 3").any()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_the_runs_of_a_box_are_the_box(height, width, data):
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    across, down = data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top))
    expected = np.zeros((height, width), bool)
    expected[top : top + down, left : left + across] = True
    np.testing.assert_array_equal(decode_rle(box_rle(height, width, (left, top, across, down))), expected)


@pytest.mark.parametrize(
    "text", ["2 3 4 9", "2 3 -1 2", "2", "", "0 4 1", "99999999 99999999 1 1", "-2 -3 1 1"]
)
def test_runs_that_do_not_fit_are_refused(text):
    with refused("run lengths do not fit an image of"):
        decode_rle(text)


def test_runs_that_are_no_numbers_are_refused():
    with refused("run lengths hold something else than numbers: '2 3 x'"):
        decode_rle("2 3 x")


# --- pictures ---------------------------------------------------------------------------------------

INSIDE = np.array([[0, 1], [1, 1]], bool)


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(INSIDE.view(np.uint8)),
        Image.fromarray(INSIDE.view(np.uint8) * np.uint8(250)),
        Image.fromarray(INSIDE),
        Image.fromarray(INSIDE.astype(np.uint16) * 65535),
        Image.fromarray(INSIDE.view(np.uint8) * 255).convert("RGB"),
        Image.fromarray(INSIDE.view(np.uint8) * 255).convert("LA"),
        Image.fromarray(INSIDE.view(np.uint8) * 255).convert("P"),
    ],
    ids=lambda picture: picture.mode,
)
def test_inside_is_white_or_1_in_every_kind_of_picture(tmp_path, picture):
    picture.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), INSIDE)


def test_grey_borders_of_a_white_mask_are_divided_at_the_middle(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), [[0, 0, 1, 1]])


def test_a_map_of_several_classes_is_no_mask(tmp_path):
    Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8)).save(tmp_path / "map.png")
    with refused("map.png holds values up to 3, and which of them are inside is unknown: a mask has 0 and 1"):
        read_mask(tmp_path / "map.png")


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "mask.png").write_text("not a picture at all")
    with refused("mask.png is damaged or of an unsupported kind"):
        read_mask(tmp_path / "mask.png")


def test_pieces_of_one_finding_are_united_and_kept_at_the_store_s_size(tmp_path):
    mask(tmp_path / "a.png", (0, 0, 24, 24))
    pieces = [("Mass", "a.png", ""), ("Mass", "", box_rle(1024, 1024, (512, 512, 512, 512))),
              ("Edema", "a.png", "")]  # fmt: skip
    kept = stored_masks(pieces, tmp_path, (300, 300), 16)
    mass, edema = unpack(kept["Mass"], 16), unpack(kept["Edema"], 16)
    assert len(kept["Mass"]) == 16 * 16 // 8
    assert mass[:8, :8].all()
    assert mass[8:, 8:].all()
    assert mass.sum() == 128
    assert edema.sum() == 64


def test_a_mask_of_another_aspect_than_its_film_is_refused(tmp_path):
    mask(tmp_path / "a.png", (0, 0, 24, 24))
    with refused(
        "The mask a.png of Mass has 48 x 48 pixels and its film 40 x 60: it belongs to another film"
    ):
        stored_masks([("Mass", "a.png", "")], tmp_path, (60, 40), 16)


# --- the manifest's rules and the store -------------------------------------------------------------


@pytest.fixture
def films(tmp_path):
    """Three films; the first with two findings, the second with a mask that cannot be read."""
    for number in range(3):
        film(tmp_path / f"{number}.png", number)
    mask(tmp_path / "m.png", (0, 0, 24, 48))
    (tmp_path / "bad.png").write_bytes(b"")
    pieces = [("0.png", "Mass", "m.png", ""), ("0.png", "Edema", "", box_rle(48, 48, (0, 0, 48, 12))),
              ("1.png", "Mass", "bad.png", "")]  # fmt: skip
    table = pd.DataFrame({"image": ["0.png", "1.png", "2.png"], "patient": ["a", "b", "c"]})
    return Manifest(
        table=table.assign(study="", view="", sex="", age=np.nan, split="train"), findings=(),
        exclusive=False, source="mine", root=tmp_path, masks=pd.DataFrame(pieces, columns=list(MASK_COLUMNS)),
    )  # fmt: skip


def changed(films, row, column, value):
    masks = films.masks.copy()
    masks.loc[row, column] = value
    return Manifest(
        table=films.table, findings=(), exclusive=False, source="mine", root=films.root, masks=masks
    )


def test_a_mask_of_no_film_or_of_no_piece_is_refused(films):
    with refused(f"{films.root.name}: there is a mask for 7.png, which is not in the table"):
        changed(films, 0, "image", "7.png")
    with refused(
        f"{films.root.name}: a mask of 0.png must have either a file or run lengths, not both or none"
    ):
        changed(films, 0, "rle", "48 48 1")
    with refused(f"{films.root.name}: the masks lack the columns file, rle"):
        Manifest(
            table=films.table, findings=(), exclusive=False, source="mine", root=films.root,
            masks=pd.DataFrame({"image": [], "finding": []}),
        )  # fmt: skip


def test_a_store_keeps_the_masks_and_rejects_a_film_whose_mask_cannot_be_read(films, tmp_path):
    store = build_store(films, tmp_path / "store", size=16)
    assert list(store.manifest.table["image"]) == ["0.png", "2.png"]
    assert (store.path / "rejected.csv").read_text().splitlines()[1].startswith("1.png,bad.png is empty")
    kept = open_store(store.path).masks(0)
    assert kept.keys() == {"Mass", "Edema"}
    assert kept["Mass"][:, :8].all()
    assert not kept["Mass"][:, 8:].any()
    assert kept["Edema"][:4].all()
    assert not kept["Edema"][4:].any()
    assert store.masks(1) == {}
    assert store.masked_rows("Mass").tolist() == [0]
    assert store.masked_rows("Nodule").tolist() == []


def test_another_mask_gives_another_store(films, tmp_path):
    one = build_store(films, tmp_path / "store", size=16)
    mask(films.root / "m.png", (0, 0, 12, 48))
    assert build_store(films, tmp_path / "redrawn", size=16).fingerprint != one.fingerprint
    with refused("already holds something else"):
        build_store(changed(films, 1, "finding", "Nodule"), tmp_path / "store", size=16)


def test_a_store_without_masks_has_the_format_and_the_columns_it_always_had(phantoms, tmp_path):
    manifest = read_source("folders", phantoms / "images", {})
    store = build_store(manifest.select(np.arange(48) < 2), tmp_path / "store", size=16)
    assert store.card["format"] == 1
    assert store.masks(0) == {}
    assert store.masked_rows("Effusion").tolist() == []


def test_the_masks_of_the_phantoms_are_in_their_store_where_their_boxes_are(phantom_store):
    store = open_store(phantom_store)
    boxes = store.manifest.boxes
    assert len(boxes)
    for row, image in enumerate(store.manifest.table["image"]):
        masks = store.masks(row)
        of_film = boxes[boxes["image"] == image]
        assert masks.keys() == set(of_film["finding"])
        for finding, seen in masks.items():
            places = of_film.loc[of_film["finding"] == finding, ["x", "y", "width", "height"]].to_numpy()
            boxed = np.zeros_like(seen)
            for x, y, width, height in places * store.size:
                boxed[max(0, int(y) - 1) : int(y + height) + 2, max(0, int(x) - 1) : int(x + width) + 2] = (
                    True
                )
            assert not (seen & ~boxed).any()
            assert row in store.masked_rows(finding)


@pytest.mark.real
def test_real_lung_masks_are_darker_than_what_lies_between_the_lungs(shared):
    pattern = r"(person\d+|NORMAL2-IM-\d+|IM-\d+)"
    options = {"region": "Lung", "patient_pattern": pattern}
    manifest = read_source("masks", shared / "kermany-lungs", options)
    assert len(manifest.table) == len(manifest.masks) == 875
    darker = []
    for image, finding, file, _ in manifest.masks.iloc[::25].itertuples(index=False, name=None):
        pixels = read_image(manifest.root / image).pixels
        lung = unpack(stored_masks([(finding, file, "")], manifest.root, pixels.shape, 64)["Lung"], 64)
        stored = Preprocess(store_size=64).to_store(pixels)
        assert 0.05 < lung.mean() < 0.7
        between = (
            np.logical_or.accumulate(lung, axis=1) & np.logical_or.accumulate(lung[:, ::-1], axis=1)[:, ::-1]
        )
        darker.append(stored[lung].mean() < stored[between & ~lung].mean())
    assert np.mean(darker) > 0.9

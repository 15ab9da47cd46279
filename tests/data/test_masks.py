"""Masks: run lengths, pictures, and what the store keeps of them."""

from __future__ import annotations

from dataclasses import replace

import jaxtyping
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evax.data.building import build_store
from evax.data.manifest import MASK_COLUMNS, Manifest, no_masks
from evax.data.masks import box_rle, decode_rle, read_mask, stored_masks, unpack_mask
from evax.data.pictures import read_image
from evax.data.preprocess import Preprocess
from evax.data.sources import read_source
from evax.data.store import open_store
from evax.errors import ConfigError, DataError
from picture_files import png, tiff, turned
from releases import dicom, film, mask, with_files


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
    ("text", "message"),
    [
        *((text, "run lengths do not fit an image of") for text in (
            "2 3 4 9", "2 3 -1 2", "2", "", "0 4 1", "99999999 99999999 1 1", "-2 -3 1 1",
        )),
        ("2 3 x", "run lengths hold something else than numbers: '2 3 x'"),
    ],
)  # fmt: skip
def test_runs_that_do_not_fit_or_are_no_numbers_are_refused(text, message):
    with refused(message):
        decode_rle(text)


# --- pictures ---------------------------------------------------------------------------------------

INSIDE = np.array([[0, 1], [1, 1]], bool)


BYTES = INSIDE.view(np.uint8)


@pytest.mark.parametrize(
    "picture",
    [
        *map(Image.fromarray, (BYTES, BYTES * np.uint8(250), INSIDE, INSIDE.astype(np.uint16) * 65535)),
        *(Image.fromarray(BYTES * 255).convert(mode) for mode in ("RGB", "LA", "P")),
    ],
    ids=lambda picture: picture.mode,
)
def test_inside_is_white_or_1_in_every_kind_of_picture(tmp_path, picture):
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "mask.png", picture)), INSIDE)


REGION = np.zeros((40, 30), bool)
REGION[8:24, 5:20] = True
REGION[30:32, 22:28] = True


def white(region, full=255, dtype=np.uint8):
    return region.astype(dtype) * dtype(full)


def saved(path, values, **options):
    picture = values if isinstance(values, Image.Image) else Image.fromarray(values)
    picture.save(path, **options)
    return path


SHOWN, HIDDEN, ALL = white(REGION), white(REGION) * 0, white(REGION | True)
LAYERS = {
    "red RGBA": [ALL, HIDDEN, HIDDEN, SHOWN],
    "white LA": [ALL, SHOWN],
    "white RGBA": [ALL, ALL, ALL, SHOWN],
    "black RGBA": [HIDDEN, HIDDEN, HIDDEN, SHOWN],
    "white LA of 16 bits": [white(REGION | True, 65535, np.uint16), white(REGION, 65535, np.uint16)],
    "opaque": [SHOWN, SHOWN, SHOWN, ALL],
    "half opaque": [SHOWN, white(REGION, 128)],
}


@pytest.mark.parametrize(
    "write",
    [
        *(lambda path, layers=layers: png(path, np.dstack(layers)) for layers in LAYERS.values()),
        lambda path: tiff(path, np.dstack([ALL, ALL, ALL, SHOWN]), photometric=2, extra=[2]),
        lambda path: png(path, REGION * np.uint8(1), palette=[(255,) * 3] * 2, chunks=[(b"tRNS", b"\0\xff")]),
    ],
    ids=[*LAYERS, "TIFF", "palette"],
)
def test_a_region_drawn_on_a_transparent_layer_is_what_is_not_transparent(tmp_path, write):
    np.testing.assert_array_equal(read_mask(write(tmp_path / "a")), REGION)


def test_a_picture_below_a_layer_that_is_transparent_everywhere_is_no_mask(tmp_path):
    with refused("a.png is transparent everywhere: save it without its alpha channel"):
        read_mask(png(tmp_path / "a.png", np.dstack([white(REGION)] * 3 + [white(REGION) * 0])))
    assert not read_mask(png(tmp_path / "b.png", np.dstack([white(REGION) * 0] * 4))).any()


@pytest.mark.parametrize(
    "stored",
    [white(~REGION), white(~REGION, 65535, np.uint16), white(~REGION, 1, np.uint16),
     white(~REGION, 1, np.float32)],
    ids=["8 bits", "16 bits", "16 bits, 0 and 1", "float"],
)  # fmt: skip
@pytest.mark.parametrize("compressed", [False, True])
def test_what_a_tiff_stores_as_0_is_inside_where_white_is_zero(tmp_path, stored, compressed):
    path = tiff(tmp_path / "a.tif", stored, photometric=0, compressed=compressed)
    np.testing.assert_array_equal(read_mask(path), REGION)


PAGE = Image.fromarray(~SHOWN)


def many_classes():
    labels = np.kron(np.arange(20).reshape(4, 5), np.ones((10, 10))).astype(np.uint8)
    labels[labels == 19] = 255
    return labels


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: saved(path, SHOWN, format="TIFF", save_all=True, append_images=[PAGE]),
         "mask has 2 pages"),
        (lambda path: dicom(path) or path,
         "mask is a DICOM file, and masks are read from pictures: save it as PNG"),
        (lambda path: path.write_text("not a picture at all") and path,
         "mask is not a readable PNG, JPEG, TIFF or BMP file"),
        (lambda path: saved(path, many_classes(), format="PNG"), "mask holds 20 values from 0 to 255"),
    ],
    ids=["two pages", "DICOM", "text", "many classes, some ignored"],
)  # fmt: skip
def test_what_is_no_single_mask_is_refused_with_the_reason(tmp_path, make, message):
    with refused(message):
        read_mask(make(tmp_path / "mask"))


CLASSES = REGION.astype(np.uint8)
CLASSES[:4, :6] = 2
COLOURS = np.array([(0, 0, 0), (255, 0, 204), (255, 255, 0)], np.uint8)


@pytest.mark.parametrize(
    ("values", "held"),
    [
        (CLASSES, "the values 0; 1; 2"),
        (np.where(CLASSES == 2, 255, CLASSES).astype(np.uint8), "the values 0; 1; 255"),
        (CLASSES * np.uint8(127), "the values 0; 127; 254"),
        (np.array([0, 255, 65535], np.uint16)[CLASSES], "the values 0; 255; 65535"),
        (CLASSES / np.float32(2), "the values 0; 0.5; 1"),
        (REGION * np.uint8(2), "the values 0; 2"),
        (REGION * np.uint8(1) + np.uint8(1), "the values 1; 2"),
        (REGION * np.uint8(55) + np.uint8(200), "the values 200; 255"),
        (REGION * np.float32(0.3), "the values 0; 0.3"),
        (np.full((5, 5), 7, np.uint8), "the values 7"),
        (np.arange(1200, dtype=np.uint16).reshape(40, 30) // 100, "12 values from 0 to 11"),
        (COLOURS[CLASSES], "the colours 0 0 0; 255 0 204; 255 255 0"),
        (np.array([(255, 255, 255), (255, 0, 0)], np.uint8)[CLASSES % 2], "the colours 255 0 0; 255 255 255"),
    ],
)  # fmt: skip
def test_a_picture_of_other_values_than_two_is_refused_with_them(tmp_path, values, held):
    with refused(f"a.tif holds {held}, and which of them are inside is unknown: .* with --mask-value"):
        read_mask(saved(tmp_path / "a.tif", values))


def test_the_named_value_is_inside_and_everything_else_outside(tmp_path):
    path = saved(tmp_path / "a.png", CLASSES)
    np.testing.assert_array_equal(read_mask(path, (1,)), CLASSES == 1)
    np.testing.assert_array_equal(read_mask(path, (2,)), CLASSES == 2)
    assert not read_mask(path, (3,)).any()
    deep = saved(tmp_path / "b.png", np.array([0, 1, 65535], np.uint16)[CLASSES])
    np.testing.assert_array_equal(read_mask(deep, (1,)), CLASSES == 1)
    for picture in (Image.fromarray(COLOURS[CLASSES]), Image.fromarray(COLOURS[CLASSES]).quantize(3)):
        path = saved(tmp_path / "c.png", picture)
        np.testing.assert_array_equal(read_mask(path, (255, 0, 204)), CLASSES == 1)
        with refused("c.png has colours: name that of the inside, --mask-value RED GREEN BLUE"):
            read_mask(path, (1,))
    layer = png(tmp_path / "e.png", np.dstack([COLOURS[CLASSES], white(CLASSES > 0)]))
    np.testing.assert_array_equal(read_mask(layer, (255, 0, 204)), CLASSES == 1)
    # no region of that class on this image: its map is black
    assert not read_mask(saved(tmp_path / "d.png", np.zeros((5, 5), np.uint8)), (255, 0, 204)).any()


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 128), (0, 200, 0), (12, 11, 11)])
def test_one_colour_on_black_is_inside(tmp_path, colour):
    path = saved(tmp_path / "a.png", np.array([(0, 0, 0), colour], np.uint8)[REGION.astype(int)])
    np.testing.assert_array_equal(read_mask(path), REGION)


def disc(side):
    y, x = np.indices((side, side)) - side * 0.45
    return x**2 + 2 * y**2 < (side * 0.3) ** 2


def resized(side, filter=None):
    """The disc, drawn at this side and resized."""
    return np.asarray(Image.fromarray(white(disc(side))).resize((160, 160), filter))


PINK = [white(disc(160) | True), *[np.full((160, 160), 90, np.uint8)] * 2, resized(640)]


@pytest.mark.parametrize(
    "write",
    [
        *(lambda path, quality=quality: saved(path, white(disc(160)), format="JPEG", quality=quality)
          for quality in (30, 75, 100)),
        lambda path: saved(
            path, Image.open(saved(path, white(disc(160)), format="JPEG")).copy(), format="PNG"
        ),
        lambda path: saved(path, resized(640), format="PNG"),
        lambda path: saved(path, resized(80), format="TIFF"),
        lambda path: saved(path, resized(320, Image.Resampling.BOX), format="PNG"),
        lambda path: png(path, np.dstack(PINK)),
    ],
    ids=["JPEG 30", "JPEG 75", "JPEG 100", "JPEG as PNG", "reduced", "enlarged", "halved", "drawn in pink"],
)  # fmt: skip
def test_a_border_that_jpeg_or_resizing_blurred_is_divided_at_the_middle(tmp_path, write):
    seen = read_mask(write(tmp_path / "a"))
    assert len(np.unique(np.asarray(Image.open(tmp_path / "a")))) > 2
    assert (seen != disc(160)).mean() < 0.01


@pytest.mark.parametrize("write", [
    lambda path, values: saved(path, values, format="JPEG"),
    lambda path, values: saved(path, Image.fromarray(values).resize((80, 80), Image.Resampling.BILINEAR)),
])  # fmt: skip
def test_a_named_value_is_refused_where_borders_are_blurred(tmp_path, write):
    classes = white(disc(160))
    classes[:40, :40] = 128
    with refused("has values between those of its regions.* which needs no --mask-value"):
        read_mask(write(tmp_path / "a.png", classes), (128,))
    assert read_mask(saved(tmp_path / "b.png", classes), (128,)).sum() == 1600


@pytest.mark.parametrize("quality", [50, 90])
def test_a_map_of_several_classes_is_no_mask_as_a_jpeg_either(tmp_path, quality):
    classes = disc(160).astype(np.uint8) * 127
    classes[:30, :30] = 255
    with refused(r"a.jpg holds \d+ values from 0 to 255, and which of them are inside is unknown"):
        read_mask(saved(tmp_path / "a.jpg", classes, quality=quality))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(range(1, 9)), st.integers(0, 2**32 - 1))
def test_a_region_is_the_same_in_every_format_and_as_the_picture_shows_it(
    tmp_path_factory, height, width, orientation, seed
):
    folder = tmp_path_factory.getbasetemp()
    region = np.random.default_rng(seed).random((height, width)) < 0.5
    eight, full = white(region), white(region | True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    chunks, tag = {"chunks": [(b"eXIf", exif.tobytes()[6:])]}, {"orientation": orientation}
    pictures = [
        png(folder / "1", eight, **chunks),
        png(folder / "2", white(region, 65535, np.uint16), **chunks),
        png(folder / "3", np.dstack([eight] * 3), **chunks),
        png(folder / "4", np.dstack([full, full, full, eight]), **chunks),
        png(folder / "5", np.dstack([white(region, 65535, np.uint16)] * 3), **chunks),
        png(folder / "6", region.view(np.uint8), palette=[(0, 0, 0), (255, 255, 255)], **chunks),
        tiff(folder / "7", eight, **tag),
        tiff(folder / "8", region, bits=1, **tag),
        tiff(folder / "9", ~region, bits=1, photometric=0, compressed=True, **tag),
        tiff(folder / "10", white(~region, 65535, np.uint16), photometric=0, **tag),
        tiff(folder / "11", white(region, 1, np.float32), order=">", compressed=True, **tag),
        tiff(folder / "12", np.dstack([white(region, 65535, np.uint16)] * 3), photometric=2, planar=2, **tag),
        saved(folder / "13", eight.repeat(8, 0).repeat(8, 1), format="JPEG", quality=95, exif=exif),
    ]
    for path in pictures:
        seen = read_mask(path)
        np.testing.assert_array_equal(seen, read_image(path).pixels > 0.5)
        small = seen[::8, ::8] if path.name == "13" else seen
        np.testing.assert_array_equal(small, turned(region, orientation))
    labels = [
        png(folder / "14", region.view(np.uint8), **chunks),
        tiff(folder / "15", region.astype(np.uint16), **tag),
    ]
    for path in labels:  # 0 and 1 are nearly black in a viewer, and inside all the same
        np.testing.assert_array_equal(read_mask(path), turned(region, orientation))


def test_pieces_of_one_finding_are_united_and_kept_at_the_store_s_size(tmp_path):
    mask(tmp_path / "a.png", (0, 0, 24, 24))
    pieces = [("Mass", "a.png", ""), ("Mass", "", box_rle(1024, 1024, (512, 512, 512, 512))),
              ("Edema", "a.png", "")]  # fmt: skip
    kept = stored_masks(pieces, tmp_path, (300, 300), 16)
    mass, edema = unpack_mask(kept["Mass"], 16), unpack_mask(kept["Edema"], 16)
    assert len(kept["Mass"]) == 16 * 16 // 8
    assert mass[:8, :8].all()
    assert mass[8:, 8:].all()
    assert (mass.sum(), edema.sum()) == (128, 64)


def test_a_mask_of_another_aspect_than_its_image_is_refused(tmp_path):
    mask(tmp_path / "a.png", (0, 0, 24, 24))
    message = "The mask a.png of Mass has 48 x 48 pixels and its image 40 x 60: it belongs to another image"
    with refused(message):
        stored_masks([("Mass", "a.png", "")], tmp_path, (60, 40), 16)


# --- the manifest's rules and the store -------------------------------------------------------------


@pytest.fixture
def films(tmp_path):
    """Three images; the first with two findings, the second with a mask that cannot be read."""
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
    return replace(films, masks=masks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda films: changed(films, 0, "image", "7.png"),
         "there is a mask for 7.png, which is not in the table"),
        (lambda films: changed(films, 0, "rle", "48 48 1"),
         "a mask of 0.png must have either a file or run lengths, not both or none"),
        (lambda films: replace(films, masks=pd.DataFrame({"image": [], "finding": []})),
         "the masks lack the columns file, rle"),
    ],
)  # fmt: skip
def test_a_mask_of_no_image_or_of_no_piece_is_refused(films, change, message):
    with refused(f"{films.root.name}: {message}"):
        change(films)


def test_a_store_keeps_the_masks_and_rejects_an_image_whose_mask_cannot_be_read(films, tmp_path):
    store = build_store(films, tmp_path / "store", size=16)
    assert list(store.manifest.table["image"]) == ["0.png", "2.png"]
    assert (store.path / "rejected.csv").read_text().splitlines()[1].startswith("1.png,bad.png is empty")
    kept = open_store(store.path).masks(0)
    assert kept.keys() == {"Mass", "Edema"}
    across, down = np.meshgrid(np.arange(16), np.arange(16))
    np.testing.assert_array_equal(kept["Mass"], across < 8)
    np.testing.assert_array_equal(kept["Edema"], down < 4)
    assert store.masks(1) == {}
    assert store.masked_rows("Mass").tolist() == [0]
    for name in ("Nodule", "mass"):
        with pytest.raises(ConfigError, match=f"No finding of .* is called '{name}'.*Known: Edema, Mass"):
            store.masked_rows(name)


@pytest.mark.parametrize("index", [-1, 2, 10**6, np.int64(-3)])
def test_a_number_that_no_image_has_is_refused_with_those_that_there_are(films, tmp_path, index, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as where no test checks the types
    without_masks = replace(films, masks=no_masks())
    for name, manifest in (("masked", films), ("plain", without_masks)):
        store = build_store(manifest.select(np.array([True, False, True])), tmp_path / name, size=16)
        for ask in (store.pixels, store.masks):
            with pytest.raises(IndexError, match=f"has the images 0 to 1, and no image {index}"):
                ask(index)
            for wrong in (1.5, "a", None, np.float32(1)):
                with pytest.raises(TypeError, match="is given by its number, a whole one, not by"):
                    ask(wrong)
        assert (store.pixels(np.uint8(1)) == store.pixels(1)).all()


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
                rows, columns = slice(max(0, int(y) - 1), int(y + height) + 2), int(x + width) + 2
                boxed[rows, max(0, int(x) - 1) : columns] = True
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
        lung = unpack_mask(stored_masks([(finding, file, "")], manifest.root, pixels.shape, 64)["Lung"], 64)
        stored = Preprocess(store_size=64).to_store(pixels)
        assert 0.05 < lung.mean() < 0.7
        right_of, left_of = (np.logical_or.accumulate(side, axis=1) for side in (lung, lung[:, ::-1]))
        between = right_of & left_of[:, ::-1]
        darker.append(stored[lung].mean() < stored[between & ~lung].mean())
    assert np.mean(darker) > 0.9


# --- files of other kinds ---------------------------------------------------------------------------


def test_files_that_are_no_masks_are_counted_by_kind(tmp_path, caplog):
    for name in "ab":
        film(tmp_path / "images" / f"{name}.png")
    mask(tmp_path / "masks" / "a.png", (0, 0, 9, 9))
    mask(tmp_path / "masks" / "Mass" / "b.gif", (0, 0, 9, 9))
    np.save(tmp_path / "masks" / "b.npy", np.zeros(1))
    (tmp_path / "masks" / ".DS_Store").write_text("")
    assert read_source("masks", tmp_path, {}).masks["image"].tolist() == ["images/a.png"]
    assert f"{tmp_path / 'masks'}: 2 files are no masks and are passed over: 1 .gif, 1 .npy" in caplog.text


@pytest.mark.parametrize("source", ["masks", "csv", "lungs"])
@pytest.mark.parametrize("suffix", [".gif", ".webp", ".npy", ".nii.gz"])
def test_a_folder_without_masks_of_a_kind_that_is_read_is_refused(tmp_path, source, suffix):
    images, masks = ("Train/Images", "Train/Masks") if source == "lungs" else ("images", "masks")
    film(tmp_path / images / "a.png")
    film(tmp_path / "Test" / "Images" / "b.png")
    with_files(tmp_path, {"labels.csv": "image,patient\na,1\n"})
    with_files(tmp_path / masks, {f"a{suffix}": "x"})
    with refused(r"asks holds files, but no mask \(PNG, JPEG, TIFF and BMP are read\): save the masks as P"):
        read_source(source, tmp_path, {})

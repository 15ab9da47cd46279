"""A store is built once, whole or resumable, and gives back pixels, table and boxes as they went in."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

import dicoms
from evax.data import building as store_module
from evax.data.augment import CropConfig
from evax.data.building import build_store
from evax.data.loader import Films, training_batches
from evax.data.manifest import BOX_COLUMNS, NOTES, Manifest, no_boxes
from evax.data.pictures import read_image
from evax.data.preprocess import Preprocess
from evax.data.sources import read_source
from evax.data.split import assign_splits
from evax.data.store import open_store
from evax.data.unlabelled import common_preprocess
from evax.errors import DataError


@pytest.fixture
def films(tmp_path):
    """Four images with labels and boxes; the third cannot be read."""
    names = [f"{letter}.png" for letter in "abcd"]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 36), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"")
    table = pd.DataFrame(
        {
            "image": names, "patient": ["p", "p", "q", "ü"], "study": "", "view": ["PA", "AP", "", "PA"],
            "sex": ["M", "M", "", "F"], "age": [50.5, np.nan, 3, 70],
            "split": ["train", "train", "val", "test"],
            "Mass": [1.0, np.nan, 0, -1], "Edema": [0.0, 0, 0, 1],
        }
    )  # fmt: skip
    boxes = [("d.png", "Mass", 0.1, 0.2, 0.3, 0.4), ("a.png", "Mass", 0, 0, 1, 1),
             ("a.png", "Mass", 0.5, 0, 0.5, 1)]  # fmt: skip
    return Manifest(
        table=table, findings=("Mass", "Edema"), exclusive=False, source="mine", root=tmp_path,
        boxes=pd.DataFrame(boxes, columns=list(BOX_COLUMNS)),
    )  # fmt: skip


@pytest.fixture
def store(films, tmp_path):
    """The store of the four images."""
    return build_store(films, tmp_path / "store", size=32)


def test_pixels_are_those_of_the_images_at_the_store_s_size(store, tmp_path):
    assert len(store) == 3
    for row, name in enumerate(["a.png", "b.png", "d.png"]):
        expected = Preprocess(store_size=32).to_store(read_image(tmp_path / name).pixels)
        np.testing.assert_array_equal(store.pixels(row), expected)


def test_a_stored_image_is_a_view_of_the_file_that_cannot_be_written_by_mistake(store):
    assert np.shares_memory(store.pixels(1), store.pixels(1))
    with pytest.raises(ValueError, match="read-only"):
        store.pixels(0)[0, 0] = 1


def test_the_table_and_the_boxes_come_back_as_they_went_in(films, store):
    kept = [0, 1, 3]
    expected = films.table.iloc[kept].reset_index(drop=True).astype({"Mass": "float32", "Edema": "float32"})
    found = store.manifest.table[list(films.table.columns)]
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert store.manifest.findings == ("Mass", "Edema")
    np.testing.assert_array_equal(store.manifest.labels(), films.labels()[kept])
    written, read = (m.boxes.sort_values(["image", "x"]).to_numpy().tolist() for m in (films, store.manifest))
    assert read == written


def test_what_is_unusual_about_an_image_and_its_study_day_stand_in_the_table(films, tmp_path):
    Image.new("L", (9, 9), 70).save(tmp_path / "b.png")
    films.table["study_day"] = [0, 12, 0, np.nan]
    store = build_store(films, tmp_path / "store", size=32)
    assert store.manifest.table["issues"].tolist() == ["", "blank", ""]
    assert store.card["issues"] == {"blank": 1}
    np.testing.assert_array_equal(store.manifest.table["study_day"], [0, 12, np.nan])


def test_a_store_notes_size_and_spacing_of_the_images_as_they_were_read(films, tmp_path):
    Image.new("L", (9, 12), 70).save(tmp_path / "b.png")  # 9 wide
    dicoms.write(tmp_path / "d.dcm", dicoms.film(shape=(36, 34)))
    films.table.loc[3, "image"] = "d.dcm"
    table = build_store(replace(films, boxes=no_boxes()), tmp_path / "store", size=32).manifest.table
    b, d = (table.set_index("image").loc[name] for name in ("b.png", "d.dcm"))
    assert (b["height"], b["width"]) == (12, 9)
    assert np.isnan(b["spacing_mm"])
    assert (d["height"], d["width"], d["spacing_mm"]) == (36, 34, pytest.approx(0.15))


def test_a_store_of_an_earlier_version_has_no_notes_and_the_same_fingerprint(films, tmp_path, monkeypatch):
    now = build_store(films, tmp_path / "now", size=32)
    write_shard = store_module._write_shard

    def without_notes(manifest, kept, path):
        write_shard(manifest, kept, path)
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all().drop_columns(list(NOTES))
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    monkeypatch.setattr(store_module, "_write_shard", without_notes)
    before = build_store(films, tmp_path / "before", size=32)
    assert not {*NOTES} & {*before.manifest.table}
    assert before.fingerprint == now.fingerprint
    assert open_store(tmp_path / "before").manifest.table.equals(now.manifest.table.drop(columns=list(NOTES)))


def test_rows_are_those_of_the_splits_asked_for(store):
    assert store.rows("train").tolist() == [0, 1]
    assert store.rows("val").tolist() == []
    assert store.rows("test", "train").tolist() == [0, 1, 2]


def test_an_unreadable_image_is_listed_with_its_reason_and_its_boxes_are_gone(store):
    with (store.path / "rejected.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "reason"]
    assert rows[1:] == [["c.png", "c.png is empty (0 bytes): copy it again from its source."]]
    assert (store.card["films"], store.card["rejected"]) == (3, 1)
    assert not list(store.path.glob("rejected-*"))


@pytest.mark.parametrize(
    ("splits", "rows"),
    [(["train", "train", "val", "test"], [0, 1]), (["test"] * 4, [0, 1, 2]),
     (["val", "", "train", ""], [0, 1, 2])],
)  # fmt: skip
def test_mean_and_deviation_are_those_of_the_train_images_or_of_all_where_there_is_none(
    films, tmp_path, splits, rows
):
    """The third image cannot be read."""
    store = build_store(replace(films, table=films.table.assign(split=splits)), tmp_path / "store", size=32)
    pixels = np.stack([store.pixels(row) for row in rows]) / 255
    assert store.mean == pytest.approx(pixels.mean())
    assert store.std == pytest.approx(pixels.std())
    assert store.card["statistics_of"] == ("train" if len(rows) == 2 else "all")
    assert store.measured == len(rows)


def test_stores_with_few_train_images_have_little_weight_in_common_statistics(films, tmp_path):
    few = build_store(films, tmp_path / "few", size=32)
    table = films.table.assign(split=["train", "train", "train", "train"])
    more = build_store(replace(films, table=table), tmp_path / "more", size=32)
    chain = common_preprocess([few, more], image_size=32)
    parts = [(few, 0), (few, 1), (more, 0), (more, 1), (more, 2)]
    pixels = np.stack([store.pixels(row) for store, row in parts]) / 255
    assert (chain.mean, chain.std) == (pytest.approx(pixels.mean()), pytest.approx(pixels.std()))


def test_statistics_of_an_earlier_version_are_those_of_all_images(store):
    later = ("statistics_of", "namespace", "table_digests", "picture_digests")
    card = {name: value for name, value in store.card.items() if name not in later}
    (store.path / "store.json").write_text(json.dumps(card))
    before = open_store(store.path)
    assert (before.measured, before.mean, before.manifest.namespace) == (3, store.mean, "")
    before.check_pictures()


def test_a_store_may_be_moved_without_its_images(films, store, tmp_path):
    first = store.pixels(0).copy()
    store.path.rename(tmp_path / "elsewhere")
    for name in films.table["image"]:
        (tmp_path / name).unlink()
    moved = open_store(tmp_path / "elsewhere")
    np.testing.assert_array_equal(moved.pixels(0), first)


def test_other_programs_can_open_the_shards(store):
    table = pa.ipc.open_file(store.path / "shard-00000.arrow").read_all()
    assert table["image"].to_pylist() == ["a.png", "b.png", "d.png"]
    assert all(len(pixels) == 32 * 32 for pixels in table["pixels"].to_pylist())


def test_the_same_images_give_the_same_fingerprint_whatever_the_workers(phantoms, phantom_store, tmp_path):
    manifest = assign_splits(read_source("csv", phantoms, {}), validation=0.25, test=0.25, seed=0)
    again = build_store(manifest, tmp_path / "again", size=96, workers=2)
    assert again.fingerprint == open_store(phantom_store).fingerprint


@pytest.mark.parametrize("change", ["pixel", "label", "split", "size", "box"])
def test_another_pixel_label_split_size_or_box_is_another_store_and_written_over_none(
    films, store, tmp_path, change
):
    if change == "pixel":
        pixels = np.array(Image.open(tmp_path / "a.png"))
        pixels[:20, :20] ^= 255
        Image.fromarray(pixels).save(tmp_path / "a.png")
    elif change == "label":
        films.table.loc[0, "Edema"] = 1.0
    elif change == "split":
        films.table.loc[0, "split"] = "val"
    elif change == "box":
        films.boxes.loc[0, "x"] = 0.11
    size = 33 if change == "size" else 32
    assert build_store(films, tmp_path / "other", size=size).fingerprint != store.fingerprint
    if change != "pixel":  # a finished store is not read anew
        message = "store already holds something else. Choose another --out or delete it"
        with pytest.raises(DataError, match=message):
            build_store(films, store.path, size=size)


def test_a_finished_store_is_opened_and_not_built_again(films, store, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in store.path.iterdir()}
    (tmp_path / "a.png").unlink()
    assert build_store(films, tmp_path / "store", size=32).fingerprint == store.fingerprint
    assert {path.name: path.stat().st_mtime_ns for path in store.path.iterdir()} == before


def test_a_folder_of_something_else_is_left_alone(films, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.txt").write_text("dear")
    with pytest.raises(DataError, match="already holds something else"):
        build_store(films, tmp_path / "store", size=32)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["thesis.txt"]


def test_when_no_image_can_be_read_the_reasons_are_kept_and_named(films, tmp_path):
    for name in films.table["image"]:
        (tmp_path / name).write_bytes(b"")
    message = "None of the 4 images could be read; see .*rejected.csv. Mend them, delete"
    with pytest.raises(DataError, match=message):
        build_store(films, tmp_path / "store", size=32)
    assert (tmp_path / "store" / "rejected.csv").read_text().count("is empty (0 bytes)") == 4
    with pytest.raises(DataError, match="is unfinished"):
        open_store(tmp_path / "store")


def test_progress_ends_at_all_images_and_counts_the_rejected(films, tmp_path):
    seen = []
    build_store(films, tmp_path / "store", size=32, on_progress=lambda *numbers: seen.append(numbers))
    assert seen[0] == (1, 4, 0)
    assert seen[-1] == (4, 4, 1)
    assert seen == sorted(seen)


# --- opening what is no store -----------------------------------------------------------------------


def refused(path, message):
    with pytest.raises(DataError, match=message):
        open_store(path)


def test_what_is_no_store_is_refused_with_the_next_step(tmp_path):
    refused(tmp_path / "none", "There is no store at .*none. Make one with: evax prepare --raw FOLDER --out")
    refused(tmp_path, "is not a store: it has no store.json")
    (tmp_path / "plan.json").write_text("{}")
    refused(tmp_path, "is unfinished: run the same evax prepare again, it goes on")


@pytest.fixture
def copy(phantom_store, tmp_path):
    return shutil.copytree(phantom_store, tmp_path / "copy")


def test_a_store_of_another_format_is_refused(copy):
    card = json.loads((copy / "store.json").read_text())
    (copy / "store.json").write_text(json.dumps(card | {"format": 99}))
    refused(copy, "has store format 99, this evax reads 1 and 2: prepare it again")


def test_a_store_that_lacks_a_shard_or_whose_copy_broke_off_is_refused(copy):
    shard = copy / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-5000])
    refused(copy, r"shard-00000.arrow is damaged \(.*\): copy the store again or prepare it anew")
    shard.write_bytes(b"")
    refused(copy, r"shard-00000.arrow is damaged")
    shard.unlink()
    refused(copy, "lacks shard-00000.arrow: copy it again or prepare it anew")


def test_a_damaged_card_is_named(copy):
    (copy / "store.json").write_text("{")
    refused(copy, "store.json cannot be read as JSON")


# --- several shards ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """1,100 tiny images, three shards' worth; the shard in the middle has no readable image at all."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(1100):
        path = folder / f"{number:04}.png"
        if 512 <= number < 1024:
            path.write_bytes(b"")
        else:
            Image.fromarray(np.full((16, 16), number % 251, np.uint8)).save(path, compress_level=0)
    manifest = assign_splits(read_source("folders", folder, {}), validation=0.1, test=0.2, seed=0)
    build_store(manifest, folder / "store", size=16)
    return manifest, folder / "store"


def test_images_of_all_shards_are_found_and_a_shard_without_images_does_no_harm(many):
    store = open_store(many[1])
    names = store.manifest.table["image"]
    assert len(store) == 512 + 76
    assert [int(store.pixels(row)[3, 3]) for row in range(len(store))] == [int(n[:4]) % 251 for n in names]
    assert store.card["rejected"] == 512
    with pytest.raises(IndexError):
        store.pixels(len(store))


@pytest.mark.parametrize("lost", ["store.json", "shard-00002.arrow", "shard-00000.arrow"])
def test_a_build_that_broke_off_anywhere_ends_in_the_same_store(many, tmp_path, lost):
    manifest, path = many
    whole = {file.name: file.read_bytes() for file in path.iterdir()}
    broken = shutil.copytree(path, tmp_path / "store")
    (broken / "store.json").unlink()
    (broken / "rejected.csv").unlink()
    (broken / lost).unlink(missing_ok=True)
    refusals = [f"{number:04}.png" for number in range(512, 1024)]
    for number in range(3):
        reasons = [(n, f"{n} is empty (0 bytes): copy it again from its source.") for n in refusals]
        (broken / f"rejected-{number:05}.json").write_text(json.dumps(reasons if number == 1 else []))
    build_store(manifest, broken, size=16)
    assert {file.name: file.read_bytes() for file in broken.iterdir()} == whole


def anonymous_bytes():
    """Memory of this process that is no file's: what the system cannot drop."""
    status = Path("/proc/self/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="asks Linux for the memory")
def test_images_that_are_shown_stay_in_their_file(copy):
    shard = copy / "shard-00000.arrow"
    films = pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
    names = pa.array([f"{number}.png" for number in range(100 * len(films))])
    column = films.schema.get_field_index("image")
    many = pa.concat_tables([films] * 100).set_column(column, "image", names).combine_chunks()
    with pa.OSFile(str(shard), "wb") as file, pa.ipc.new_file(file, many.schema) as writer:
        writer.write_table(many, max_chunksize=len(many))
    card = json.loads((copy / "store.json").read_text())
    del card["table_digests"]
    (copy / "store.json").write_text(json.dumps(card | {"films": len(many)}))
    del films, many, names
    store = open_store(copy)
    chosen = Films([(store, np.arange(len(store)))])
    crops = {"batch_size": 100, "size": 32, "crop": CropConfig(), "seed": 0, "workers": 1}
    next(training_batches(chosen, steps=range(1), **crops))  # threads and libraries are there
    before = anonymous_bytes()
    for _ in training_batches(chosen, steps=range(len(store) // 100), **crops):
        pass
    assert len(store.digests(np.arange(len(store)))) == len(store)
    shown = len(store) * store.size**2
    assert shown > 40e6
    assert anonymous_bytes() - before < shown / 5

"""A damaged store ends in a sentence when it is opened, or changes nothing that is read from it."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from evax.data import building
from evax.data.building import build_store
from evax.data.manifest import BOX_COLUMNS, MASK_COLUMNS, Manifest
from evax.data.store import open_store
from evax.errors import DataError

SHARD = "shard-00001.arrow"
VALUES = [
    None, True, -1, 0, 3, 10**12, 0.5, math.nan, "x", "", [], ["x"], [None], ["a", "a"], [1], {}, {"a": "b"},
]  # fmt: skip


def store_in(folder, seed):
    """Six images in three shards, with labels, boxes and masks."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    names = [f"{number}.png" for number in range(6)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(folder / name)
    Image.fromarray(np.eye(20, dtype=np.uint8) * 255).save(folder / "mask.png")
    table = pd.DataFrame({"image": names, "patient": [f"p{seed}{name}" for name in names], "study": ""})
    table = table.assign(view="PA", sex="", age=np.nan, split=["train", "val", "test"] * 2)
    boxes = [(name, "Mass", 0.1, 0.2, 0.3, 0.4) for name in names[::2]]
    masks = [(name, "Mass", "mask.png", "") for name in names[1:]]
    manifest = Manifest(
        table=table.assign(Mass=rng.random(6).round()), findings=("Mass",), exclusive=False, source="csv",
        root=folder, boxes=pd.DataFrame(boxes, columns=list(BOX_COLUMNS)),
        masks=pd.DataFrame(masks, columns=list(MASK_COLUMNS)),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "SHARD_FILMS", 2)
        return build_store(manifest, folder / "store", size=24).path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return store_in(tmp_path_factory.mktemp("whole") / "a", 0)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return store_in(tmp_path_factory.mktemp("other") / "b", 1)


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "store")


def content(path):
    """Everything that is read from a store, but for its pictures; and that they can be read."""
    store = open_store(path)
    for row in range(len(store)):
        assert store.pixels(row).shape == (store.size, store.size)
        store.masks(row)
    for finding in store.mask_findings():
        store.masked_rows(finding)
    store.digests(np.arange(len(store)))
    table, boxes = store.manifest.table.to_csv(), store.manifest.boxes.to_csv()
    return store.measured, table, boxes, store.manifest.findings, store.rows("test").tolist()


def refusal(path, before=None):
    """The sentence that refuses the store, or "" where it is opened and holds what it held before."""
    try:
        after = content(path)
    except DataError as error:
        return str(error)
    assert before is None or after == before
    return ""


def test_a_wrong_entry_of_the_card_is_named_when_the_store_is_opened(copy):
    path = copy / "store.json"
    card = json.loads(path.read_text())
    told = []
    for name in card:
        for value in [*VALUES, "missing"]:
            damaged = {key: kept for key, kept in card.items() if key != name}
            path.write_text(json.dumps(damaged if value == "missing" else damaged | {name: value}))
            told.append(refusal(copy))
    assert sum(map(bool, told)) > 200
    assert all(str(copy) in text for text in told if text)
    for text in ("", "[]", "null", '"x"', "{}", '{"format": 1}', "{", "\x00", "[" * 50):
        path.write_text(text)
        with pytest.raises(DataError, match=r"store\.json|store format None"):
            open_store(copy)


def test_damaged_bytes_of_a_shard_are_refused_or_change_pictures_only(copy, whole):
    before = content(whole)
    path, rng = copy / SHARD, np.random.default_rng(7)
    good = path.read_bytes()
    told = []
    for number in range(160):
        damaged = bytearray(good)
        at = int(rng.integers(len(good)))
        if number % 4 == 0:
            del damaged[at:]
        elif number % 4 == 1:
            damaged[at : at + 40] = bytes(40)
        elif number % 4 == 2:
            damaged[at : at + 8] = rng.bytes(8)
        else:
            for place in rng.integers(len(good), size=20):
                damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        told.append(refusal(copy, before))
    assert sum(map(bool, told)) > 80
    assert all(str(copy) in text for text in told if text)


def rewritten(path, change):
    """The shard as it would be with another table."""
    with pa.OSFile(str(path)) as file:
        table = change(pa.ipc.open_file(file).read_all())
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1 if table.num_columns == 0 else None)


def replaced(table, name, values):
    return table.set_column(table.column_names.index(name), name, values)


MASKS = pa.list_(pa.struct([("finding", pa.string()), ("bits", pa.large_binary())]))
CHANGES = {
    "no column": lambda table: table.drop_columns(["split"]),
    "no pixels": lambda table: table.drop_columns(["pixels"]),
    "no masks": lambda table: table.drop_columns(["masks"]),
    "two columns": lambda table: table.append_column("image", table["image"]),
    "texts as numbers": lambda table: replaced(table, "patient", pa.array([1.0] * len(table))),
    "a null": lambda table: replaced(table, "view", pa.array([None] * len(table), pa.string())),
    "labels as texts": lambda table: replaced(table, "Mass", pa.array(["1"] * len(table))),
    "another type of pixels": lambda table: replaced(table, "pixels", table["pixels"].cast(pa.binary())),
    "short pixels": lambda table: replaced(table, "pixels", pa.array([b"x"] * len(table), pa.large_binary())),
    "pixels of one side": lambda table: replaced(
        table, "pixels", pa.array([bytes(24**2 - 1), bytes(24**2 + 1)], pa.large_binary())
    ),
    "boxes as texts": lambda table: replaced(table, "boxes", pa.array([["x"]] * len(table))),
    "short masks": lambda table: replaced(
        table, "masks", pa.array([[{"finding": "Mass", "bits": b"x"}]] * len(table), MASKS)
    ),
    "masks without names": lambda table: replaced(
        table, "masks", pa.array([[{"finding": None, "bits": bytes(72)}]] * len(table), MASKS)
    ),
    "rows twice": lambda table: pa.concat_tables([table, table]),
    "a row less": lambda table: table.slice(1),
    "no rows": lambda table: table.slice(0, 0),
    "another patient": lambda table: replaced(table, "patient", pa.array(["p"] * len(table))),
    "another label": lambda table: replaced(table, "Mass", pa.array([-1.0] * len(table), pa.float32())),
}  # fmt: skip


@pytest.mark.parametrize("digests", [True, False], ids=["card of today", "card of before"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_with_another_table_than_the_card_says_is_refused(copy, change, digests):
    if not digests:
        card = json.loads((copy / "store.json").read_text())
        del card["table_digests"]
        (copy / "store.json").write_text(json.dumps(card))
    rewritten(copy / SHARD, CHANGES[change])
    if change.startswith("another") and not digests and "pixels" not in change:
        assert len(open_store(copy)) == 6  # nothing contradicts it
        return
    with pytest.raises(DataError, match=r"Copy the store again or prepare it anew|listed twice"):
        open_store(copy)


def test_another_store_s_shard_or_a_shard_in_another_s_place_is_refused(copy, other):
    good = (copy / SHARD).read_bytes()
    for source in (other / SHARD, copy / "shard-00002.arrow"):
        shutil.copy(source, copy / SHARD)
        message = f"table in .*{SHARD} is not the one of store.json, but maybe another"
        with pytest.raises(DataError, match=message):
            open_store(copy)
    (copy / SHARD).write_bytes(good)
    open_store(copy).check_pictures()


def test_other_pictures_than_were_prepared_are_found_when_all_are_read(copy):
    def darker(table):
        return replaced(table, "pixels", pa.array([bytes(24**2)] * len(table), pa.large_binary()))

    rewritten(copy / SHARD, darker)
    store = open_store(copy)
    message = f"pictures in .*{SHARD} are not those of store.json. Copy the store again"
    with pytest.raises(DataError, match=message):
        store.check_pictures()


def test_a_damaged_shard_of_an_interrupted_build_is_named(copy, whole):
    (copy / "store.json").unlink()
    (copy / SHARD).write_bytes((copy / SHARD).read_bytes()[:-900])
    for number in range(3):
        (copy / f"rejected-{number:05}.json").write_text("[]")
    card = json.loads((whole / "store.json").read_text())
    manifest = open_store(whole).manifest
    with pytest.raises(DataError, match=f"{SHARD} is damaged"):
        building._finish(manifest, copy, {"format": card["format"]}, 3, 24, "")

"""5 000 damaged images, masks, boxes, lists and tables: prepare ends, keeps what is readable and says why it
refused the rest.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from tests.picture_files import png, tiff
from tests.releases import RELEASES, dicom, with_files, written

from evax.data.masks import read_mask
from evax.data.pictures import read_image
from evax.data.preprocess import Preprocess
from evax.data.sources import list_source
from evax.data.sources.own.coco import read_coco
from evax.data.sources.own.csv import read_csv
from evax.data.split import follow_lists
from evax.data.workers import ImageFiles, StoredImage, read_one_image
from evax.errors import DataError
from evax.jobs.prepare import prepare
from evax.options.data import PrepareConfig

PICTURES, MASKS, DICOMS, TABLES, COCO_FILES, BOX_TABLES, LISTS = 1500, 500, 1500, 700, 300, 200, 300  # 5 000
RELEASE_TABLES = 100  # for each release
SECONDS_PER_FILE = 3.0
STANDARD_FILES = (  # of pydicom's own test set: one per compression
    "JPEG2000.dcm", "JPEG-lossy.dcm", "JPGExtended.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm",
    "image_dfl.dcm", "MR_small_bigendian.dcm", "OBXXXX1A.dcm",
)  # fmt: skip
TABLE = "image,patient,sex,age,view,split,Effusion,Mass\n" + "".join(
    f"{name}.png,{name},F,0{age},PA,train,1,-1\n" for name, age in (("a", 41), ("b", 52), ("c", 63))
)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four faults: flipped bytes, a run of one value, a cut, a stretch doubled or moved, noise."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        # half of the faults fall in the first 512 bytes, where lengths and sizes are
        reach = min(len(data), 512) if rng.random() < 0.5 else len(data)
        if reach < 2:
            break
        start = int(rng.integers(reach))
        end = min(len(data), start + int(rng.integers(1, 64)))
        match rng.integers(6):
            case 0:
                data[start] = int(rng.integers(256))
            case 1:
                data[start:end] = bytes([int(rng.choice([0, 0x7F, 0x80, 0xFF]))]) * (end - start)
            case 2:
                del data[start:]
            case 3:
                data[start:start] = data[start:end]
            case 4:
                del data[start:end]
            case _:
                data[start:end] = rng.bytes(end - start)
    return bytes(data)


def encoded(pixels, kind, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def pictures(folder) -> list[bytes]:
    grey = (np.add.outer(np.arange(48), np.arange(40)) * 2).astype(np.uint8)
    deep, white = grey.astype(np.uint16) * 250, np.where(grey > 90, 255, 0).astype(np.uint8)
    part, colours = (grey / 255).astype(np.float32), np.dstack([deep] * 3)
    by_hand = [
        png(folder / "rgb", colours),
        png(folder / "la", np.dstack([deep, deep])),
        tiff(folder / "rgb.tif", colours, photometric=2),
        tiff(folder / "planes.tif", colours, photometric=2, planar=2, order=">"),
        tiff(folder / "float.tif", part, compressed=True, order=">"),
    ]
    return [
        *(encoded(pixels, "PNG") for pixels in (grey, deep, np.dstack([grey] * 3))),
        encoded(grey, "JPEG"),
        encoded(np.dstack([grey] * 3), "JPEG", progressive=True),
        encoded(deep, "TIFF"),
        *(encoded(white, kind) for kind in ("PNG", "JPEG")),
        encoded(np.dstack([white] * 4), "PNG"),
        encoded(grey, "TIFF", compression="tiff_lzw"),
        encoded(grey.astype(np.float32) / 255, "TIFF"),
        *(path.read_bytes() for path in by_hand),
    ]


def masks() -> list[bytes]:
    inside = np.zeros((48, 40), np.uint8)
    inside[8:30, 10:25] = 255
    colour = np.dstack([inside, inside * 0, inside * 0])
    return [
        *(encoded(pixels, "PNG") for pixels in (inside, inside > 0)),
        encoded(inside // 255, "TIFF"),
        encoded(inside.astype(np.uint16) * 257, "PNG"),
        *(encoded(pixels, "PNG") for pixels in (colour, np.dstack([colour, inside]))),
        *(encoded(inside, kind) for kind in ("BMP", "JPEG")),
    ]


ODD = (
    None, True, -1, 0, 1e308, 10**400, float("nan"), "", "../a.png", "a\0.png", "x" * 300, "\ud800", [],
    {}, [1],
)  # fmt: skip
BOXES = """image,finding,x,y,width,height
a.png,Mass,0.1,0.2,0.3,0.4
b,Effusion,0,0.0,1,1
c,Mass,0.5,0.5,0.5,0.5
"""


def odd_value(content, rng: np.random.Generator):
    """A JSON document in which one value at any depth is another one."""
    if not isinstance(content, dict | list) or not content or rng.random() < 0.1:
        return ODD[rng.integers(len(ODD))]
    keys = list(content) if isinstance(content, dict) else range(len(content))
    key = keys[int(rng.integers(len(keys)))]
    changed = content.copy()
    changed[key] = odd_value(content[key], rng)
    return changed


def dicoms(folder) -> list[bytes]:
    plain = folder / "plain.dcm"
    dicom(plain)
    paths = [plain, *(get_testdata_file(name, download=False) for name in STANDARD_FILES)]
    return [Path(path).read_bytes() for path in paths]


def check_prepared(raw, out, count, **options):
    """Runs prepare over raw; whatever cannot be read is in rejected.csv with a sentence."""
    start = time.process_time()
    prepare(PrepareConfig(raw=raw, out=out, workers=2, size=32, **options))
    assert time.process_time() - start < count * 0.1
    rejected = pd.read_csv(out / "rejected.csv", dtype=str)
    reasons = rejected["reason"]
    assert reasons.str.len().between(20, 700).all()
    assert not reasons.str.contains("Traceback").any()
    return len(rejected)


def refusals(count, read, named):
    """How many of the calls read(number) end in an error, short and matching `named`; each is quick."""
    refused = 0
    for number in range(count):
        start = time.process_time()
        try:
            read(number)
        except DataError as error:
            assert re.search(named, str(error))  # noqa: PT017
            assert len(str(error)) < 700  # noqa: PT017
            refused += 1
        assert time.process_time() - start < SECONDS_PER_FILE
    return refused


def raw_of(folder, count, suffix, originals, rng):
    """A folder of this many mutated files."""
    names = [f"{number:04d}.{suffix}" for number in range(count)]
    return with_files(
        folder, {name: mutated(originals[i % len(originals)], rng) for i, name in enumerate(names)}
    )


@pytest.mark.long
def test_mutated_pictures_are_stored_or_rejected_with_a_reason(tmp_path):
    raw_of(tmp_path / "raw" / "films", PICTURES, "png", pictures(tmp_path), np.random.default_rng(0))
    rejected = check_prepared(tmp_path / "raw", tmp_path / "store", PICTURES, source="folders")
    assert 0.2 * PICTURES < rejected < PICTURES


@pytest.mark.long
def test_images_with_mutated_masks_are_stored_or_rejected_with_a_reason(tmp_path):
    raw_of(tmp_path / "raw" / "masks", MASKS, "png", masks(), np.random.default_rng(5))
    film = pictures(tmp_path)[0]
    with_files(tmp_path / "raw" / "images", {f"{number:04d}.png": film for number in range(MASKS)})
    rejected = check_prepared(tmp_path / "raw", tmp_path / "store", MASKS, source="masks")
    assert 0.2 * MASKS < rejected < MASKS


@pytest.mark.long
def test_mutated_dicoms_are_stored_or_rejected_with_a_reason(tmp_path):
    raw = raw_of(tmp_path / "raw", DICOMS, "dcm", dicoms(tmp_path), np.random.default_rng(1))
    assert check_prepared(raw, tmp_path / "store", DICOMS, source="dicom") > 0.1 * DICOMS


def check_boxes(manifest):
    """Boxes lie in their images, and every image is read or rejected with a sentence."""
    corners = manifest.boxes[["x", "y", "width", "height"]].to_numpy(dtype=float)
    assert (corners >= 0).all()
    assert (corners[:, :2] + corners[:, 2:] <= 1 + 1e-6).all()
    for image in manifest.table["image"]:
        film = ImageFiles(manifest.root / image, manifest.root, drawn_on=manifest.drawn_on.get(image))
        answer = read_one_image(film, Preprocess(store_size=32))
        assert isinstance(answer, StoredImage) or 20 < len(answer) < 700


@pytest.mark.long
def test_boxes_of_mutated_coco_files_are_kept_or_refused_with_a_reason(tmp_path):
    rng, raw = np.random.default_rng(6), written("coco", tmp_path)
    whole = (raw / "annotations.json").read_bytes()

    def read(number):
        odd = json.dumps(odd_value(json.loads(whole), rng)).encode()
        (raw / "annotations.json").write_bytes(odd if number % 3 else mutated(whole, rng))
        check_boxes(read_coco(raw))

    assert 0.2 * COCO_FILES < refusals(COCO_FILES, read, rf"annotations\.json|{raw.name}") < COCO_FILES


def three_films(folder):
    for name in "abc":
        Image.new("L", (8, 8)).save(folder / f"{name}.png")
    return with_files(folder, {"labels.csv": TABLE})


@pytest.mark.long
def test_mutated_tables_of_boxes_are_kept_or_refused_with_a_reason(tmp_path):
    rng, raw = np.random.default_rng(7), three_films(tmp_path)

    def read(_):
        (raw / "boxes.csv").write_bytes(mutated(BOXES.encode(), rng))
        check_boxes(read_csv(raw))

    assert 0.2 * BOX_TABLES < refusals(BOX_TABLES, read, rf"boxes\.csv|{raw.name}") < BOX_TABLES


@pytest.mark.long
def test_mutated_tables_are_read_or_refused_with_a_reason(tmp_path):
    rng, raw = np.random.default_rng(3), three_films(tmp_path)

    def read(_):
        (raw / "labels.csv").write_bytes(mutated(TABLE.encode(), rng))
        manifest = read_csv(raw)
        labels = manifest.table[list(manifest.findings)].to_numpy(dtype=float)
        assert np.isin(labels[~np.isnan(labels)], (-1, 0, 1)).all()

    assert 0.2 * TABLES < refusals(TABLES, read, rf"labels\.csv|\.png|{raw.name}") < TABLES


@pytest.mark.long
def test_mutated_lists_are_followed_or_refused_with_a_reason(tmp_path):
    rng, lists = np.random.default_rng(8), tmp_path / "lists"
    manifest = list_source("masks", written("masks", tmp_path / "raw"), {})
    lists.mkdir()
    names = "".join(f"{image} 1 0\n" for image in manifest.table["image"]).encode()

    def read(number):
        packed = number % 2 == 1
        path = lists / ("train.txt.gz" if packed else "train.txt")
        path.write_bytes(mutated(gzip.compress(names) if packed else names, rng))
        try:
            assert set(follow_lists(manifest, lists).table["split"]) == {"train"}
        finally:
            path.unlink()

    assert 0.1 * LISTS < refusals(LISTS, read, "lists") < LISTS


@pytest.mark.long
def test_no_mutated_image_takes_long_to_read_or_has_its_values_quoted(tmp_path, recwarn):
    rng, originals = np.random.default_rng(2), [*pictures(tmp_path), *dicoms(tmp_path)]
    path = tmp_path / "film"

    def read(number):
        path.write_bytes(mutated(originals[number % len(originals)], rng))
        pixels = read_image(path).pixels
        assert pixels.min() >= 0
        assert pixels.max() <= 1

    refusals(1000, read, re.escape(str(path)))
    assert not [warning for warning in recwarn if "Invalid value for VR" in str(warning.message)]


@pytest.mark.long
def test_no_mutated_mask_takes_long_and_each_is_a_region_or_refused_by_its_name(tmp_path):
    rng, originals = np.random.default_rng(9), [*masks(), *pictures(tmp_path)]
    path = tmp_path / "mask"

    def read(number):
        path.write_bytes(mutated(originals[number % len(originals)], rng))
        assert read_mask(path).dtype == bool

    assert 0.2 * MASKS < refusals(MASKS, read, re.escape(str(path))) < MASKS


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in RELEASES if name not in ("lungs", "masks", "merged_520k")])
def test_a_release_with_a_mutated_table_is_listed_or_refused_with_a_reason(name, tmp_path):
    rng, raw = np.random.default_rng(4), written(name, tmp_path)
    tables = [path for path in sorted(raw.rglob("*")) if path.suffix in (".csv", ".txt", ".json", ".gz")]
    for number in range(RELEASE_TABLES):
        path = tables[number % len(tables)]
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, rng))
        with contextlib.suppress(DataError):
            assert len(list_source(name, raw, {}).table)
        path.write_bytes(whole)

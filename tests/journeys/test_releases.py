"""Every source, the releases of the paper among them: official layout -> store -> one pre-training step."""

from __future__ import annotations

import json

import numpy as np
import pytest

import evax
from evax.cli import run
from evax.data.sources import SOURCES
from evax.jobs.pretrain import PretrainConfig, pretrain
from releases import RELEASES, written

# without these a few films would all fall into one split by their patients' names
DIVIDED = ["--validation", "0.1", "--test", "0.1"]
MASKED = {"csv", "siim", "rsna", "shenzhen", "lungs", "masks"}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("releases")
    raws = {name: written(name, folder / "raw" / name) for name in RELEASES}
    raws["dicom"] = raws["folders"] = raws["rsna"] / "stage_2_train_images"
    raws["csv"] = written("masks", folder / "raw" / "csv")
    films = sorted(path.name for path in (raws["csv"] / "images").iterdir())
    (raws["csv"] / "labels.csv").write_text("image,patient\n" + "".join(f"{film},{film}\n" for film in films))
    made = {}
    for name, raw in raws.items():
        made[name] = folder / name
        options = ["--source", name, "--raw", str(raw), "--out", str(made[name]), *DIVIDED]
        assert run(["prepare", *options, "--size", "32", "--workers", "1"]) == 0
    return made


def test_every_source_of_the_table_makes_its_journey(stores):
    assert set(stores) == set(SOURCES)


def test_every_film_of_every_release_is_in_its_store(stores):
    for path in stores.values():
        store = evax.open_store(path)
        assert store.card["rejected"] == 0
        assert len(store) >= 2
        assert np.ptp(store.pixels(0)) > 50


def test_the_stores_of_the_segmentation_sets_have_masks(stores):
    for name, path in stores.items():
        store = evax.open_store(path)
        masks = [store.masks(row) for row in range(len(store))]
        assert any(masks) == (name in MASKED), name
        assert all(mask.shape == (32, 32) for of_film in masks for mask in of_film.values())


def test_the_pieces_of_a_film_are_one_mask_in_the_store(stores):
    store = evax.open_store(stores["shenzhen"])
    (row,) = store.masked_rows("Tuberculosis")
    masks = store.masks(row)
    assert set(masks) == {"Tuberculosis", "Small Infiltrate (non-linear)", "Effusion"}
    np.testing.assert_array_equal(
        masks["Tuberculosis"], masks["Small Infiltrate (non-linear)"] | masks["Effusion"]
    )
    assert masks["Small Infiltrate (non-linear)"][:8, :8].all()
    assert masks["Small Infiltrate (non-linear)"][:8, 16:24].all()
    store = evax.open_store(stores["rsna"])
    boxed = store.masks(store.masked_rows("Pneumonia")[0])["Pneumonia"]
    assert boxed[:16, :16].all()
    assert boxed[16:24, 8:12].all()
    assert boxed.sum() == 16 * 16 + 8 * 4


def test_one_step_of_pre_training_sees_the_films_of_all_releases(stores, tmp_path):
    films = sum(len(evax.open_store(path).rows("train", "val")) for path in stores.values())
    pretrain(
        PretrainConfig(
            stores=tuple(stores.values()), out=tmp_path / "run", image_size=32, batch_size=films, epochs=1,
            workers=1, compile="off",
        )
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["steps"] == 1
    assert report["images"] == films
    assert np.isfinite(report["final_cosine"])


def test_verify_names_every_difference_before_anything_is_decoded(tmp_path, capsys, caplog):
    raw = written("covidx9a", tmp_path / "raw")
    (raw / "train" / "c.png").unlink()
    (raw / "train" / "x.png").write_bytes(b"")
    (raw / "train" / "other.png").write_bytes(b"no list names it")
    options = ["--source", "covidx9a", "--raw", str(raw), "--out", str(tmp_path / "store"), "--verify"]
    assert run(["prepare", *options]) == 1
    said = capsys.readouterr().err
    assert "1 files: train/other.png that no table of covidx9a names; they are not used." in caplog.text
    lines = said[said.index("evax prepare: ") :].splitlines()
    assert lines[0] == f"evax prepare: {raw} differs from covidx9a in 7 ways:"
    assert lines[1] == (
        "  train films: the tables list 4, published are 30,130 (train_COVIDx9A.txt and test_COVIDx9A.txt)"
    )
    assert lines[-2:] == [
        "  missing: 1 files: train/c.png",
        "  unreadable: 1 files: train/x.png (empty)",
    ]
    assert not (tmp_path / "store").exists()


def test_a_release_that_passes_verify_is_prepared(tmp_path):
    raw, lists = written("lungs", tmp_path / "raw"), tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("film_0\nfilm_1\nfilm_2\nfilm_3\n")
    (lists / "test.txt").write_text("film_5\n")
    options = ["--source", "lungs", "--raw", str(raw), "--out", str(tmp_path / "store"), *DIVIDED]
    options += ["--verify", "--lists", str(lists), "--size", "16", "--workers", "1"]
    assert run(["prepare", *options]) == 0
    store = evax.open_store(tmp_path / "store")
    assert len(store) == 5
    assert list(store.manifest.table["image"].iloc[store.rows("test")]) == ["Test/Images/film_5.png"]
    assert store.card["split"] == "by patient, seed 0, validation 0.1, test 0.1 or the lists of lists"
    assert store.card["masks"] == {"Lung": 5}

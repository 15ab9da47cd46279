"""The paper's corpus through the command line: three releases -> one store -> one pre-training step."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

import evax
from evax.cli import run
from evax.jobs.pretrain import PretrainConfig, pretrain
from evax.published import MERGED_520K_MEAN, MERGED_520K_STD
from releases import written


@pytest.fixture
def raw(tmp_path):
    return written("merged_520k", tmp_path / "raw")


def prepared(raw, out, recipe, *options):
    arguments = ["--recipe", f"corpora/{recipe}", "--raw", str(raw), "--out", str(out), "--workers", "1"]
    assert run(["prepare", *arguments, *options]) == 0
    return evax.open_store(out)


def test_the_corpus_is_one_store_that_pre_training_reads_whole(raw, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        store = prepared(raw, tmp_path / "corpus", "merged_520k")
    assert store.size == 336
    assert len(store) == len(store.rows("train")) == 8  # one listed film is not on the disk
    assert set(store.manifest.table["image"].str.partition("/")[0]) == {
        "chestxray14",
        "chexpert",
        "mimic_cxr",
    }
    assert store.card["left_out"]["official test list of ChestX-ray14"] == 1

    films = np.stack([store.pixels(row) for row in range(len(store))]) / 255
    assert (store.mean, store.std) == pytest.approx((films.mean(), films.std()), abs=1e-9)
    assert (
        f"Pixels: mean {store.mean:.8f}, standard deviation {store.std:.8f} "
        f"(published: {MERGED_520K_MEAN}, {MERGED_520K_STD})."
    ) in caplog.text

    encoder = pretrain(
        PretrainConfig(
            stores=(tmp_path / "corpus",), out=tmp_path / "run", image_size=32, batch_size=8, epochs=1,
            workers=1, compile="off",
        )
    )  # fmt: skip
    assert json.loads((tmp_path / "run" / "report.json").read_text())["images"] == 8
    card = json.loads((encoder / "card.json").read_text())
    assert card["preprocess"]["mean"] == pytest.approx(store.mean)


def test_lists_make_a_smaller_corpus_and_one_of_other_films_is_not_continued(raw, tmp_path, capsys):
    lists, out = tmp_path / "lists", tmp_path / "clean"
    lists.mkdir()
    (lists / "test.txt").write_text("00000001_000.png\n")
    without = ["--recipe", "corpora/merged_520k_clean", "--raw", str(raw), "--out", str(out)]
    assert run(["prepare", *without]) == 1
    assert "This recipe needs --tested LISTS" in capsys.readouterr().err
    store = prepared(raw, out, "merged_520k_clean", "--tested", str(lists), "--size", "32")
    assert len(store) == 6
    assert store.card["left_out"]["tested by test.txt"] == 1
    options = ["--recipe", "corpora/merged_520k", "--raw", str(raw), "--out", str(out), "--size", "32"]
    assert run(["prepare", *options]) == 1
    assert "already holds something else" in capsys.readouterr().err


def test_verify_compares_the_releases_together(raw, tmp_path, capsys, caplog):
    (raw / "chexpert" / "train" / "patient00001" / "study1" / "view1_frontal.jpg").write_bytes(b"")
    (raw / "mimic_cxr" / "files" / "p10" / "more.jpg").write_bytes(b"")
    options = ["--source", "merged_520k", "--raw", str(raw), "--out", str(tmp_path / "store"), "--verify"]
    assert run(["prepare", *options]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "1 files: mimic_cxr/files/p10/more.jpg that no table of merged_520k names" in caplog.text
    assert lines[-3:] == [
        "  films listed: the tables list 14, published are 712,878 (the three releases together, whatever is "
        "left out)",
        "  missing: 1 files: chestxray14/images/00000003_000.png",
        "  unreadable: 1 files: chexpert/train/patient00001/study1/view1_frontal.jpg (empty)",
    ]

"""Bundles that come with evax: found by name, the default on the command line, refused on their own images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import evax
from evax.boxed import boxed_names, located
from evax.config import command_line, parse_command_line
from evax.deploy.bundle import check_test_unseen, read_card, read_seen, seen_images
from evax.errors import ConfigError, DataError
from evax.jobs.prepare import prepare
from evax.options import config_class
from evax.options.adaptation import FinetuneConfig
from evax.options.data import PrepareConfig
from evax.options.results import ZooConfig

TINY, NAME = "eva_x_tiny_patch16_224", "evax_tiny_open"
STARTING = ("finetune", "fewshot", "crossvalidate", "probe", "segment")


def parsed(command, *words):
    return parse_command_line(config_class(command), ["store", "--out", "run", *words], f"evax {command}")


@pytest.mark.parametrize("command", STARTING)
def test_the_command_line_starts_eva_x_tiny_from_the_boxed_encoder_unless_told_otherwise(command):
    assert parsed(command).weights == Path(NAME)
    assert parsed(command, "--weights", "none").weights is None
    assert parsed(command, "--weights", "other.safetensors").weights == Path("other.safetensors")


@pytest.mark.parametrize("command", STARTING)
def test_another_encoder_must_name_its_weights_or_none(command):
    with pytest.raises(ConfigError, match="No weights for resnet50 come with evax.*--weights none"):
        parsed(command, "--encoder", "resnet50")
    assert parsed(command, "--encoder", "resnet50", "--weights", "none").weights is None


def test_python_and_old_recipes_stay_random(tmp_path):
    assert FinetuneConfig(store="store", out="run").weights is None
    recipe = tmp_path / "config.yaml"
    recipe.write_text("store: store\nweights: null\n")
    assert (
        parse_command_line(FinetuneConfig, ["--recipe", str(recipe), "--out", "run", "store"], "x").weights
        is None
    )


@pytest.mark.parametrize("words", [(), ("--weights", "none"), ("--weights", "w.safetensors")])
def test_the_written_command_repeats_the_weights(words):
    config = parsed("finetune", *words)
    _, command, *rest = command_line("finetune", config).split()
    assert parse_command_line(config_class(command), rest, "evax").weights == config.weights


def test_a_name_opens_the_encoder_and_an_existing_path_goes_before_it(tmp_path, monkeypatch):
    encoder = evax.create_encoder(TINY, weights=NAME)
    again = evax.create_encoder(TINY, weights=located(Path(NAME)))
    image = torch.randn(1, 1, 128, 128)
    with torch.inference_mode():
        assert torch.equal(encoder.eval().encode(image).patches, again.eval().encode(image).patches)
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    assert located(Path(NAME)) == Path(NAME)


def test_features_of_a_png_without_any_option_offline(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 180), np.uint8)).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "evax", "embed", "a.png", "--out", "features.parquet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    feature = pq.read_table(tmp_path / "features.parquet")["feature"].to_pylist()[0]
    expected = evax.open_bundle(NAME)(evax.read_image(tmp_path / "a.png"))
    assert feature == pytest.approx(expected.tolist(), rel=0.05, abs=0.02)  # bf16 where it is faster


def test_zoo_lists_and_describes_and_copies_it(tmp_path):
    assert NAME in evax.zoo(ZooConfig(action="list"))
    assert "CC BY 4.0" in evax.zoo(ZooConfig(action="list", source=NAME))
    copy = evax.zoo(ZooConfig(action="fetch", source=NAME, out=tmp_path))
    assert read_card(copy) == read_card(Path(NAME))


def test_every_boxed_bundle_knows_its_images_and_weighs_little():
    for name in boxed_names():
        assert len(read_seen(Path(name)).films) > 4000
        assert sum(file.stat().st_size for file in located(Path(name)).iterdir()) < 12e6


@pytest.mark.real
def test_it_may_not_be_tested_on_the_images_it_learned_from(shared, tmp_path):
    # at the size of its own store and with the whole table, so that pixels and patients are recognised
    raw = shared / "kermany-pneumonia"
    rows = (raw / "labels.csv").read_text().splitlines()
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "images").symlink_to(raw / "images")
    (tmp_path / "few" / "labels.csv").write_text("\n".join([rows[0], *rows[1::26]]) + "\n")
    store = evax.open_store(prepare(PrepareConfig(raw=tmp_path / "few", out=tmp_path / "store", workers=1)))
    test = store.rows("test")
    assert not seen_images(Path(NAME), store, test).any()  # divided by patient and seed, as its own store was
    check_test_unseen(Path(NAME), store, test)
    with pytest.raises(DataError, match="evax_tiny_open has learned from"):
        check_test_unseen(Path(NAME), store, store.rows("train"))

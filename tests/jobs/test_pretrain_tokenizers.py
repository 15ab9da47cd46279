import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import evax
from evax.cli import run
from evax.config import read_recipe, recipe_path, shipped_recipes
from evax.deploy.bundle import Seen, read_card, read_seen, save_seen
from evax.errors import WeightsError
from evax.jobs.pretrain import PretrainConfig, pretrain
from evax.models.tokenizers import TOKENIZERS
from teacher_files import random_timm

VIT = "timm:vit_pwee_patch16_reg1_gap_256"


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "vit.safetensors"
    save_file(random_timm(VIT.removeprefix("timm:"), img_size=64).state_dict(), path)
    return path


@pytest.fixture
def tiny(phantom_store, tmp_path, teacher_file):
    """Two steps on 32-pixel crops against a small transformer."""
    return PretrainConfig(
        stores=(phantom_store,), out=tmp_path / "run", image_size=32, batch_size=8, epochs=0.4, workers=1,
        precision="fp32", compile="off", tokenizer=VIT, tokenizer_weights=teacher_file,
    )  # fmt: skip


def losses(config):
    pretrain(config)
    lines = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


def test_every_option_of_the_tokenizer_reaches_the_run(tiny, tmp_path):
    first = losses(tiny)
    assert losses(replace(tiny, out=tmp_path / "again")) == first
    for number, change in enumerate([{"tokenizer_layer": "2"}, {"tokenizer_view": 64}]):
        assert losses(replace(tiny, out=tmp_path / str(number), **change)) != first, change


def test_another_tokenizer_cannot_take_a_run_over_but_a_moved_file_can(tiny, tmp_path, teacher_file):
    pretrain(tiny)
    report = json.loads((tiny.out / "report.json").read_text())
    assert report["tokenizer"].keys() == {"name", "layer", "view", "weights"}
    assert read_card(tiny.out / "encoder").training["tokenizer"] == report["tokenizer"]
    other = random_timm(VIT.removeprefix("timm:"), seed=9, img_size=64)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    for change in ({"tokenizer_weights": tmp_path / "other.pth"}, {"tokenizer_layer": "0"}):
        with pytest.raises(WeightsError, match=r"belongs to another run .*tokenizer.(weights|layer) was"):
            pretrain(replace(tiny, resume=True, **change))
    moved = teacher_file.rename(tmp_path / "moved.safetensors")
    pretrain(replace(tiny, resume=True, tokenizer_weights=moved))
    moved.rename(teacher_file)


def test_a_second_generation_learns_from_the_first_and_remembers_its_images(tiny, tmp_path):
    first = pretrain(tiny)
    elsewhere = np.array([1, 2, 3], np.uint64)
    save_seen(first, Seen(elsewhere, elsewhere))  # as if it had been trained on other images
    second = pretrain(replace(tiny, out=tmp_path / "second", tokenizer=str(first), tokenizer_weights=None))
    assert np.isin(elsewhere, read_seen(second).films).all()
    assert len(read_seen(second).films) > 3
    assert evax.open_bundle(second).card.training["tokenizer"]["name"] == "bundle of eva_x_tiny_patch16_224"


def test_a_wrong_tokenizer_is_one_sentence_before_anything_is_written(tiny, capsys, tmp_path):
    arguments = ["pretrain", str(tiny.stores[0]), "--out", str(tiny.out), "--image-size", "32"]
    assert run([*arguments, "--tokenizer", VIT]) == 1
    assert "needs its weights: --tokenizer-weights FILE" in capsys.readouterr().err
    (tmp_path / "text.pt").write_text("no weights")
    assert run([*arguments, "--tokenizer", VIT, "--tokenizer-weights", str(tmp_path / "text.pt")]) == 1
    assert "text.pt cannot be read as a PyTorch file" in capsys.readouterr().err
    assert not tiny.out.exists()


@pytest.mark.parametrize("recipe", [name for name in shipped_recipes() if name.startswith("tokenizers/")])
def test_the_recipes_of_the_tokenizer_study_differ_in_their_tokenizer_alone(recipe, monkeypatch):
    for name in ("MGCA", "EVA_CLIP_B", "EVA_CLIP_L", "EVA_CLIP_G"):
        monkeypatch.setenv(f"EVAX_{name}_WEIGHTS", f"{name}.pt")
    values = read_recipe(recipe_path(recipe), PretrainConfig)
    PretrainConfig(**values, stores=("store",), out="run")
    reference = read_recipe(recipe_path("tokenizers/imagenet_lite0"), PretrainConfig)
    assert values["tokenizer"] in TOKENIZERS
    assert {k: v for k, v in values.items() if "tokenizer" not in k} == {
        k: v for k, v in reference.items() if k != "tokenizer"
    }


def test_a_shipped_recipe_is_found_by_its_folder_and_name(tiny, capsys, monkeypatch):
    monkeypatch.setenv("EVAX_MGCA_WEIGHTS", "nowhere.ckpt")
    arguments = ["pretrain", str(tiny.stores[0]), "--out", str(tiny.out), "--image-size", "32"]
    assert run([*arguments, "--recipe", "tokenizers/mgca_vit_b"]) == 1
    assert "There is no weight file at nowhere.ckpt" in capsys.readouterr().err

"""The shipped recipes of pre-training: understood, true to their sources, and good for a step."""

from dataclasses import replace

import pytest

from evax.config import build, read_recipe, recipe_path, shipped_recipes
from evax.jobs.pretrain import PretrainConfig, pretrain
from pretraining_runs import events

SIZES = ("tiny", "small", "base")


def recipe(size, **given):
    values = read_recipe(recipe_path(f"pretrain/eva_x_{size}"), PretrainConfig)
    return build(PretrainConfig, values | given, "recipe")


def test_every_recipe_is_one_of_these():
    named = {name for name in shipped_recipes() if name.startswith("pretrain/")}
    assert named == {"pretrain/cpu", *(f"pretrain/eva_x_{size}" for size in SIZES)}


def test_the_recipe_for_a_cpu_needs_stores_and_a_place_only(phantom_store, tmp_path):
    values = read_recipe(recipe_path("pretrain/cpu"), PretrainConfig)
    config = build(PretrainConfig, values | {"stores": (phantom_store,), "out": tmp_path / "run"}, "recipe")
    small = replace(config, batch_size=2, epochs=0.04, workers=1, compile="off", precision="fp32")
    assert (pretrain(small) / "model.safetensors").is_file()
    assert [event["images"] for event in events(small.out, "step")] == [2]


def test_the_recipes_hold_the_published_values(tmp_path, monkeypatch):
    monkeypatch.setenv("STORES", "/merged")
    configs = [recipe(size, out=tmp_path) for size in SIZES]
    assert [config.epochs for config in configs] == [900, 600, 600]  # facts 2.1
    assert [(config.batch_size, config.optimizer.lr) for config in configs] == [
        (4000, 3e-3),
        (4000, 3e-3),
        (2048, 1.5e-3),
    ]
    for config in configs:
        assert config.mask_ratio == 0.3
        assert config.optimizer.betas == (0.9, 0.98)
        assert config.optimizer.warmup * config.epochs == pytest.approx(1, abs=1e-3)
        assert [str(store) for store in config.stores] == ["/merged/merged_520k"]


@pytest.mark.parametrize("size", ["tiny", "small", pytest.param("base", marks=pytest.mark.long)])
def test_a_recipe_runs_a_step_on_a_small_machine(size, phantom_store, tmp_path):
    config = recipe(size, out=tmp_path / "run", stores=(phantom_store,))
    small = replace(
        config, tokenizer="efficientnet_lite0", image_size=32, batch_size=2, epochs=0.04, workers=1,
        compile="off", precision="fp32",
    )  # fmt: skip
    assert (pretrain(small) / "model.safetensors").is_file()
    assert len(events(small.out, "step")) == 1

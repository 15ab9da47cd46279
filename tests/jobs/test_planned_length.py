"""Runs whose length is chosen by the time they may take."""

from dataclasses import replace

import pytest

from evax.cli import run
from evax.config import build, read_recipe
from evax.errors import ConfigError
from evax.jobs.finetune import finetune
from evax.jobs.pretrain import pretrain
from evax.options.adaptation import FinetuneConfig
from evax.options.studies import CrossvalidateConfig, FewshotConfig
from evax.runs import plan
from evax.runs.plan import Length
from pretraining_runs import events, tiny_run

TINY = "eva_x_tiny_patch16_224"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Everything is measured, but briefly, and five steps fit."""
    monkeypatch.setattr(plan, "QUICK", 0)
    monkeypatch.setattr(plan, "MEASURED", 0)
    monkeypatch.setattr(Length, "fitting", lambda seconds, around, each, *sizes: Length(5, *sizes, around))
    for room in ("pretraining", "adaptation"):
        monkeypatch.setattr(f"evax.{room}.plan.compared_sizes", lambda *asked: [(32, TINY), (64, TINY)])


@pytest.fixture
def timed(phantom_store, tmp_path):
    return tiny_run(
        phantom_store, tmp_path / "run", epochs=None, hours=0.1, precision="auto", compile="auto",
        checkpoint_every=1, probe_store=phantom_store,
    )  # fmt: skip


@pytest.fixture
def timed_finetune(phantom_store, tmp_path):
    return FinetuneConfig(
        store=phantom_store, out=tmp_path / "run", image_size=64, minutes=3, batch_size=8, validate_every=3,
        resamples=50, workers=1, label_fraction=0.5, subset="redrawn",
    )  # fmt: skip


def recipe_of(config):
    path = config.out / "config.yaml"
    return build(type(config), read_recipe(path, type(config)), str(path))


def model_in(bundle):
    return (bundle / "model.safetensors").read_bytes()


def test_the_recipe_of_a_timed_pretraining_has_its_length_and_repeats_it(timed, tmp_path, caplog):
    caplog.set_level("INFO", logger="evax")
    encoder = pretrain(timed)
    assert "Plan: 5 steps of 8 images, 40 views, 0.976 epochs of 41 images." in caplog.text
    recipe = recipe_of(timed)
    assert (recipe.hours, recipe.epochs, recipe.steps(41)) == (None, 0.9, 5)
    assert (recipe.precision, recipe.compile) in {("fp32", "off"), ("bf16", "off")}
    assert events(timed.out, "start")[0]["steps"] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert model_in(pretrain(replace(recipe, out=tmp_path / "again"))) == model_in(encoder)


@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_timed_run_that_was_killed_goes_on_with_its_length(timed, tmp_path, monkeypatch, steps_before):
    timed = replace(timed, precision="fp32", probe_store=None)  # two measurements of auto may differ
    whole = pretrain(replace(timed, out=tmp_path / "whole"))
    from evax.pretraining import loop

    step = loop.masked_image_step

    def killed(learner, batch, *more):
        if batch.step == steps_before:
            raise RuntimeError("killed")
        return step(learner, batch, *more)

    monkeypatch.setattr(loop, "masked_image_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(timed)
    monkeypatch.setattr(loop, "masked_image_step", step)
    monkeypatch.setattr("evax.pretraining.plan.estimate_step", None)  # nothing is measured again
    assert model_in(pretrain(replace(timed, resume=True))) == model_in(whole)
    assert [line["step"] for line in events(timed.out, "start")] == [0, steps_before]


def test_the_recipe_of_a_timed_finetuning_has_its_steps_and_repeats_it(timed_finetune, tmp_path):
    bundle = finetune(timed_finetune)
    recipe = recipe_of(timed_finetune)
    assert (recipe.minutes, recipe.steps, recipe.epochs) == (None, 5, None)
    assert model_in(finetune(replace(recipe, out=tmp_path / "again"))) == model_in(bundle)


@pytest.mark.parametrize(
    ("command", "length"), [("pretrain", "hours for 10 epochs"), ("finetune", "minutes for 500")]
)
def test_a_dry_run_prints_a_table_and_writes_nothing(command, length, phantom_store, tmp_path, capsys):
    words = [command, str(phantom_store), "--out", str(tmp_path / "run"), "--image-size", "64", "--dry-run"]
    assert run(words) == 0
    head, *rows, note = capsys.readouterr().out.strip().splitlines()
    assert all(
        name in head for name in ("pixels", "encoder", "images/s", length, "memory", "of matrix product")
    )
    assert [row.split()[:2] for row in rows] == [["32", TINY], ["64", TINY]]
    assert note.startswith("Matrix product: 2048 x 2048, ")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_with_a_time_says_how_much_fits(timed, timed_finetune):
    assert "epochs in 0.1 h" in pretrain(replace(timed, dry_run=True))
    assert "steps in 3 min" in finetune(replace(timed_finetune, dry_run=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pretrain STORE --hours 1 --epochs 10", "Give hours, 1, or epochs, 10, not both (--epochs None"),
        ("pretrain STORE --hours 0", "hours must be above 0, got 0.0."),
        ("pretrain STORE --hours 1 --recipe pretrain/cpu", "Give hours, 1, or epochs, 48, not both"),
        ("finetune STORE --minutes 9 --steps 5", "Give minutes, 9, or the length in steps or epochs"),
        ("finetune STORE --minutes 9 --epochs 5", "Give minutes, 9, or the length in steps or epochs"),
        ("finetune STORE --minutes -1", "minutes must be above 0, got -1.0."),
        ("finetune STORE --minutes 9 --seeds 0-4", "minutes are for a single run"),
        ("fewshot STORE --minutes 9", "minutes and dry_run are options of evax finetune: all runs"),
    ],
)  # fmt: skip
def test_two_lengths_are_refused(words, said, phantom_store, tmp_path, capsys):
    out = tmp_path / "run"
    assert run([*words.replace("STORE", str(phantom_store)).split(), "--out", str(out)]) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("kind", [FewshotConfig, CrossvalidateConfig])
def test_a_study_has_no_dry_run_that_would_train(kind, phantom_store, tmp_path):
    with pytest.raises(ConfigError, match="minutes and dry_run are options of evax finetune"):
        kind(store=phantom_store, out=tmp_path, dry_run=True)


def test_a_recipe_without_a_length_is_ten_epochs(timed):
    config = replace(timed, hours=None)
    assert config.steps(36) == replace(config, epochs=10.0).steps(36) == 45

"""Runs that go on: alone in their folder, with the options they began with, counted as one."""

import json
import logging
import shlex
import shutil
import subprocess
from dataclasses import replace

import pytest

import evax
from evax.cli import run
from evax.data.building import build_store
from evax.errors import ConfigError, DataError, WeightsError
from evax.jobs.pretrain import pretrain
from evax.options.training import OptimizerConfig
from evax.runs.log import start_run
from pretraining_runs import command_of, events, started_until_step_7, tiny_run


@pytest.fixture
def tiny(phantom_store, tmp_path):
    return tiny_run(phantom_store, tmp_path / "run")


def test_a_second_run_in_the_folder_is_refused_until_the_first_is_killed(tiny):
    config = replace(tiny, epochs=60.0, checkpoint_every=7)
    first = started_until_step_7(config, command_of(config))
    second = subprocess.run(command_of(config, "--resume"), check=False, capture_output=True, text=True)
    assert second.returncode == 1
    assert f"evax pretrain: Another run is writing {config.out}: wait for it, stop it" in second.stderr
    assert first.poll() is None
    first.kill()
    first.wait()
    steps = [line["step"] for line in events(config.out, "step")]
    assert steps == list(range(1, len(steps) + 1))
    assert not events(config.out, "resume")
    with start_run(config.out, config, resume=True):
        assert len(events(config.out, "resume")) == 1


def test_a_resumed_run_is_reported_as_the_whole_with_the_command_that_starts_it(tiny):
    config = replace(tiny, checkpoint_every=1)
    pretrain(config)
    alone = json.loads((config.out / "report.json").read_text())
    assert alone["resumed"] == 0
    log = config.out / "log.jsonl"
    kept = log.read_text().splitlines()
    kept = kept[: next(i for i, line in enumerate(kept) if '"step": 4,' in line)]
    kept[-1] = json.dumps(json.loads(kept[-1]) | {"seconds": 5000.0})  # killed then
    log.write_text("\n".join(kept) + "\n")
    max((config.out / "checkpoints").iterdir()).unlink()
    pretrain(replace(config, resume=True, workers=2, checkpoint_every=3))
    report = json.loads((config.out / "report.json").read_text())
    assert report["resumed"] == 1
    assert 5000 < report["seconds"] < 5000 + 600
    assert report["command"] == alone["command"]
    assert "--resume" not in shlex.split(report["command"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mask_ratio": 0.4}, "--mask-ratio was 0.3, is 0.4"),
        ({"optimizer": OptimizerConfig(lr=0.01), "epochs": 2.0},
         "--epochs was 1.5, is 2.0; --optimizer.lr was 0.0015, is 0.01"),
        ({"tokenizer": "timm:efficientnet_b0"},
         "--tokenizer was efficientnet_lite0, is timm:efficientnet_b0"),
    ],
)  # fmt: skip
def test_before_its_first_checkpoint_a_run_goes_on_with_the_options_of_its_config_file_alone(
    tiny, change, said
):
    pretrain(tiny)
    shutil.rmtree(tiny.out / "checkpoints")
    before = (tiny.out / "log.jsonl").read_text()
    with pytest.raises(ConfigError, match="begun with other options") as refused:
        pretrain(replace(tiny, resume=True, **change))
    assert f"other options: {said}. It has no checkpoint yet" in str(refused.value)
    assert (tiny.out / "log.jsonl").read_text() == before
    pretrain(replace(tiny, resume=True, workers=2, checkpoint_every=3))
    assert [line["step"] for line in events(tiny.out, "start")] == [0, 0]


def test_a_checkpoint_refuses_other_options_by_name_and_value_alone(tiny):
    pretrain(tiny)
    with pytest.raises(WeightsError, match="belongs to another run") as refused:
        pretrain(replace(tiny, resume=True, optimizer=OptimizerConfig(lr=0.01, betas=(0.9, 0.9)), seed=1))
    assert (
        "(optimizer.betas was 0.9 0.98, is 0.9 0.9; optimizer.lr was 0.0015, is 0.01; seed was 0, is 1)"
        in str(refused.value)
    )
    (tiny.out / "report.json").unlink()  # killed just before it was finished
    with pytest.raises(WeightsError, match=r"belongs to another run \(seed was 0, is 1\)"):
        pretrain(replace(tiny, resume=True, seed=1))
    pretrain(replace(tiny, resume=True))  # the refused one has given the folder back


def test_a_run_goes_on_with_the_probe_store_it_was_probed_on_wherever_that_lies(
    tiny, phantom_store, phantoms, tmp_path
):
    config = replace(tiny, probe_store=phantom_store)
    pretrain(config)
    films = replace(evax.open_store(phantom_store).manifest, root=phantoms)
    other, moved = build_store(films, tmp_path / "other", size=64).path, tmp_path / "moved"
    before = (config.out / "log.jsonl").read_text()
    said = r"run was probed on another store than .*other .*Give the same --probe-store"
    with pytest.raises(ConfigError, match=said):
        pretrain(replace(config, resume=True, probe_store=other))
    assert (config.out / "log.jsonl").read_text() == before
    (config.out / "report.json").unlink()
    shutil.copytree(phantom_store, moved)
    pretrain(replace(config, resume=True, probe_store=moved))
    assert {line["probe_store"] for line in events(config.out, "probe")} == {
        evax.open_store(phantom_store).fingerprint
    }


def test_a_damaged_line_inside_the_log_refuses_to_go_on_and_says_where(tiny):
    pretrain(tiny)
    log = tiny.out / "log.jsonl"
    (tiny.out / "report.json").unlink()  # not finished yet
    first, second, *rest = log.read_text().splitlines()
    log.write_text(damaged := "\n".join([first, second[:-9], *rest]) + "\n")
    with pytest.raises(DataError, match=r"log\.jsonl, line 2, is not a JSON object"):
        pretrain(replace(tiny, resume=True))
    assert log.read_text() == damaged


def test_a_finished_run_is_said_to_be_and_stays_as_it_is(tiny, caplog):
    pretrain(tiny)
    before = {path: path.stat().st_mtime_ns for path in tiny.out.rglob("*")}
    with caplog.at_level(logging.INFO, "evax"):
        assert run([*command_of(tiny, "--resume")[3:]]) == 0
    assert f"{tiny.out} is finished: all of its" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in tiny.out.rglob("*")} == before


def test_the_weights_it_began_from_are_known_by_their_tensors_wherever_they_lie(tiny, tmp_path):
    first = pretrain(replace(tiny, epochs=0.3))
    config = replace(tiny, epochs=0.3, out=tmp_path / "second", weights=first)
    second = pretrain(config)
    (config.out / "report.json").unlink()
    shutil.copytree(first, tmp_path / "moved")
    with pytest.raises(WeightsError, match=r"belongs to another run \(weights was \w{16}, is \w{16}\)"):
        pretrain(replace(config, resume=True, weights=second))
    pretrain(replace(config, resume=True, weights=tmp_path / "moved"))

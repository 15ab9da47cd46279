"""What must not change a run: kills, damaged files, parts of a batch, recomputed activations, processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from evax.errors import ConfigError
from evax.jobs.pretrain import pretrain
from evax.pretraining.run import check_equal_parts
from evax.runs.checkpoint import checkpoint_paths
from pretraining_runs import command_of, events, losses, tiny_run


@pytest.fixture
def tiny(phantom_store, tmp_path):
    return tiny_run(phantom_store, tmp_path / "run")


def same_encoder(one, other):
    one, other = (load_file(out / "encoder" / "model.safetensors") for out in (one, other))
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_parts_of_a_batch_and_activations_computed_again_give_the_curve_of_the_whole_batch(tiny, tmp_path):
    whole = losses(tiny)
    parts = losses(replace(tiny, out=tmp_path / "parts", accumulate=4))
    assert parts == pytest.approx(whole, abs=1e-5)
    again = losses(replace(tiny, out=tmp_path / "again", grad_checkpointing=True))
    assert again == pytest.approx(whole, abs=1e-6)


def test_a_batch_that_cannot_be_cut_evenly_is_refused(tiny):
    with pytest.raises(
        ConfigError, match=r"batch_size 8 cannot be cut into 6 equal parts \(3 processes x acc"
    ):
        check_equal_parts(replace(tiny, accumulate=2), processes=3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before_to_the_same_weights(
    tiny, tmp_path, precision, caplog
):
    config = replace(tiny, precision=precision)
    pretrain(replace(config, out=tmp_path / "whole"))
    pretrain(config)
    before, newest = checkpoint_paths(config.out / "checkpoints")
    content = bytearray(newest.read_bytes())
    content[-1000] ^= 1  # one bit of a weight
    newest.write_bytes(content)
    (config.out / "report.json").unlink()  # not finished yet
    with safe_open(before, "pt") as file:
        assert ("scale" in file.metadata()["precision"]) == (precision == "fp16")
    pretrain(replace(config, resume=True, precision="auto"))  # goes on in the precision it began with
    assert "is damaged: its content is not what was written. Going on from the one before" in caplog.text
    assert [line["step"] for line in events(config.out, "start")] == [0, int(before.stem[-7:])]
    assert events(config.out, "start")[1]["precision"] == precision
    assert same_encoder(config.out, tmp_path / "whole")


def test_a_run_that_goes_on_weighs_compiling_for_all_its_steps(tiny, monkeypatch):
    weighed = []

    def weigh(module, choice, tokens, device):
        weighed.append(tokens)
        return module

    monkeypatch.setattr("evax.pretraining.loop.maybe_compile", weigh)
    pretrain(tiny)
    checkpoint_paths(tiny.out / "checkpoints")[-1].unlink()
    pretrain(replace(tiny, resume=True))
    starts = [line["step"] for line in events(tiny.out, "start")]
    assert starts[1] > starts[0]
    assert len(set(weighed)) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("precision", "compiled", "most"),
    [("fp32", "off", 4), ("bf16", "off", 4), ("fp32", "on", 1), ("bf16", "on", 1)],
)
def test_kills_at_random_moments_change_no_bit(tiny, tmp_path, precision, compiled, most):
    config = replace(tiny, epochs=12.0, checkpoint_every=3, precision=precision, compile=compiled)
    # all in processes of their own: shape checks, as in this one, are compiled along and give other bits
    subprocess.run(command_of(replace(config, out=tmp_path / "whole")), check=True, capture_output=True)
    chance = np.random.default_rng(7)
    kills = 0
    while kills < most:
        resume = ["--resume"] if (config.out / "config.yaml").is_file() else []
        before = len(events(config.out, "step")) if resume else 0
        process = subprocess.Popen(command_of(config, *resume), stderr=subprocess.DEVNULL)
        wait_for_steps(config.out, process, before + int(chance.integers(0, 12)))
        time.sleep(chance.uniform(0, 0.2))
        if process.poll() is not None:
            break  # it was finished
        process.kill()
        process.wait()
        kills += 1
    assert kills >= min(2, most)
    subprocess.run(command_of(config, "--resume"), check=True, capture_output=True)
    assert same_encoder(config.out, tmp_path / "whole")


@pytest.mark.long
def test_a_second_compiled_run_in_one_process_has_the_bits_of_the_first(tiny, tmp_path):
    config = replace(tiny, precision="bf16", compile="on")
    runs = [tmp_path / "first", tmp_path / "second"]
    commands = [command_of(replace(config, out=out))[3:] for out in runs]
    program = f"from evax.cli import run; print([run(words) for words in {commands!r}])"
    # in a process without shape checks
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.endswith("[0, 0]\n")
    assert same_encoder(*runs)


def wait_for_steps(out, process, steps):
    """Until the log has more than so many steps, or the process has ended."""
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if (out / "log.jsonl").is_file() and (out / "log.jsonl").read_text().count('"event": "step"') > steps:
            return
        time.sleep(0.02)


def torchrun(command):
    """The same command by two processes that share the work."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*launcher, *command[1:]]


@pytest.mark.long
def test_two_processes_have_the_curve_of_one_and_write_one_run(tiny, tmp_path):
    alone = losses(replace(tiny, out=tmp_path / "alone"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        torchrun(command_of(tiny, "--accumulate", "2")),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tiny.out / "encoder")
    steps = events(tiny.out, "step")
    assert [line["loss"] for line in steps] == pytest.approx(alone, abs=1e-5)
    assert [line["step"] for line in steps] == list(range(1, len(alone) + 1))
    assert [line["processes"] for line in events(tiny.out, "start")] == [2]
    assert len(checkpoint_paths(tiny.out / "checkpoints")) == 2
    again = subprocess.run(
        torchrun(command_of(tiny)), capture_output=True, text=True, check=False, env=environment
    )
    assert again.returncode == 1
    assert again.stderr.count("exists. Choose another --out") == 1


@pytest.mark.long
def test_two_processes_stop_at_the_same_step_when_one_is_asked_to(tiny):
    config = replace(tiny, epochs=60.0, checkpoint_every=10_000)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        torchrun(command_of(config)), stderr=subprocess.PIPE, text=True, env=environment
    )
    wait_for_steps(config.out, process, 5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    done = max(line["step"] for line in events(config.out, "step"))
    assert [path.stem for path in checkpoint_paths(config.out / "checkpoints")] == [f"step-{done:07d}"]

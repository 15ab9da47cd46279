"""Short pre-training runs, in this process and in others, and what they wrote."""

import json
import subprocess
import sys
import time

from evax.jobs.pretrain import PretrainConfig, pretrain


def tiny_run(store, out, **changes):
    """A run of six steps on 64-pixel crops."""
    options = {
        "image_size": 64, "batch_size": 8, "epochs": 1.5, "workers": 1, "precision": "fp32",
        "compile": "off", "checkpoint_every": 2,
    }  # fmt: skip
    return PretrainConfig(stores=(store,), out=out, **(options | changes))


def events(out, kind):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def losses(config):
    pretrain(config)
    return [line["loss"] for line in events(config.out, "step")]


def command_of(config, *more):
    """The command of such a run, for a process of its own."""
    return [
        sys.executable, "-m", "evax", "pretrain", str(config.stores[0]), "--out", str(config.out),
        "--image-size", "64", "--batch-size", "8", "--epochs", str(config.epochs), "--workers", "1",
        "--precision", config.precision, "--compile", config.compile,
        "--checkpoint-every", str(config.checkpoint_every), *more,
    ]  # fmt: skip


def started_until_step_7(config, command):
    """A process that has done seven steps."""
    log = config.out / "log.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (log.is_file() and '"step": 7' in log.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    return process

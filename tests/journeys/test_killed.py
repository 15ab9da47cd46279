"""Commands that are killed at random moments (SIGKILL) end, started again, in what a whole run gives."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import evax
from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, save_bundle
from evax.models.classifier import Classifier
from evax.models.encoders import build_encoder

pytestmark = pytest.mark.long
TINY = "eva_x_tiny_patch16_224"
KILLS = 3
FEW = (  # small parts, so that a kill falls between two of them, too
    "from evax.data import building; building.SHARD_FILMS = 8; "
    "from evax.jobs import embed; embed.PART_FILMS = 4; "
    "from evax.cli import run; "
)


def command(*words):
    return [
        sys.executable,
        "-c",
        f"import sys\nif __name__ == '__main__': {FEW}sys.exit(run({[*map(str, words)]!r}))",
    ]


def run_whole(*words):
    began = time.monotonic()
    subprocess.run(command(*words), check=True, capture_output=True)
    return time.monotonic() - began


def run_killed(seconds, seed, finished, *words, resume=()):
    """Kills the command up to KILLS times after a random share of a whole run's time, then lets it end.

    finished: the file whose presence says that nothing is left to do.
    """
    rng = np.random.default_rng(seed)
    for number in range(KILLS):
        process = subprocess.Popen(
            command(*words, *(resume if number else ())), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds * rng.uniform(0.5, 0.95))
        process.kill()
        process.wait()
        if finished.exists():
            return
    ended = subprocess.run(command(*words, *resume), check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    card = Card(
        kind="classifier",
        encoder=TINY,
        preprocess=Preprocess(store_size=96, input_size=64),
        findings=("Effusion",),
        thresholds={"Effusion": 0.0},  # every film gets its map
    )
    network = Classifier(build_encoder(TINY, img_size=64), 1)
    return save_bundle(tmp_path_factory.mktemp("bundle"), card, network)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_prepare_killed_at_any_moment_ends_in_the_same_store(phantoms, tmp_path, seed):
    words = ["prepare", "--raw", phantoms, "--size", "96", "--workers", "2", "--out"]
    seconds = run_whole(*words, tmp_path / "whole")
    run_killed(seconds, seed, tmp_path / "killed" / "store.json", *words, tmp_path / "killed")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("seed", [0, 1])
def test_predict_with_maps_killed_at_any_moment_loses_no_film_and_no_map(bundle, phantoms, tmp_path, seed):
    def words(name):
        folder = tmp_path / name
        films = phantoms / "images"
        return [
            "predict",
            bundle,
            films,
            "--heatmaps",
            folder / "maps",
            "--out",
            folder / "scores.csv",
            "--batch-size",
            "4",
        ]

    seconds = run_whole(*words("whole"))
    run_killed(seconds, seed, tmp_path / "killed" / "scores.csv", *words("killed"), resume=["--resume"])
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("seed", [0, 1])
def test_embed_killed_at_any_moment_ends_in_the_same_table(bundle, phantom_store, tmp_path, seed):
    words = ["embed", phantom_store, "--bundle", bundle, "--batch-size", "2", "--precision", "fp32", "--out"]
    seconds = run_whole(*words, tmp_path / "whole.parquet")
    out = tmp_path / "killed.parquet"
    run_killed(seconds, seed, out, *words, out)
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert len(pq.read_table(tmp_path / "whole.parquet")) == len(evax.open_store(phantom_store))

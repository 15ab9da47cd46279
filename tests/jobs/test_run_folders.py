"""A run folder has one writer to its end, a refused command leaves none, and --out may not be a file."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from bundles import random_bundle
from evax.cli import COMMANDS, run
from evax.data.store import open_store
from evax.errors import DataError
from evax.jobs.predict import predict
from evax.options.results import PredictConfig
from finished_runs import write_run

SMALL = "--image-size 64 --resamples 20 --precision fp32"
LEARNS = f"{SMALL} --compile off --steps 1 --batch-size 4 --workers 1"
CALLS = {  # command: its words but for --out
    "demo": "",
    "fetch": "phantoms --films 2",
    "prepare": "--raw RAW",
    "audit": "STORE",
    "describe": "STORE",
    "pretrain": "STORE --image-size 64 --precision fp32 --compile off",
    "finetune": f"STORE {LEARNS}",
    "embed": "STORE --bundle BUNDLE --precision fp32",
    "probe": f"STORE {SMALL}",
    "fewshot": f"STORE {LEARNS} --fractions 1 --seeds 0",
    "compare": "RUN RUN2 --repeats 0 --resamples 20",
    "crossvalidate": f"STORE {LEARNS} --folds 2",
    "segment": f"STORE {LEARNS} --decoder-width 8",
    "localize": "BUNDLE --store STORE --resamples 20",
    "predict": "BUNDLE RAW/images",
    "zoo": "fetch eva_x_tiny_mim",
}
WORK = {  # command: a function that it calls when its folder is there
    "audit": "evax.jobs.audit.compare_images",
    "describe": "evax.jobs.describe.write_statistics",
    "finetune": "evax.adaptation.classify.fit_classifier",
    "probe": "evax.adaptation.probe.image_features",
    "fewshot": "evax.adaptation.classify.fit_classifier",
    "compare": "evax.jobs.compare.rows_of",
    "crossvalidate": "evax.adaptation.classify.fit_classifier",
    "segment": "evax.adaptation.segment.fit_segmenter",
    "localize": "evax.explain.localization.Maps.pairs",
}
SECOND_WRITER = (
    "import sys; from pathlib import Path; from evax.files import FolderLock; FolderLock(Path(sys.argv[1]))"
)


@pytest.fixture(scope="module")
def things(phantoms, phantom_store, tmp_path_factory):
    """What the words of CALLS stand for."""
    folder = tmp_path_factory.mktemp("things")
    findings = open_store(phantom_store).manifest.findings
    return {
        "RAW/images": phantoms / "images",
        "RAW": phantoms,
        "STORE": phantom_store,
        "BUNDLE": random_bundle(folder / "bundle", findings),
        "RUN": write_run(folder / "run", 1.0),
        "RUN2": write_run(folder / "run2", 0.5),
    }


def call(command, things, out, more=""):
    words = [str(things.get(word, word)) for word in f"{CALLS[command]} {more}".split()]
    return run([command, *words, "--out", str(out)])


def test_every_command_that_writes_somewhere_is_looked_at():
    assert set(CALLS) == set(COMMANDS) - {"export", "recipes"}


@pytest.mark.parametrize("place", ["file", "file/in"])
@pytest.mark.parametrize("command", CALLS)
def test_an_out_that_is_a_file_or_lies_in_one_is_refused_in_a_sentence(
    command, place, things, tmp_path, capsys
):
    (tmp_path / "file").write_bytes(b"of the user")
    assert call(command, things, tmp_path / place) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"evax {command}: ")
    assert str(tmp_path / "file") in said
    assert "Choose another" in said or "choose another" in said
    assert (tmp_path / "file").read_bytes() == b"of the user"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("command", WORK)
def test_a_working_command_keeps_its_folder_to_itself_and_leaves_none_when_it_is_refused(
    command, things, tmp_path, capsys, monkeypatch
):
    module, _, name = WORK[command].rpartition(".")
    owner = (
        import_module("evax.explain.localization").Maps if module.endswith("Maps") else import_module(module)
    )
    second = list[str]()

    def refuse(*arguments, **options):
        for folder in (tmp_path / "out", *(tmp_path / "out").glob("runs/*")):
            again = subprocess.run(
                [sys.executable, "-c", SECOND_WRITER, str(folder)], capture_output=True, text=True,
                check=False, env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
            )  # fmt: skip
            second.append(again.stderr.splitlines()[-1] if again.returncode else f"{folder} was free")
        raise DataError("this cannot be done")

    monkeypatch.setattr(owner, name, refuse)
    assert call(command, things, tmp_path / "out") == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"evax {command}: this cannot be done"
    assert second
    assert [said for said in second if "Another run is writing" not in said] == []
    assert not (tmp_path / "out").exists()


def test_the_runs_of_a_sweep_of_probes_are_locked_too(things, tmp_path, monkeypatch):
    locked = []

    def refuse(config, *arguments, **options):
        locked.append((config.out / ".lock").exists())
        raise DataError("this cannot be done")

    monkeypatch.setattr("evax.adaptation.probe.probe_and_test", refuse)
    assert call("probe", things, tmp_path / "out", "--fractions 1 --seeds 0") == 1
    assert locked == [True]


def test_a_prediction_that_is_refused_makes_no_folder_for_its_pictures(things, tmp_path, monkeypatch):
    config = PredictConfig(
        bundle=things["BUNDLE"], films=(Path(things["RAW/images"]),), out=tmp_path / "x.csv",
        heatmaps=tmp_path / "maps", batch_size=1,
    )  # fmt: skip
    read = []

    def stop(path, bits):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(path)
        return "unreadable" if len(read) == 2 else import_module("evax.data.films").read_or_reason(path, bits)

    monkeypatch.setattr("evax.jobs.predict.read_or_reason", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(config)
    (tmp_path / "maps").rmdir()
    with pytest.raises(DataError, match="A stopped run has scored 2 of these images"):
        predict(config)
    assert not (tmp_path / "maps").exists()

"""What is wrong with a call is said within seconds: before torch is imported."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from evax.cli import INTERRUPTED, run
from evax.config import write_recipe
from evax.errors import DataError
from evax.files import FolderLock
from evax.jobs.demo import demo
from evax.jobs.fewshot import fewshot
from evax.options.results import DemoConfig
from evax.options.studies import FewshotConfig

PROGRAM = """
import json, sys
from evax.cli import run
statuses = [run(words) for words in json.loads(sys.argv[1])]
print(json.dumps([statuses, sorted({"torch", "timm", "matplotlib"} & set(sys.modules))]))
"""
LEARNERS = ("finetune", "probe", "fewshot", "crossvalidate")


@pytest.fixture
def used(tmp_path):
    folder = tmp_path / "used"
    folder.mkdir()
    (folder / "notes.txt").touch()
    return str(folder)


def test_a_study_or_demo_that_another_process_goes_on_with_is_left_to_it(phantom_store, tmp_path):
    config = FewshotConfig(store=phantom_store, out=tmp_path / "study", fractions=(1.0,), precision="fp32")
    config.out.mkdir()
    write_recipe(config, config.out / "config.yaml")
    before = (config.out / "config.yaml").stat().st_mtime_ns
    with FolderLock(config.out), pytest.raises(DataError, match="Another run is writing .*study: wait for"):
        fewshot(replace(config, resume=True))
    assert (config.out / "config.yaml").stat().st_mtime_ns == before
    with FolderLock(config.out), pytest.raises(DataError, match="Another run is writing .*study: wait for"):
        demo(DemoConfig(out=config.out, resume=True))
    assert [path.name for path in config.out.iterdir()] == ["config.yaml"]


def test_a_mistake_in_the_call_is_said_before_torch_is_imported(phantom_store, used, tmp_path):
    store, out = str(phantom_store), str(tmp_path / "out")
    known = json.loads((phantom_store / "store.json").read_text())["findings"][0]
    calls = {}
    for command in LEARNERS:
        calls |= {
            f"No finding of {store} is called '{known}x'. Did you mean '{known}'?": [
                command, store, "--findings", f"{known}x", "--out", out,
            ],
            f"evax {command}: The run folder {used} exists. Choose another --out": [
                command, store, "--out", used,
            ],
            f"evax {command}: There is no weight file at {tmp_path}/absent.pt.": [
                command, store, "--weights", f"{tmp_path}/absent.pt", "--out", out,
            ],
            f"evax {command}: No weight file or published weight is called 'eva_x_tny_mim'. Did you mean": [
                command, store, "--weights", "eva_x_tny_mim", "--out", out,
            ],
            f"evax {command}: mgca_resnet_50.ckpt has to be fetched by hand": [
                command, store, "--encoder", "resnet50", "--weights", "resnet50_mgca", "--out", out,
            ],
        }  # fmt: skip
    calls |= {
        " training patients, 999 were asked for": ["fewshot", store, "--counts", "999", "--out", out],
        f"evax pretrain: The run folder {used} exists": ["pretrain", store, "--out", used],
        f"There is no store at {out}": ["pretrain", out, "--out", out],
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(list(calls.values()))],
        capture_output=True, text=True, check=True,
        env={"EVAX_WEIGHTS": str(tmp_path / "weights"), "PYTHONPATH": ":".join(sys.path), "HOME": "/"},
    )  # fmt: skip
    statuses, loaded = json.loads(done.stdout)
    assert set(statuses) == {1}
    assert [said for said in calls if said not in done.stderr] == []
    assert loaded == []
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("words", "late", "sentence"),
    [
        ("compare absent other --out OUT", {"torch", "timm"}, "absent does not exist"),
        ("prepare --raw absent --out OUT", {"torch", "timm", "matplotlib"}, "There is no folder absent"),
        ("demo --out USED", {"torch", "timm", "matplotlib"}, "The run folder .* exists"),
    ],
)
def test_commands_of_results_and_stores_refuse_before_slow_imports(words, late, sentence, used, tmp_path):
    call = [{"OUT": str(tmp_path / "out"), "USED": used}.get(word, word) for word in words.split()]
    program = PROGRAM.replace('{"torch", "timm", "matplotlib"}', repr(late))
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([call])], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[1], []]
    assert re.search(sentence, done.stderr)


@pytest.mark.parametrize("command", ["finetune", "fewshot"])
def test_a_study_that_is_stopped_while_its_weights_are_fetched_leaves_no_folder(
    command, phantom_store, tmp_path, monkeypatch
):
    def stop(encoder, weights):
        raise KeyboardInterrupt

    monkeypatch.setattr("evax.weights.encoders.digest_of_weights", stop)
    call = [command, str(phantom_store), "--out", str(tmp_path / "out"), "--seeds", "0", "1"]
    assert run([*call, "--precision", "fp32"]) == INTERRUPTED
    assert not (tmp_path / "out").exists()

"""Examples of the documentation: the Python of its pages and the notebooks run, and every command parses."""

import importlib
import os
import re
import shlex
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from bundles import random_bundle
from evax.cli import COMMANDS
from evax.config import parse_command_line

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
QUICK_START = ROOT / "docs" / "quick-start.md"
PAGES = [ROOT / "README.md", QUICK_START, *sorted((ROOT / "docs" / "how-to").rglob("*.md"))]


@pytest.fixture
def project(phantoms, phantom_store, tmp_path):
    """A working directory as the README leaves it: a store, an encoder, a classifier and an image."""
    random_bundle(tmp_path / "runs/pretrain/encoder", size=224)
    random_bundle(tmp_path / "runs/finetune/bundle", ("Effusion", "Mass"), size=224, std=1e-3)
    (tmp_path / "stores").mkdir()
    for name in ("mine", "phantoms"):
        (tmp_path / "stores" / name).symlink_to(phantom_store)
    film = next(path for path in sorted(phantoms.rglob("*.dcm")))
    shutil.copy(film, tmp_path / "chest.dcm")
    return tmp_path


def test_the_python_of_the_readme_runs(project, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(project)
    names = {}
    exec(code, names)
    assert capsys.readouterr().out.startswith("(192,)\n{'Effusion': 0.")
    assert names["heatmap"].shape == names["image"].pixels.shape
    assert (names["patches"].shape, names["grid"], names["cls"].shape) == ((1, 64, 192), (8, 8), (1, 192))
    mean = names["patches"].mean(dim=1)[0].detach().numpy()
    assert np.allclose(mean, names["features"](names["image"]), atol=1e-5)


def commands_of(page):
    """(environment before, command, its words) of every evax command in the shell blocks of a page."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)).replace("\\\n", " ")
    for line in blocks.splitlines():
        found = re.search(rf"(?:^|\s)evax ({'|'.join(COMMANDS)})\b", line)
        if found and "[--" not in line:  # a synopsis is no command
            words = shlex.split(re.split(r" \$\(| &", line[found.end() :])[0], comments=True)
            yield re.findall(r"(\w+)=(\S+)", line[: found.start()]), found[1], words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_parse(page, monkeypatch):
    for environment, name, words in commands_of(page):
        for variable, value in environment:
            monkeypatch.setenv(variable, value)
        job = importlib.import_module(f"evax.jobs.{name}")
        parse_command_line(getattr(job, f"{name.capitalize()}Config"), words, f"evax {name}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_imports_from_evax_exists(page):
    for module, names in re.findall(r"from (evax[\w.]*) import ([\w, ]+)", page.read_text()):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


def test_the_commands_of_the_pages_are_found():
    assert len([command for page in PAGES for command in commands_of(page)]) > 50


def test_the_python_of_the_quick_start_runs(project, phantoms, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", QUICK_START.read_text(), re.DOTALL)
    (image,) = re.findall(r'read_image\("(.*?)"\)', code)
    (project / image).parent.mkdir(parents=True)
    shutil.copy(next(iter(sorted(phantoms.rglob("images/*.png")))), project / image)
    (project / "runs/first").symlink_to(project / "runs/finetune")
    monkeypatch.chdir(project)
    names = {}
    exec(code, names)
    assert names["heatmap"].shape == names["image"].pixels.shape


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_small_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert {output["output_type"] for output in outputs} <= {
        "display_data",
        "execute_result",
    }  # no log, no error
    assert path.stat().st_size < 400_000


def run_notebook(path, folder):
    """The outputs of a notebook that runs in a folder."""
    environment = {"PYTHONPATH": f"{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(folder)}}, kernel_name="python3"
    )
    client.execute(env=os.environ | environment)
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.long
def test_the_notebook_of_features_runs_on_a_store_and_shows_its_images(project):
    shown = run_notebook(ROOT / "docs/notebooks/features.ipynb", project)
    assert any(output.get("data", {}).get("text/plain") == "(48, 1280)" for output in shown)
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert any("nearest has it" in output.get("data", {}).get("text/plain", "") for output in shown)


@pytest.mark.long
def test_the_notebook_of_few_labels_runs_from_nothing_to_a_heat_map(tmp_path):
    shown = run_notebook(ROOT / "docs/notebooks/few-labels.ipynb", tmp_path)
    assert any("mean AUC on test" in output.get("data", {}).get("text/plain", "") for output in shown)
    assert any("'Effusion': 0." in output.get("data", {}).get("text/plain", "") for output in shown)
    assert (tmp_path / "runs/finetune/bundle/card.json").is_file()

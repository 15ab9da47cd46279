"""A source or public data set is one module: a file put into its folder is known to prepare and fetch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

import evax
from evax.data.sources import PUBLIC_SETS, SOURCES, SetName, SourceName, is_own, is_release, public_set

OWN = {"csv", "folders", "masks", "coco", "dicom"}
RELEASES = {
    "chestxray14", "chexpert", "mimic_cxr", "covidx9a", "covidx_cxr4", "siim", "rsna", "shenzhen", "lungs",
}  # fmt: skip
NEW_SET = '''
"""A set of a test."""

import numpy as np
import pandas as pd

from evax.data.manifest import Manifest
from evax.data.sources.record import PublicSet

PUBLIC_SET = PublicSet(
    what="two images of a test",
    terms="none",
    page="https://example.org",
    layout="*.png  more",
    ask="nobody",
    counts={"films": COUNT, "Nodule": 1},
    counts_from="this test",
)


def read_brandnew(raw):
    table = pd.DataFrame({"image": ["a.png", "b.png"], "patient": ["1", "2"]})
    table = table.assign(study="", view="", sex="", age=np.nan, split="train")
    table["Nodule"] = np.array([1, 0], dtype=np.float32)
    return Manifest(table=table, findings=("Nodule",), exclusive=False, source="brandnew", root=raw)
'''


def test_the_modules_in_the_folders_are_the_choices_of_the_command_line():
    assert set(SOURCES) == OWN | RELEASES | {"merged_520k"}
    assert set(PUBLIC_SETS) == RELEASES | {"hannover_covid19", "montgomery"}
    assert get_args(SourceName) == tuple(SOURCES)
    assert get_args(SetName) == ("phantoms", *PUBLIC_SETS)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_has_its_reader_and_every_release_its_record(name):
    module = import_module(SOURCES[name])
    assert callable(getattr(module, f"read_{name}"))
    assert is_release(name) == hasattr(module, "PUBLIC_SET") == (not is_own(name))


@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_a_record_says_where_a_set_is_and_which_source_reads_it(name):
    record = public_set(name)
    assert record.source in SOURCES
    assert record.page.startswith("https://")
    assert record.archives or record.ask


@pytest.fixture
def evax_with_a_new_set(tmp_path):
    """Runs evax on a copy of the package to which one file was added."""
    package = tmp_path / "code" / "evax"
    shutil.copytree(
        Path(evax.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )

    def run(*arguments, count=2):
        new = package / "data" / "sources" / "releases" / "brandnew.py"
        new.write_text(NEW_SET.replace("COUNT", str(count)))
        command = [sys.executable, "-B", "-m", "evax", *map(str, arguments)]
        place = os.environ | {"PYTHONPATH": str(package.parent)}
        return subprocess.run(command, env=place, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_one_new_file_is_a_new_data_set(evax_with_a_new_set, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "store"
    raw.mkdir()
    for name in ("a", "b"):
        Image.new("L", (24, 24), 100).save(raw / f"{name}.png")
    assert "brandnew" in evax_with_a_new_set("prepare", "--help").stdout
    fetched = evax_with_a_new_set("fetch", "brandnew").stdout
    assert "folder: RAW/  *.png  more\nthen:   evax prepare --source brandnew --raw RAW" in fetched
    prepare = ("prepare", "--source", "brandnew", "--raw", raw, "--out", out, "--size", "16", "--verify",
               "--workers", "1")  # fmt: skip
    refused = evax_with_a_new_set(*prepare, count=3)
    assert refused.returncode
    assert "films: the tables list 2, published are 3 (this test)" in refused.stderr
    done = evax_with_a_new_set(*prepare)
    assert done.returncode == 0, done.stderr
    store = evax.open_store(out)
    assert store.card["source"] == "brandnew"
    assert store.manifest.findings == ("Nodule",)
    assert store.manifest.table["image"].tolist() == ["a.png", "b.png"]

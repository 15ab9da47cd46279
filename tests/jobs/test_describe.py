"""evax describe from the command line."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from PIL import Image

import evax
from evax.cli import run
from evax.evaluation.comparison import holm
from evax.jobs.prepare import prepare
from evax.options.data import PrepareConfig
from evax.pages.sections import data_sheet


@pytest.fixture(scope="module")
def described(phantom_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("describe") / "run"
    (twin := out.parent / "twin").symlink_to(phantom_store)
    assert run(["describe", str(phantom_store), str(twin), "--out", str(out)]) == 0
    return out


def test_the_table_the_page_and_the_figures_are_there(described):
    content = json.loads((described / "statistics.json").read_text())
    assert len(content["stores"]) == 2
    assert {test["variable"] for test in content["differences"]} >= {
        "sex",
        "view",
        "age",
        "Mass",
        "image mean",
    }
    tests = content["differences"]
    assert [test["p_holm"] for test in tests] == pytest.approx(holm([test["p"] for test in tests]))
    for name in (
        "age",
        "width-of-an-image",
        "spacing-of-an-image-s-pixels",
        "share-of-images-with-a-finding",
        "mean-of-an-image-s-pixels",
    ):
        assert Image.open(described / "figures" / f"{name}.png").width > 300
        assert "<svg" in (described / "figures" / f"{name}.svg").read_text()


def test_the_csv_has_the_numbers_of_the_json(described):
    rows = list(csv.DictReader((described / "statistics.csv").open()))
    (store, *_) = json.loads((described / "statistics.json").read_text())["stores"]
    (mass,) = [r for r in rows if (r["store"], r["value"]) == (store["name"], "Mass")]
    assert int(mass["number"]) == store["findings"]["Mass"]["present"]
    assert int(mass["of"]) == 48


def test_the_page_stands_alone_and_names_no_patient(described):
    page = (described / "statistics.html").read_text()
    assert "Do the stores differ?" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "PH000" not in page


def test_one_store_has_its_own_heading_its_splits_in_order_and_says_whose_images_name_nobody(
    phantoms, tmp_path, described
):
    (raw := tmp_path / "raw").mkdir()
    for number, path in enumerate(sorted((phantoms / "images").glob("*.png"))[:6]):
        shutil.copy(path, raw / f"{number}.png")
    store = prepare(PrepareConfig(raw=raw, out=tmp_path / "store", source="folders", size=64, workers=1))
    assert run(["describe", str(store), "--out", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "statistics.html").read_text()
    assert "6 of them images or studies that name nobody" in page
    assert data_sheet("store", evax.open_store(store))["unnamed"] == 6
    assert "The store in numbers" in page
    assert "Side by side" not in page
    whole = (described / "statistics.html").read_text()
    assert "Side by side" in whole
    assert "name nobody" not in whole
    (numbers, _) = json.loads((described / "statistics.json").read_text())["stores"]
    assert list(numbers["splits"]) == ["train", "val", "test"]

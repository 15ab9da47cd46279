"""Cards, reports and runs of the first format stay readable, and newer formats are refused in a sentence.

tests/format_1 holds what the evax of November 2026 wrote of tiny runs on phantoms, JSON only.
"""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
from PIL import Image

from evax.adaptation.study import check_finished_run, make_once
from evax.config import build, read_recipe
from evax.deploy.bundle import DECISIVE, Card, read_card
from evax.errors import DataError
from evax.jobs.compare import compare
from evax.options.adaptation import FinetuneConfig
from evax.options.results import CompareConfig
from evax.pages.run import write_run_page
from evax.pages.study import write_study_page
from evax.runs.files import FORMAT, read_facts

RUNS = Path(__file__).parent / "format_1"
CARDS = sorted(RUNS.rglob("card.json"))


def copied(run, tmp_path):
    """A run folder with what is no JSON made up: no doubtful labels, black pictures."""
    folder = shutil.copytree(RUNS / run, tmp_path / run)
    (folder / "suspicious.csv").write_text("film_row,split,finding,label,score\n")
    report = json.loads((folder / "report.json").read_text())
    for place in ("overlays", "pictures"):
        for shown in report.get(place, ()):
            (folder / place).mkdir(exist_ok=True)
            Image.new("L", (8, 8)).save(folder / place / shown["picture"])
    return folder


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parts[-3])
def test_a_card_of_the_first_format_is_read_and_lacks_nothing(path):
    card = read_card(path.parent)
    written = json.loads(path.read_text())
    assert (card.kind, list(card.findings)) == (written["kind"], written["findings"])
    assert card.preprocess.to_json() == written["preprocess"]
    assert card.thresholds == written["thresholds"]
    assert card.training == written["training"]


@pytest.mark.parametrize("name", [field.name for field in fields(Card) if field.name != "format"])
@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parts[-3])
def test_a_field_that_decides_no_answer_may_come_later_and_one_that_does_is_never_guessed(
    path, name, tmp_path
):
    written = json.loads(path.read_text())
    whole = read_card(path.parent)
    del written[name]
    (tmp_path / "card.json").write_text(json.dumps(written))
    if name in DECISIVE:
        with pytest.raises(DataError, match=f"is not a readable bundle card: .*{name}"):
            read_card(tmp_path)
        return
    bare = Card(kind=whole.kind, encoder=whole.encoder, preprocess=whole.preprocess)
    assert read_card(tmp_path) == replace(whole, **{name: getattr(bare, name)})


@pytest.mark.parametrize("number", [2, 3, 0, -1, "2", None, 1.5])
def test_a_card_or_report_of_another_format_is_refused_with_both_numbers(tmp_path, number):
    for name, read in (("card.json", lambda path: read_card(path.parent)), ("report.json", read_facts)):
        written = json.loads((CARDS[0] if name == "card.json" else RUNS / "finetune/report.json").read_text())
        (tmp_path / name).write_text(json.dumps(written | {"format": number}))
        with pytest.raises(DataError, match=rf"{name} has format {number}, this evax reads .*1.*update evax"):
            read(tmp_path / name)


@pytest.mark.parametrize("run", ["pretrain", "finetune", "probe", "segment", "localize"])
def test_a_run_of_the_first_format_still_has_its_page(run, tmp_path):
    page = write_run_page(copied(run, tmp_path))
    assert f"evax {run}" in page.read_text()


def test_a_study_of_the_first_format_still_has_its_page(tmp_path):
    folder = shutil.copytree(RUNS / "crossvalidate", tmp_path / "crossvalidate")
    write_study_page([folder / "crossvalidate.json"])
    assert "fold" in (folder / "report.html").read_text()


def test_pretrainings_of_the_first_format_are_compared(tmp_path):
    runs = tuple(shutil.copytree(RUNS / "pretrain", tmp_path / name) for name in ("one", "two"))
    for run in runs:
        (run / "config.yaml").write_text("stores: [store]\nout: pretrain\nprobe_store: store\n")
    compare(CompareConfig(runs=runs, out=tmp_path / "out"))
    rows = json.loads((tmp_path / "out/compare.json").read_text())["rows"]
    assert [row["images_per_s"] for row in rows] == [115.25946784581514] * 2


def test_a_finished_run_of_the_first_format_is_that_of_a_study_and_is_not_made_again(tmp_path):
    folder = copied("finetune", tmp_path)
    (folder / "report.html").touch()
    report = json.loads((folder / "report.json").read_text())
    (folder / "config.yaml").write_text(json.dumps(report["recipe"] | {"out": str(folder)}))
    made = build(FinetuneConfig, read_recipe(folder / "config.yaml", FinetuneConfig), "config.yaml")

    def never(config):
        raise AssertionError(config)

    check_finished_run(made, report["data_fingerprint"], "any weights: it knew them by their path", True)
    assert make_once(made, never) == report


def test_new_reports_say_their_format_and_a_later_key_has_its_default():
    assert FORMAT == 1
    assert read_facts(RUNS / "finetune/report.json")["weights_digest"] is None
    with pytest.raises(DataError, match="has no 'anything' where the report needs it"):
        read_facts(RUNS / "finetune/report.json")["anything"]

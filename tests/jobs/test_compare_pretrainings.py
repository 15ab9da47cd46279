"""Pre-trainings beside each other: their own measures on one page, and nothing else among them."""

import csv
import json
import shutil

import pytest

from evax.cli import run
from evax.errors import ConfigError, DataError
from evax.jobs.compare import compare
from evax.jobs.finetune import FinetuneConfig
from evax.jobs.pretrain import pretrain
from evax.options.results import CompareConfig
from evax.options.training import OptimizerConfig
from evax.runs.log import start_run
from finished_runs import change_json, write_run
from pages import Page
from pretraining_runs import tiny_run


@pytest.fixture(scope="module")
def runs(phantom_store, tmp_path_factory):
    """A real run, and what looks like another with other numbers."""
    folder = tmp_path_factory.mktemp("pretrainings")
    config = tiny_run(phantom_store, folder / "first", epochs=0.5, probe_store=phantom_store)
    pretrain(config)
    second = shutil.copytree(config.out, folder / "second")
    change_json(
        second / "report.json", tokenizer__name="mgca_vit_base_patch16", knn_auc_last=0.875, seconds=7260.0
    )
    return config.out, second


def test_the_command_writes_a_page_a_table_and_a_figure_with_its_numbers(runs, tmp_path, capsys):
    out = tmp_path / "compared"
    assert run(["compare", *map(str, runs), "--names", "lite0", "MGCA", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "compare.html")
    with (out / "compare.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    report = json.loads((runs[0] / "report.json").read_text())
    assert (first["name"], second["name"]) == ("lite0", "MGCA")
    for key in (
        "final_cosine", "knn_auc_last", "linear_auc_last", "rankme_last", "images", "seconds"
    ):  # fmt: skip
        assert float(first[key]) == report[key]
    assert second["tokenizer"].startswith("mgca_vit_base_patch16, layer ")
    page = (out / "compare.html").read_text()
    for words in (
        f"{report['knn_auc_first']:.3f} → 0.875",
        "2 h 1 min",
        "mgca_vit_base_patch16, layer",
        "MGCA",
    ):
        assert words in page, words
    assert page.count("<svg") == 1
    assert '<div class="panels whole">' in page  # its two panels have the width of the page
    assert ".panels.whole" in page
    with (out / "pretrainings.csv").open(newline="") as file:
        points = list(csv.DictReader(file))
    assert {(point["name"], point["of"]) for point in points} == {
        (name, of) for name in ("lite0", "MGCA") for of in ("knn_auc", "cosine")
    }
    assert (out / "pretrainings.svg").is_file()
    assert (out / "pretrainings.png").is_file()


def test_the_page_shows_in_which_entries_of_their_recipes_the_runs_differ(runs, phantom_store, tmp_path):
    config = tiny_run(
        phantom_store.resolve(), tmp_path / "later", epochs=0.5, probe_store=phantom_store, seed=3,
        weights=runs[0] / "encoder", optimizer=OptimizerConfig(lr=0.01), tokenizer_layer="2",
    )  # fmt: skip
    pretrain(config)
    page = compare(CompareConfig(runs=(runs[0], config.out), out=tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    differs = {one["entry"]: one["values"] for one in found["recipe_differs"]}
    assert differs.keys() == {"weights", "seed", "optimizer.lr", "tokenizer"}
    assert differs["seed"] == [[0], [3]]
    assert differs["weights"][0] == [None]
    assert [row["images_total"] for row in found["rows"]] == [24, 48]
    text = Page(page).text
    for words in ("What differs between the rows", "optimizer.lr", "0.01", "24 48 in all"):
        assert words in text, words
    alike = compare(CompareConfig(runs=runs, out=tmp_path / "alike", names=("a", "b")))
    assert "optimizer.lr" not in Page(alike).text


def test_a_pre_training_among_other_runs_is_refused_with_the_way_out(runs, tmp_path):
    other = write_run(tmp_path / "finetuned", 1.0)
    (tmp_path / "films").mkdir()
    for folders in ((runs[0], other), (other, runs[0]), (runs[0], tmp_path / "films")):
        with pytest.raises(ConfigError, match=r"first is a pre-training, .* is no finished one: no images"):
            compare(CompareConfig(runs=folders, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_finished_or_not_there_is_said_to_be_so(runs, tmp_path):
    begun, tuning, none = (tmp_path / name for name in ("begun", "tuning", "none"))
    shutil.copytree(runs[0], begun)
    (begun / "report.json").unlink()
    start_run(tuning, FinetuneConfig(store=tmp_path, out=tuning), resume=False).close()
    for folders, said in (
        ((runs[0], begun), r"begun is not finished: evax pretrain ... --resume\."),
        ((begun, begun), r"begun is not finished: evax pretrain ... --resume\."),
        ((runs[0], tuning), r"tuning is not finished: wait for it, or run its command again\."),
        ((none, runs[0]), r"none does not exist"),
    ):
        with pytest.raises(DataError, match=said):
            compare(CompareConfig(runs=folders, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"names": ("a",)}, "1 names for 2 runs"),
        ({"reference": "first", "resamples": 9}, "leave out --reference, --resamples"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(runs, tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        compare(CompareConfig(runs=runs, out=tmp_path / "out", **options))
    with pytest.raises(ConfigError, match="takes 2 to 12 such runs, got 1"):
        compare(CompareConfig(runs=runs[:1], out=tmp_path / "out"))


def test_a_report_that_lacks_a_number_is_named(runs, tmp_path):
    broken = shutil.copytree(runs[0], tmp_path / "broken")
    report = json.loads((broken / "report.json").read_text())
    del report["rankme_last"]
    (broken / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError, match=r"broken/report.json has no 'rankme_last'"):
        compare(CompareConfig(runs=(runs[0], broken), out=tmp_path / "out"))

"""A sweep over shares of the labels and seeds is a set of fine-tunings, each made once."""

import csv
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from evax.config import parse_command_line
from evax.data.labelled import LabelShare, split_rows
from evax.data.store import open_store
from evax.errors import ConfigError, DataError
from evax.jobs.fewshot import fewshot
from evax.jobs.finetune import FinetuneConfig, finetune
from evax.options.studies import FewshotConfig
from evax.options.training import OptimizerConfig
from studies import SMALL, check_study_page, content_of, copy_of, write_times


def config_of(store, out, **changes):
    options = SMALL | {
        "fractions": (1.0, 0.3), "seeds": (0, 1), "lrs": (1e-4, 1e-2), "steps": 2, "validate_every": 2,
    }  # fmt: skip
    return FewshotConfig(store=store, out=out, **(options | changes))


@pytest.fixture(scope="module")
def sweep(phantom_store, tmp_path_factory):
    config = config_of(phantom_store, tmp_path_factory.mktemp("sweep") / "run")
    fewshot(config)
    return config


@pytest.fixture
def copied(sweep, tmp_path):
    return copy_of(sweep, tmp_path)


def result_of(config):
    return content_of(config.out / "fewshot.json")


def test_every_share_has_one_run_per_seed_at_the_learning_rate_that_validation_chose(sweep):
    points = result_of(sweep)["points"]
    assert [point["fraction"] for point in points] == [0.3, 1.0]
    for point in points:
        assert [trial["lr"] for trial in point["lr_trials"]] == [1e-4, 1e-2]
        assert point["lr"] == max(point["lr_trials"], key=lambda trial: trial["validation_mauc"])["lr"]
        for run, seed in zip(point["runs"], (0, 1), strict=True):
            recipe = content_of(sweep.out / run["folder"] / "report.json")["recipe"]
            assert (recipe["seed"], recipe["label_fraction"]) == (seed, point["fraction"])
            assert recipe["optimizer"]["lr"] == point["lr"]
    assert len(list((sweep.out / "runs").iterdir())) == 6  # per share: two seeds, one of them at two rates
    assert not list(sweep.out.glob("runs/*/bundle"))


def test_a_run_of_the_sweep_is_the_fine_tuning_of_its_config_file(sweep, tmp_path):
    run = result_of(sweep)["points"][0]["runs"][1]
    recipe = ["--recipe", str(sweep.out / run["folder"] / "config.yaml"), "--out", str(tmp_path / "alone")]
    alone = parse_command_line(FinetuneConfig, recipe, "evax finetune")
    finetune(alone)
    assert content_of(alone.out / "report.json")["test_metrics"]["mauc"]["value"] == run["mauc"]


def test_mean_sd_and_interval_over_seeds_are_those_of_the_listed_runs_and_not_the_patients(sweep):
    result = result_of(sweep)
    for point in result["points"]:
        for score in ("mauc", "macc"):
            values = np.array([run[score] for run in point["runs"]])
            assert point[score]["mean"] == pytest.approx(values.mean())
            assert point[score]["sd"] == pytest.approx(values.std(ddof=1))
            assert point[score]["interval"] == [None, None]
            assert point[score]["interval_method"] == "none: fewer than 3 seeds"
        assert all(run["mauc_patient_interval"] != point["mauc"]["interval"] for run in point["runs"])
    assert result["protocol"]["lr_chosen_on"].startswith("validation mAUC of seed 0")


def test_table_figure_and_page_show_every_run(sweep):
    points = result_of(sweep)["points"]
    with (sweep.out / "fewshot.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    listed = [run for point in points for run in point["runs"]]
    assert [float(row["mauc"]) for row in rows] == [run["mauc"] for run in listed]
    assert [float(row["mauc_low"]) for row in rows] == [run["mauc_patient_interval"][0] for run in listed]
    assert (sweep.out / "fewshot.png").read_bytes().startswith(b"\x89PNG")
    assert "30 %" in (sweep.out / "fewshot.svg").read_text()
    means = [point[score]["mean"] for point in points for score in ("mauc", "macc")]
    page = check_study_page(sweep, "fewshot", means, runs=4)
    assert "no t-interval: fewer than 3 seeds" in page
    assert all(f"<td>{point['lr']}</td>" in page for point in points)


def test_an_interrupted_sweep_repeats_no_finished_run(sweep, copied):
    for name in ("fewshot.json", "fewshot.csv"):
        (copied.out / name).unlink()
    shutil.rmtree(copied.out / "runs" / "share-1-lr-0.01-seed-0")  # never begun
    killed = next((copied.out / "runs").glob("share-0.3-*-seed-1"))
    (killed / "report.json").unlink()  # begun, but not finished
    late = next((copied.out / "runs").glob("share-1-*-seed-1"))
    (late / "report.html").unlink()  # killed before its page was written
    before = write_times(copied)
    fewshot(copied)
    assert len(before) == 4
    assert before.items() <= write_times(copied).items()
    assert result_of(copied)["points"] == result_of(sweep)["points"]
    assert (late / "report.html").is_file()


def test_a_sweep_grows_by_a_seed_and_keeps_its_runs_but_not_with_other_options(sweep, copied):
    before = write_times(copied)
    fewshot(replace(copied, seeds=(2, 0), fractions=(0.3,)))
    grown, points = result_of(copied), result_of(sweep)["points"]
    assert [point["fraction"] for point in grown["points"]] == [0.3, 1.0]
    for point, earlier in zip(grown["points"], points, strict=True):
        assert [run["seed"] for run in point["runs"]] == [0, 1, 2]
        assert (point["runs"][:2], point["lr"]) == (earlier["runs"], earlier["lr"])
    assert grown["protocol"]["lr_chosen_on"].startswith("validation mAUC of seed 0")
    assert before.items() <= write_times(copied).items()
    recipe = parse_command_line(FewshotConfig, ["--recipe", str(copied.out / "config.yaml")], "evax fewshot")
    assert recipe == replace(copied, seeds=(0, 1, 2), resume=False)
    for change, message in (
        ({"steps": 3}, r"was begun with other options: --steps was 2, is 3\. Choose"),
        ({"resume": False}, "continue with --resume"),
        ({"bundles": True}, "its classifier was not kept. Leave --bundles out, or delete"),
    ):
        with pytest.raises(ConfigError, match=message):
            fewshot(replace(copied, **change))
    assert len(list((copied.out / "runs").iterdir())) == 8


def test_classifiers_are_kept_on_request_and_checks_of_single_runs_stay_in_their_reports(
    phantom_store, tmp_path, caplog
):
    caplog.set_level("INFO")
    config = config_of(
        phantom_store, tmp_path / "run", fractions=(1.0,), seeds=(3,), lrs=(), bundles=True,
        optimizer=OptimizerConfig(lr=2e-4), validation_cap=4, name="mine", precision="auto",
    )  # fmt: skip
    fewshot(config)
    fewshot(replace(config, bundles=False, resume=True))  # deletes no classifier that is there
    result = result_of(config)
    (point,) = result["points"]
    assert (point["lr"], point["mauc"]["sd"], point["mauc"]["interval"]) == (2e-4, None, [None, None])
    messages = [record.message for record in caplog.records]
    assert messages.count("run 1 of 1: 100 %, seed 3") == 1
    assert f"{config.out}: 1 of 1 runs are finished already." in messages
    assert messages[-1].startswith(
        f"mAUC on test, 95 % interval over seeds: 100 % {point['mauc']['mean']:.3f} ["
    )
    assert "CHECK" not in caplog.text
    run = config.out / "runs" / "share-1-lr-0.0002-seed-3"
    checks = {check["name"]: check for check in content_of(run / "report.json")["checks"]}
    assert not checks["Size of the splits"]["passed"]
    assert checks["Doubtful labels"]["passed"] is None  # the search looked at one patient only
    assert (run / "bundle" / "card.json").is_file()
    assert "--precision" not in result["command"]  # as typed, whatever was decided
    assert {"split", "interval", "uncertain", "blank"} <= set(result["protocol"])
    assert "mine" in (config.out / "fewshot.svg").read_text()


def test_another_seed_draws_other_patients_and_a_larger_share_holds_the_smaller(phantom_store):
    store = open_store(phantom_store)
    train = split_rows(store)[0]
    drawn = [set(LabelShare(0.3).draw(store, train, seed)) for seed in range(5)]
    assert len({frozenset(rows) for rows in drawn}) > 1
    shares = [set(LabelShare(fraction).draw(store, train, 1)) for fraction in (0.1, 0.3, 0.7, 1.0)]
    assert all(smaller < larger for smaller, larger in pairwise(shares))


def test_counts_of_patients_stand_on_their_own_axis_and_may_be_stratified(phantom_store, tmp_path):
    config = config_of(
        phantom_store, tmp_path / "run", fractions=(), counts=(6, 3), seeds=(0,), lrs=(), steps=1,
        stratified=True,
    )  # fmt: skip
    fewshot(config)
    result = result_of(config)
    assert [point["count"] for point in result["points"]] == [3, 6]
    assert [point["runs"][0]["train_patients"] for point in result["points"]] == [3, 6]
    assert result["protocol"]["subset"].endswith("stratified by finding")
    drawn = (config.out / "fewshot.svg").read_text()
    assert ">3<" in drawn
    assert " %<" not in drawn
    store = open_store(phantom_store)
    share = LabelShare(count=3, stratify=store.manifest.labels())
    assert (config.out / "runs" / "count-3-lr-0.001-seed-0" / "report.json").is_file()
    assert len(share.draw(store, split_rows(store)[0], 0)) == result["points"][0]["runs"][0]["train_films"]
    with pytest.raises(DataError, match="training patients, 999 were asked for"):
        fewshot(replace(config, out=tmp_path / "other", counts=(999,)))
    assert not (tmp_path / "other").exists()

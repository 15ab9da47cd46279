"""A sweep over shares of the labels and seeds is nothing but fine-tunings, each done once."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from evax.adaptation.study import continue_study
from evax.config import parse_command_line, write_recipe
from evax.data.labelled import LabelShare, split_rows
from evax.data.store import open_store
from evax.errors import ConfigError, DataError
from evax.jobs.fewshot import fewshot
from evax.jobs.finetune import FinetuneConfig, finetune
from evax.options.studies import FewshotConfig
from evax.options.training import OptimizerConfig
from evax.pages.drawing import save_figure
from evax.pages.few_labels import few_labels_figure
from study_pages import check_study_page


def config_of(store, out, **changes):
    options = {
        "fractions": (1.0, 0.3), "seeds": (0, 1), "lrs": (1e-4, 1e-2), "image_size": 64, "steps": 2,
        "batch_size": 4, "validate_every": 2, "resamples": 20, "workers": 1, "precision": "fp32",
        "compile": "off",
    }  # fmt: skip
    return FewshotConfig(store=store, out=out, **(options | changes))


@pytest.fixture(scope="module")
def sweep(phantom_store, tmp_path_factory):
    config = config_of(phantom_store, tmp_path_factory.mktemp("sweep") / "run")
    fewshot(config)
    return config


@pytest.fixture
def copied(sweep, tmp_path):
    return replace(sweep, out=Path(shutil.copytree(sweep.out, tmp_path / "run")), resume=True)


def result_of(config):
    return json.loads((config.out / "fewshot.json").read_text())


def test_every_share_has_one_run_per_seed_at_the_learning_rate_that_validation_chose(sweep):
    points = result_of(sweep)["points"]
    assert [point["fraction"] for point in points] == [0.3, 1.0]
    for point in points:
        assert [trial["lr"] for trial in point["lr_trials"]] == [1e-4, 1e-2]
        assert point["lr"] == max(point["lr_trials"], key=lambda trial: trial["validation_mauc"])["lr"]
        for run, seed in zip(point["runs"], (0, 1), strict=True):
            recipe = json.loads((sweep.out / run["folder"] / "report.json").read_text())["recipe"]
            assert (recipe["seed"], recipe["label_fraction"]) == (seed, point["fraction"])
            assert recipe["optimizer"]["lr"] == point["lr"]
    assert len(list((sweep.out / "runs").iterdir())) == 6  # per share: two seeds, one of them at two rates


def test_a_run_of_the_sweep_is_the_fine_tuning_of_its_config_file(sweep, tmp_path):
    run = result_of(sweep)["points"][0]["runs"][1]
    options = {name: getattr(sweep, name) for name in FinetuneConfig.__dataclass_fields__}
    alone = FinetuneConfig(
        **(options | {"out": tmp_path / "alone", "label_fraction": 0.3, "seed": 1, "seeds": ()}),
    )
    alone = replace(alone, optimizer=replace(alone.optimizer, lr=result_of(sweep)["points"][0]["lr"]))
    finetune(alone)
    assert json.loads((alone.out / "report.json").read_text())["test_metrics"]["mauc"]["value"] == run["mauc"]


def test_the_config_file_of_a_sweep_is_a_recipe_that_repeats_it(sweep):
    recipe = ["--recipe", str(sweep.out / "config.yaml")]
    assert parse_command_line(FewshotConfig, recipe, "evax fewshot") == sweep


def test_one_precision_is_decided_for_the_whole_sweep_and_kept_when_it_goes_on(copied):
    decided = continue_study(replace(copied, precision="auto"), resume=False).precision
    assert decided in ("fp32", "bf16")
    for before in ("fp32", "bf16"):
        write_recipe(replace(copied, precision=before), copied.out / "config.yaml")
        assert continue_study(replace(copied, precision="auto"), resume=True).precision == before


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


def test_the_table_has_a_line_per_run_and_the_figure_is_drawn_twice(sweep):
    with (sweep.out / "fewshot.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    listed = [run for point in result_of(sweep)["points"] for run in point["runs"]]
    assert [float(row["mauc"]) for row in rows] == [run["mauc"] for run in listed]
    assert [float(row["mauc_low"]) for row in rows] == [run["mauc_patient_interval"][0] for run in listed]
    assert (sweep.out / "fewshot.png").read_bytes().startswith(b"\x89PNG")
    assert "30 %" in (sweep.out / "fewshot.svg").read_text()


def test_one_page_shows_the_spread_over_seeds_how_to_repeat_it_and_where_each_run_is(sweep):
    points = result_of(sweep)["points"]
    means = [point[score]["mean"] for point in points for score in ("mauc", "macc")]
    page = check_study_page(sweep, "fewshot", means, runs=4)
    assert "no t-interval: fewer than 3 seeds" in page
    assert all(f"<td>{point['lr']}</td>" in page for point in points)


def test_an_interrupted_sweep_goes_on_without_repeating_finished_runs(sweep, copied):
    for name in ("fewshot.json", "fewshot.csv"):
        (copied.out / name).unlink()
    shutil.rmtree(copied.out / "runs" / "share-1-lr-0.01-seed-0")  # never begun
    killed = next((copied.out / "runs").glob("share-0.3-*-seed-1"))
    (killed / "report.json").unlink()  # begun, but not finished
    late = next((copied.out / "runs").glob("share-1-*-seed-1"))
    (late / "report.html").unlink()  # killed before its page was written
    before = {path: path.stat().st_mtime_ns for path in copied.out.glob("runs/*/report.json")}
    fewshot(copied)
    assert len(before) == 4
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert result_of(copied)["points"] == result_of(sweep)["points"]
    assert (late / "report.html").is_file()


def test_a_sweep_grows_by_a_seed_and_keeps_what_it_had_but_not_with_other_options(sweep, copied):
    before = {path: path.stat().st_mtime_ns for path in copied.out.glob("runs/*/report.json")}
    fewshot(replace(copied, seeds=(2, 0), fractions=(0.3,)))
    grown, points = result_of(copied), result_of(sweep)["points"]
    assert [point["fraction"] for point in grown["points"]] == [0.3, 1.0]
    for point, earlier in zip(grown["points"], points, strict=True):
        assert [run["seed"] for run in point["runs"]] == [0, 1, 2]
        assert (point["runs"][:2], point["lr"]) == (earlier["runs"], earlier["lr"])
    assert grown["protocol"]["lr_chosen_on"].startswith("validation mAUC of seed 0")
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    recipe = parse_command_line(FewshotConfig, ["--recipe", str(copied.out / "config.yaml")], "evax fewshot")
    assert recipe == replace(copied, seeds=(0, 1, 2), resume=False)
    with pytest.raises(ConfigError, match=r"was begun with other options: --steps was 2, is 3\. Choose"):
        fewshot(replace(copied, steps=3))
    assert len(list((copied.out / "runs").iterdir())) == 8
    with pytest.raises(ConfigError, match="continue with --resume"):
        fewshot(replace(copied, resume=False))


def test_a_sweep_from_before_an_option_existed_goes_on_where_it_has_its_default(copied):
    for path in copied.out.glob("runs/*/report.json"):
        report = json.loads(path.read_text())
        del report["recipe"]["thresholds"]
        path.write_text(json.dumps(report))
    before = {path: path.stat().st_mtime_ns for path in copied.out.glob("runs/*/report.json")}
    fewshot(copied)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    with pytest.raises(ConfigError, match="--thresholds was youden, is f1"):
        fewshot(replace(copied, thresholds="f1"))


def test_classifiers_are_kept_when_asked_for_and_a_single_seed_has_no_spread(phantom_store, tmp_path, caplog):
    caplog.set_level("INFO")
    config = config_of(
        phantom_store, tmp_path / "run", fractions=(1.0,), seeds=(3,), lrs=(), bundles=True,
        optimizer=OptimizerConfig(lr=2e-4), validation_cap=4, name="mine",
        precision="auto",
    )  # fmt: skip
    fewshot(config)
    fewshot(replace(config, bundles=False, resume=True))  # deletes no classifier that is there
    (point,) = result_of(config)["points"]
    assert point["lr"] == 2e-4
    said = [record.message for record in caplog.records]
    assert said.count("run 1 of 1: 100 %, seed 3") == 1
    assert f"{config.out}: 1 of 1 runs are finished already." in said
    assert said[-1].startswith(f"mAUC on test, 95 % interval over seeds: 100 % {point['mauc']['mean']:.3f} [")
    result = result_of(config)
    assert "--precision" not in result["command"]  # as typed, whatever was decided
    assert {"split", "interval", "uncertain", "blank"} <= set(result["protocol"])
    assert "mine" in (config.out / "fewshot.svg").read_text()
    assert point["mauc"]["sd"] is None
    assert point["mauc"]["interval"] == [None, None]
    assert (config.out / "runs" / "share-1-lr-0.0002-seed-3" / "bundle" / "card.json").is_file()


def test_without_being_asked_no_classifier_fills_the_disk_and_none_can_be_had_afterwards(sweep):
    assert not list(sweep.out.glob("runs/*/bundle"))
    with pytest.raises(ConfigError, match="its classifier was not kept. Leave --bundles out, or delete"):
        fewshot(replace(sweep, bundles=True, resume=True))


def test_the_runs_of_a_sweep_keep_their_checks_in_their_reports_and_none_floods_the_terminal(
    phantom_store, tmp_path, caplog
):
    config = config_of(phantom_store, tmp_path / "run", fractions=(0.3,), seeds=(0,), lrs=(), steps=1)
    fewshot(config)
    assert "CHECK" not in caplog.text
    report = json.loads(next(config.out.glob("runs/*/report.json")).read_text())
    checks = {check["name"]: check for check in report["checks"]}
    assert not checks["Size of the splits"]["passed"]
    assert checks["Doubtful labels"]["passed"] is None  # the search looked at one patient only


def test_a_sweep_that_could_not_begin_leaves_no_folder(phantom_store, tmp_path):
    with pytest.raises(ConfigError, match="called 'nothing'"):
        fewshot(config_of(phantom_store, tmp_path / "run", encoder="nothing"))
    assert not (tmp_path / "run").exists()


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


def test_several_sweeps_are_drawn_together_only_when_they_were_tested_on_the_same_films(sweep, tmp_path):
    other = tmp_path / "other.json"
    content = result_of(sweep) | {"name": "second encoder"}
    other.write_text(json.dumps(content))
    save_figure(few_labels_figure([sweep.out / "fewshot.json", other], "macc"), tmp_path / "both")
    drawn = (tmp_path / "both.svg").read_text()
    assert "second encoder" in drawn
    assert "eva_x_tiny_patch16_224, random weights" in drawn
    assert "mAcc" in drawn
    other.write_text(json.dumps(content | {"data_fingerprint": "else"}))
    with pytest.raises(DataError, match="not tested on the same films"):
        few_labels_figure([sweep.out / "fewshot.json", other])


def test_values_that_make_no_sense_are_refused(phantom_store, tmp_path):
    for change, message in (
        ({"fractions": (0.0, 1.0)}, "fractions must lie in"),
        ({"fractions": (0.1, 0.1)}, "fractions must be different values"),
        ({"counts": (0, 5)}, "counts must be above 0"),
        ({"label_count": 5}, "give fractions, counts and seeds"),
        ({"seeds": (1, 1)}, "seeds must be different values"),
        ({"lrs": (0.0,)}, "lrs must be above 0"),
        ({"label_fraction": 0.5}, "give fractions, counts and seeds"),
        ({"seed": 2}, "give fractions, counts and seeds"),
        ({"validation_cap": 0}, "validation_cap must be above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            config_of(phantom_store, tmp_path, **change)

"""Repeated cross-validation: a whole study per seed; over seeds and over folds are kept apart."""

import html
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from evax.config import parse_command_line
from evax.errors import ConfigError, DataError
from evax.jobs.crossvalidate import crossvalidate, folds_of, load_all
from evax.options.studies import CrossvalidateConfig
from studies import SMALL, check_study_page, content_of, copy_of, write_times

OPTIONS = SMALL | {"folds": 2, "steps": 1, "findings": ("Effusion", "Mass")}
FOLDS = "runs/*/runs/**/*.[jhs]*"  # of the folds; summaries of studies are written anew


@pytest.fixture(scope="module")
def study(phantom_store, tmp_path_factory):
    """Two seeds, and a third that was added to them later."""
    out = tmp_path_factory.mktemp("study") / "run"
    config = CrossvalidateConfig(store=phantom_store, out=out, seeds=(0, 1), **OPTIONS)
    assert crossvalidate(config) == out / "seeds.json"
    before = write_times(config, FOLDS)
    crossvalidate(replace(config, seeds=(2,), resume=True))
    assert before.items() <= write_times(config, FOLDS).items()
    return replace(config, seeds=(0, 1, 2))


def result_of(config):
    return content_of(config.out / "seeds.json")


def study_of(config, seed):
    return content_of(config.out / "runs" / f"seed-{seed}" / "crossvalidate.json")


def test_every_seed_is_a_study_with_folds_of_its_own(study):
    tested = []
    for seed in study.seeds:
        assert study_of(study, seed)["protocol"]["seed"] == seed
        folder = study.out / "runs" / f"seed-{seed}"
        assert (folder / "report.html").is_file()
        assert (folder / "crossvalidate.svg").is_file()
        first = pd.read_csv(folder / "runs" / "fold-0" / "predictions-test.csv")
        tested.append(frozenset(first["image"]))
        report = content_of(folder / "runs" / "fold-0" / "report.json")
        assert report["protocol"]["seed"] == seed
    assert len(set(tested)) == 3


def test_a_seed_can_be_repeated_alone_from_its_config_file(study, tmp_path):
    recipe = ["--recipe", str(study.out / "runs" / "seed-1" / "config.yaml"), "--out", str(tmp_path)]
    alone = parse_command_line(CrossvalidateConfig, recipe, "evax crossvalidate")
    assert alone == replace(study, out=tmp_path, seeds=(), seed=1)


def test_mean_sd_and_interval_over_seeds_are_of_the_means_over_folds(study):
    result = result_of(study)
    scores = [[fold["mauc"] for fold in study_of(study, seed)["folds"]] for seed in range(3)]
    means = np.array(scores).mean(axis=1)
    assert [run["mauc"] for run in result["runs"]] == pytest.approx(means)
    half = t.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3)
    assert result["mauc"]["mean"] == pytest.approx(means.mean())
    assert result["mauc"]["sd"] == pytest.approx(means.std(ddof=1))
    assert result["mauc"]["interval"] == pytest.approx([means.mean() - half, means.mean() + half])
    assert result["mauc"]["interval_method"].startswith("t-interval over 3 seeds")
    assert tuple(result["findings"]) == OPTIONS["findings"]
    for name, spread in result["findings"].items():
        scores = [study_of(study, seed)["findings"][name]["mean"] for seed in range(3)]
        assert spread["mean"] == pytest.approx(np.mean([score for score in scores if score is not None]))
    for run in result["runs"]:
        one = study_of(study, run["seed"])
        assert (run["folds"], run["mauc_sd"]) == (2, one["mauc"]["sd"])
        assert run["pooled_mauc_patient_interval"] == one["pooled"]["mauc"]["interval"]


def test_what_all_seeds_have_in_common_is_said_once_and_that_they_share_their_images(study):
    protocol = result_of(study)["protocol"]
    assert "nothing of other patients" in protocol["shared_films"]
    assert "of means over folds" in protocol["spread"]
    assert protocol["folds"].startswith("2 folds of patients")
    assert (protocol["tested_films"], protocol["name"]) == (48, "clean")
    assert "seed" not in protocol


def test_table_and_page_list_the_seeds_with_links_to_their_pages(study):
    result = result_of(study)
    rows = pd.read_csv(study.out / "seeds.csv")
    for column, values in (
        ("seed", [0, 1, 2]),
        ("mauc", [run["mauc"] for run in result["runs"]]),
        ("pooled_mauc_low", [run["pooled_mauc_patient_interval"][0] for run in result["runs"]]),
    ):
        assert rows[column].tolist() == pytest.approx(values)
    means = [spread["mean"] for spread in (result["mauc"], result["macc"], *result["findings"].values())]
    page = check_study_page(study, "crossvalidate", means, runs=3)
    assert "3 cross-validations" in page
    assert "All seeds test and learn from the same images" in page
    assert "Size of the splits (2 of 2 folds)" in page
    assert "folds of seed 2" in page
    below = html.unescape((study.out / "runs" / "seed-2" / "report.html").read_text(encoding="utf-8"))
    assert "--seed 2" in below
    assert "fewer than 3 folds" in below


@pytest.fixture
def copied(study, tmp_path):
    return copy_of(study, tmp_path)


def test_a_killed_seed_goes_on_at_its_unfinished_fold(study, copied):
    seed = copied.out / "runs" / "seed-2"
    for name in ("report.html", "crossvalidate.json", "runs/fold-1/report.json"):
        (seed / name).unlink()
    (copied.out / "seeds.json").unlink()
    before = write_times(copied, FOLDS)
    crossvalidate(copied)
    after = write_times(copied, FOLDS)
    again = {path.relative_to(copied.out).parts[1:4] for path in before if after[path] != before[path]}
    assert ("seed-2", "runs", "fold-1") in again
    assert ("seed-2", "runs", "fold-0") not in again
    assert {parts[0] for parts in again} == {"seed-2"}
    assert result_of(copied)["runs"] == result_of(study)["runs"]


def test_other_options_data_and_kinds_are_refused_before_anything_is_trained(copied, study):
    for change, message in (
        ({"folds": 3}, "--folds was 2, is 3. Choose another --out"),
        ({"seeds": ()}, "--seeds was 0 1 2, is not given"),
        ({"resume": False}, "continue with --resume"),
        ({"bundles": True}, "is finished and its classifier was not kept"),
    ):
        with pytest.raises(ConfigError, match=message):
            crossvalidate(replace(copied, **change))
    with (copied.out / "runs" / "seed-1" / "folds" / "fold-1.csv").open("a") as table:
        table.write("another.png,test\n")
    with pytest.raises(ConfigError, match="fold-1.csv holds another fold. Choose another --out"):
        crossvalidate(replace(copied, seeds=(3,)))
    assert not (copied.out / "runs" / "seed-3").exists()


def test_a_seed_whose_folds_cannot_choose_is_found_before_the_first_is_trained(study, tmp_path):
    config = replace(study, out=tmp_path / "run", validation=0.05)
    data = load_all(config)

    def can_choose(seed):
        try:
            folds_of(replace(config, seeds=(), seed=seed), data)
        except DataError:
            return False
        return True

    good, bad = (next(seed for seed in range(100) if can_choose(seed) == can) for can in (True, False))
    with pytest.raises(DataError, match=f"of fold ., seed {bad}: "):
        crossvalidate(replace(config, seeds=(good, bad)))
    assert not config.out.exists()

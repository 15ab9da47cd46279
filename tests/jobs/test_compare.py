"""Numbers of a comparison are those of the prediction tables; runs on other ground are refused."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from evax.errors import ConfigError, DataError
from evax.evaluation.classification import predictive_values
from evax.evaluation.comparison import delong, holm
from evax.evaluation.published import FINDINGS as OF_TABLE
from evax.evaluation.published import MARK, PUBLISHED
from evax.evaluation.study_rows import row_of
from evax.files import write_json
from evax.findings import CHESTXRAY14
from evax.jobs.compare import compare
from evax.options.results import CompareConfig
from evax.runs.files import NO_THRESHOLDS
from finished_runs import FINDINGS, change_json, write_run, write_sweep


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / "good", 2.0), write_run(folder / "poor", 0.5, seed=1)]


@pytest.fixture(scope="module")
def compared(runs, tmp_path_factory):
    return done(runs, tmp_path_factory.mktemp("compared") / "out", repeats=1, prevalence=0.02)


def done(folders, out, **options):
    compare(CompareConfig(runs=tuple(folders), out=out, **({"resamples": 99, "repeats": 0} | options)))
    return out


def content_of(out):
    return json.loads((out / "compare.json").read_text())


def table_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_are_those_of_the_tables_and_reports(runs, compared):
    content = content_of(compared)
    assert content["findings"] == list(FINDINGS)
    for row, run in zip(content["rows"], runs, strict=True):
        table = pd.read_csv(run / "predictions-test.csv")
        areas = [roc_auc_score(table[f"label:{f}"], table[f"probability:{f}"]) for f in ("Effusion", "Mass")]
        assert [each["auroc"] for each in row["findings"]] == [*(pytest.approx(a) for a in areas), None]
        assert row["mauc"]["value"] == pytest.approx(np.mean(areas))
        assert row["findings_entered"] == 2
        report = json.loads((run / "report.json").read_text())["test_metrics"]
        for name in ("mauc", "map", "macc"):
            assert row[name]["value"] == pytest.approx(report[name]["value"], abs=1e-9)
        for ours, theirs in zip(row["findings"], report["findings"], strict=True):
            assert [ours[key] for key in ("sensitivity", "ppv")] == [
                theirs[key] for key in ("sensitivity", "ppv")
            ]
            if ours["sensitivity"] is not None:
                assert ours["ppv_there"] == pytest.approx(
                    predictive_values(theirs["sensitivity"], theirs["specificity"], 0.02)[0]
                )
    assert [row["wins"] for row in content["rows"]] == [2, 0]
    assert content["validation"] == {"films": 120, "patients": 60}
    assert content["rows"][0]["train"] == {"films": [120, 120], "patients": [60, 60]}


def test_differences_are_tested_by_patients_where_patients_have_several_images(compared):
    content = content_of(compared)
    (one,) = content["differences"]
    assert (one["name"], one["reference"]) == ("poor", "good")
    rows = {row["name"]: row for row in content["rows"]}
    assert one["mauc"]["value"] == pytest.approx(
        rows["poor"]["mauc"]["value"] - rows["good"]["mauc"]["value"]
    )
    assert one["mauc"]["interval"][0] < one["mauc"]["value"] < one["mauc"]["interval"][1] < 0
    *common, hernia = one["findings"]
    assert {finding["test"] for finding in common} == {"patient-clustered bootstrap, paired"}
    assert (hernia["p"], hernia["test"]) == (None, "none: fewer than 5 patients")
    adjusted = holm([np.nan if each["p"] is None else each["p"] for each in one["findings"]])
    np.testing.assert_array_equal(
        [np.nan if each["p_holm"] is None else each["p_holm"] for each in one["findings"]], adjusted
    )
    assert one["findings"][2]["p"] is None  # no hernia
    assert (one["higher"], one["lower"]) == (0, 2)
    assert "120 test images are of 60 patients" in content["statistics"]["delong"]


def test_delong_is_used_where_each_patient_has_one_image(tmp_path):
    folders = [write_run(tmp_path / name, skill, films_each=1) for name, skill in (("a", 1.0), ("b", 1.5))]
    content = content_of(done(folders, tmp_path / "out"))
    tables = [pd.read_csv(folder / "predictions-test.csv") for folder in folders]
    first, second = (table["probability:Mass"].to_numpy() for table in tables)
    expected = delong(second, first, tables[0]["label:Mass"].to_numpy() == 1)
    found = content["differences"][0]["findings"][1]
    assert found["test"] == "DeLong"
    assert [found["value"], found["p"], *found["interval"]] == pytest.approx(
        [expected.value, expected.p, expected.interval.low, expected.interval.high]
    )


def test_means_are_over_what_all_rows_have_learned_and_the_page_names_the_rest(tmp_path):
    whole = write_run(tmp_path / "whole", 2.0)
    part = write_run(tmp_path / "part", 1.0, not_learned=("Mass",))
    out = done([whole, part], tmp_path / "out")
    content = content_of(out)
    assert content["not_learned"] == {"Mass": ["part"]}
    first, second = content["rows"]
    assert [row["findings_entered"] for row in content["rows"]] == [1, 1]
    assert first["mauc"]["value"] == pytest.approx(first["findings"][0]["auroc"])
    assert first["findings"][1]["auroc"] is not None  # what one has learned is shown
    assert second["findings"][1]["auroc"] is None
    (one,) = content["differences"]
    assert [finding["value"] is None for finding in one["findings"]] == [False, True, True]
    assert "Mass enters no mean: not learned by part." in " ".join((out / "compare.html").read_text().split())


def test_the_floor_of_p_is_that_of_the_row(compared):
    rows = {row["of"]: row for row in table_of(compared / "differences.csv")}
    for name in ("mauc", "map", "macc", "Effusion"):
        defined = 99 - int(rows[name]["undefined"])
        assert float(rows[name]["p"]) >= float(rows[name]["p_least"]) == pytest.approx(2 / (defined + 1))
    assert rows["Hernia"]["p_least"] == ""


def test_the_reference_turns_the_differences(runs, compared, tmp_path):
    turned = content_of(done(runs, tmp_path / "out", reference="poor", names=("good", "poor")))
    (ours,), (theirs,) = turned["differences"], content_of(compared)["differences"]
    assert ours["mauc"]["value"] == -theirs["mauc"]["value"]
    assert ours["mauc"]["p"] == theirs["mauc"]["p"]


def test_sweeps_keep_seeds_and_patients_apart_and_are_compared_share_by_share(tmp_path):
    folders = [write_sweep(tmp_path / "one", 2.0), write_sweep(tmp_path / "two", 1.0)]
    content = content_of(done([*folders, write_run(tmp_path / "alone", 2.0, seed=9)], tmp_path / "out"))
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["one, 10 %", "one, 100 %", "two, 10 %", "two, 100 %", "alone"]
    for row in list(rows.values())[:4]:
        values = [
            json.loads((Path(folder) / "report.json").read_text())["test_metrics"]["mauc"]["value"]
            for folder in row["folders"]
        ]
        seeds = row["spread_over_seeds"]["mauc"]
        half = t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
        assert row["mauc"]["value"] == pytest.approx(np.mean(values)) == seeds["mean"]
        assert seeds["sd"] == pytest.approx(np.std(values, ddof=1))
        assert seeds["interval"] == pytest.approx([np.mean(values) - half, np.mean(values) + half])
        assert row["mauc"]["interval"] != seeds["interval"]
    assert rows["alone"]["spread_over_seeds"] is None
    pairs = [(one["name"], one["reference"]) for one in content["differences"]]
    assert pairs == [("two, 10 %", "one, 10 %"), ("two, 100 %", "one, 100 %"), ("alone", "one, 100 %")]
    by_seed = content["differences"][0]["seeds"]
    means = [rows[name]["mauc"]["value"] for name in ("two, 10 %", "one, 10 %")]
    assert by_seed["mean"] == pytest.approx(means[0] - means[1])
    assert content["differences"][2]["seeds"] is None
    assert "10 %" in (tmp_path / "out" / "few-labels.svg").read_text()
    points = table_of(tmp_path / "out" / "few-labels.csv")
    assert [float(point["share"]) for point in points] == [0.1, 1.0, 0.1, 1.0]


def test_the_curves_of_a_comparison_are_over_the_findings_of_its_means(tmp_path):
    sweep, part = write_sweep(tmp_path / "one", 2.0), write_run(tmp_path / "p", 1.0, not_learned=("Mass",))
    for folders, words in (([sweep], "mAUC, mean"), ([sweep, part], "mAUC of 1 finding, mean")):
        out = done(folders, tmp_path / f"out{len(folders)}")
        assert words in (out / "few-labels.svg").read_text()


def test_one_sweep_alone_compares_its_shares_with_the_largest(tmp_path):
    out = done([write_sweep(tmp_path / "one", 2.0, seeds=(0, 1))], tmp_path / "out")
    content = content_of(out)
    pairs = [(one["name"], one["reference"]) for one in content["differences"]]
    assert pairs == [("one, 10 %", "one, 100 %")]
    assert [row["wins"] for row in content["rows"]] == [None, None]  # no rival of the same share
    for row in content["rows"]:  # of two seeds, a t-interval leaves what a score can be
        assert row["spread_over_seeds"]["mauc"]["interval"] == [None, None]
        assert row["spread_over_seeds"]["mauc"]["method"] == "none: fewer than 3 seeds"
        assert row["spread_over_seeds"]["mauc"]["sd"] > 0
    page = (out / "compare.html").read_text()
    assert "none: fewer than 3 seeds" in page
    assert "from 3 seeds on, 95 % t-interval" in page
    assert "(+ 120 validation images that choose)" in (out / "few-labels.svg").read_text()


def test_sweeps_over_numbers_of_patients_are_compared_and_named_by_them(tmp_path):
    folder = write_sweep(tmp_path / "one", 2.0, seeds=(0, 1))
    for path in folder.glob("runs/*/report.json"):
        count = 5 if "0.1" in path.parent.name else 20
        films = 14 if path.parent.name.endswith("seed-1") else 16
        change_json(path, protocol__label_count=count, train={"films": films, "patients": count})
        change_json(path, protocol__patients_in_several_parts=count // 5)  # of a split by film
    points = json.loads((folder / "fewshot.json").read_text())["points"]
    counts = [point | {"count": count} for point, count in zip(points, (5, 20), strict=True)]
    change_json(folder / "fewshot.json", points=counts)
    out = done([folder], tmp_path / "out")
    content = content_of(out)
    assert [row["name"] for row in content["rows"]] == ["one, 5 patients", "one, 20 patients"]
    assert content["rows"][0]["train"] == {"films": [14, 16], "patients": [5, 5]}
    assert "14 to 16 images" in (out / "compare.html").read_text()
    line = table_of(out / "compare.csv")[0]
    assert (line["train_films_least"], line["train_films_most"]) == ("14", "16")


def test_the_highest_auroc_is_counted_among_rows_of_the_same_share(tmp_path):
    folders = [write_sweep(tmp_path / "one", 2.0, seeds=(0,)), write_sweep(tmp_path / "two", 0.5, seeds=(0,))]
    rows = content_of(done(folders, tmp_path / "out"))["rows"]
    wins = {row["name"]: row["wins"] for row in rows}
    for share in ("10 %", "100 %"):
        assert wins[f"one, {share}"] + wins[f"two, {share}"] == 2
    assert wins["one, 10 %"] == 2


def test_a_run_over_seeds_is_one_row(runs, tmp_path):
    folder, trained = tmp_path / "seeded", []
    for seed in range(3):
        path = write_run(folder / "runs" / f"seed-{seed}", 1.0, seed=seed)
        trained.append(row_of(json.loads((path / "report.json").read_text())))
    write_json({"kind": "seeds", "runs": trained}, folder / "seeds.json")
    content = content_of(done([runs[0], folder], tmp_path / "out"))
    row = content["rows"][1]
    assert (row["name"], row["seeds"]) == ("seeded", [0, 1, 2])
    assert row["mauc"]["value"] == pytest.approx(np.mean([each["mauc"] for each in trained]))
    assert row["spread_over_seeds"]["mauc"]["method"] == "t-interval over 3 seeds"


def test_what_differs_between_the_recipes_is_told_and_what_does_not_is_not(runs, tmp_path):
    others = [
        Path(shutil.copytree(runs[1], tmp_path / "long")),
        write_sweep(tmp_path / "sweep", 1.0, fractions=(1.0,), seeds=(0, 1)),
    ]
    change_json(others[0] / "report.json", recipe__steps=30, recipe__optimizer={"lr": 1e-3, "eps": 1e-8})
    for seed in (0, 1):
        path = others[1] / "runs" / f"share-1-seed-{seed}" / "report.json"
        change_json(path, recipe__steps=8, recipe__optimizer={"lr": 3e-4, "eps": 1e-8}, recipe__seed=seed)
    out = done(others, tmp_path / "out")
    assert content_of(out)["recipe_differs"] == [
        {"entry": "steps", "values": [[30], [8]]},
        {"entry": "optimizer.lr", "values": [[1e-3], [3e-4]]},
        {"entry": "seed", "values": [[None], [0, 1]]},
    ]
    page = (out / "compare.html").read_text()
    assert "What differs between the rows" in page
    assert "optimizer.lr" in page
    alike = (done(runs, tmp_path / "alike") / "compare.html").read_text()
    assert "The recipes of all rows are alike" in alike


def test_exclusive_findings_are_scored_by_their_most_probable_one(tmp_path):
    folders = [write_run(tmp_path / name, skill, exclusive=True) for name, skill in (("a", 1.0), ("b", 2.0))]
    content = content_of(done(folders, tmp_path / "out"))
    assert content["statistics"]["macc"] == "top-1"
    table = pd.read_csv(folders[1] / "predictions-test.csv")
    answer = table.filter(regex="^probability:").to_numpy().argmax(axis=1)
    truth = table.filter(regex="^label:").to_numpy().argmax(axis=1)
    assert content["rows"][1]["macc"]["value"] == pytest.approx(np.mean(answer == truth))


def test_calibrators_learn_on_validation_and_are_left_out_without_it(runs, tmp_path):
    bare = Path(shutil.copytree(runs[1], tmp_path / "bare"))
    (bare / "predictions-val.csv").unlink()
    without, with_it = content_of(done([bare, runs[0]], tmp_path / "out"))["rows"]  # whichever comes first
    lines = table_of(tmp_path / "out" / "compare.csv")
    assert lines[0]["ece_isotonic"] == ""
    assert float(lines[1]["ece_isotonic"]) == with_it["calibration"]["isotonic"]["ece"]
    assert (tmp_path / "out" / "compare.html").read_text().count("no validation") == 3
    assert list(with_it["calibration"]) == ["none", "temperature", "platt", "isotonic"]
    assert list(without["calibration"]) == ["none"]
    assert with_it["calibration"]["platt"]["brier"] < with_it["calibration"]["none"]["brier"]


def test_the_seed_and_the_resamples_change_the_intervals_alone(runs, compared, tmp_path):
    for number, change in enumerate(({"seed": 1}, {"resamples": 57})):
        other = content_of(done(runs, tmp_path / str(number), **change))["rows"][0]["mauc"]
        ours = content_of(compared)["rows"][0]["mauc"]
        assert other["value"] == ours["value"]
        assert other["interval"] != ours["interval"]


def test_size_and_time_of_every_network_are_measured_here(compared):
    row = content_of(compared)["rows"][0]
    assert row["parameters"] == 5_525_184 - (196 - 16) * 192 + 192 * 3 + 3  # 64 pixels: 16 places
    assert row["cpu_ms_per_film"] > 0
    timing = content_of(compared)["timing"]
    assert [timing[key] for key in ("repeats", "threads", "batch", "precision")] == [1, 1, 1, "float32"]


def test_every_figure_is_drawn_twice_and_has_its_numbers_beside_it(compared):
    content = content_of(compared)
    for stem in ("findings", "parameters"):
        assert (compared / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert "good" in (compared / f"{stem}.svg").read_text()
    drawn = table_of(compared / "findings.csv")
    assert float(drawn[0]["auroc"]) == content["rows"][0]["findings"][0]["auroc"]
    assert drawn[3]["finding"] == "mean of 2"
    assert {row["origin"] for row in table_of(compared / "parameters.csv")} == {"measured"}
    assert len(table_of(compared / "differences.csv")) == 3 + 3
    assert len(table_of(compared / "operating-points.csv")) == 2 * 3
    assert [row["name"] for row in table_of(compared / "compare.csv")] == ["good", "poor"]


def test_the_page_is_self_contained_and_names_no_patient(compared):
    page = (compared / "compare.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"']?https?:", page)
    assert not re.search(r"\bp0\d\d\b|test\d+\.png", page + (compared / "compare.json").read_text())
    for words in ("AUROC per finding", "mAUC against parameters", "p, adjusted", "not used: 120 test images"):
        assert words in page
    assert page.count("<svg") == 2


def test_published_numbers_stand_apart_and_say_that_they_were_not_re_run(tmp_path):
    folders = [
        write_run(tmp_path / name, skill, findings=CHESTXRAY14, patients=40)
        for name, skill in (("a", 1.0), ("b", 2.0))
    ]
    out = done(folders, tmp_path / "out", published=("chestxray14",))
    assert len(table_of(out / "compare.csv")) == 2
    quoted = table_of(out / "published.csv")
    assert {row["origin"] for row in quoted} == {MARK}
    assert {row["name"]: row["mauc"] for row in quoted}["EVA-X-B"] == "83.5"
    assert MARK in (out / "parameters.svg").read_text()
    assert MARK in (out / "compare.html").read_text()


def test_published_means_over_other_findings_are_refused(runs, tmp_path):
    with pytest.raises(
        DataError, match=r"means over 14 findings .* these runs have 3 .*Leave --published out"
    ):
        done(runs, tmp_path / "out", published=("chestxray14",))
    assert not (tmp_path / "out").exists()


def test_every_published_number_says_where_it_stands_and_how_it_was_measured():
    for table, rows in PUBLISHED.items():
        assert OF_TABLE[table]
        assert len({row.name for row in rows}) == len(rows)
        for row in rows:
            assert 50 < row.mauc < 100
            assert row.source
            assert row.protocol


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_fingerprint": "fedcba9876543210"}, "different stores .*0123456789ab and fedcba987654"),
        ({"protocol__name": "paper"}, "protocols: name is 'clean' in the first and 'paper' in the second"),
        ({"protocol__uncertain": "ones"}, "uncertain is 'ignore' .* 'ones' .*again as the other"),
        ({"protocol__split": "another"}, "split is 'by patient' .* and 'another'"),
        ({"kind": "localize"}, "is a run of localize; compare takes runs of finetune, fewshot and probe, or"),
    ],
)  # fmt: skip
def test_runs_on_other_ground_are_refused_with_what_to_do(runs, tmp_path, changes, message):
    other = Path(shutil.copytree(runs[1], tmp_path / "other"))
    change_json(other / "report.json", **changes)
    with pytest.raises(DataError, match=message):
        done([runs[0], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_test_images_or_labels_are_refused(runs, tmp_path):
    less = write_run(tmp_path / "less", 1.0, findings=("Effusion", "Mass"))
    other = Path(shutil.copytree(runs[1], tmp_path / "other"))
    table = pd.read_csv(other / "predictions-test.csv")
    flipped = 1 - table.loc[3, "label:Mass"]
    for folder, column, value, message in (
        (other, "image", "else.png", "not tested on the same images: 2 images are in one test split only"),
        (other, "label:Mass", flipped, "other labels for the same test images"),
        (less, "image", "test3.png", r"different findings \(Effusion, Mass, Hernia and Effusion, Mass\)"),
    ):
        changed = table.copy()
        changed.loc[3, column] = value
        changed.to_csv(other / "predictions-test.csv", index=False)
        with pytest.raises(DataError, match=message):
            done([runs[0], folder], tmp_path / "out")


def test_folders_without_a_finished_run_and_names_that_do_not_fit_are_refused(runs, tmp_path):
    begun, fold = tmp_path / "begun", tmp_path / "other"
    begun.mkdir()
    write_json({}, fold / "crossvalidate.json")
    bare = Path(shutil.copytree(runs[1], tmp_path / "bare"))
    (bare / "predictions-test.csv").unlink()
    files = "none of report.json, seeds.json, fewshot.json and linear.json. Give the folder that --out"
    folds = "is a cross-validation, .*Give the same fold of each, as .*other/runs/fold-0"
    for folders, options, error, message in (
        ([runs[0], begun], {}, DataError, files),
        ([runs[0], fold], {}, DataError, folds),
        ([runs[0], bare], {}, DataError, "has no predictions-test.csv, which every comparison needs"),
        (runs, {"names": ("a",)}, ConfigError, "1 names for 2 runs"),
        (runs, {"names": ("a", "a")}, ConfigError, "a name of its own"),
        (runs, {"reference": "god"}, ConfigError, r"No run is called 'god'. Did you mean 'good'\?"),
        ([runs[0], runs[0]], {}, ConfigError, "given twice: a run differs from itself by nothing"),
        (runs[:1], {}, ConfigError, "make 1 rows .*compare takes 2 to 12"),
    ):
        with pytest.raises(error, match=message):
            done(folders, tmp_path / "out", **options)


def test_runs_without_validation_images_are_compared_but_not_recalibrated(runs, tmp_path):
    """Protocol paper needs none."""
    folders = [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]
    for folder in folders:
        change_json(folder / "report.json", validation={"films": 0, "patients": 0})
        pd.read_csv(folder / "predictions-val.csv")[:0].to_csv(folder / "predictions-val.csv", index=False)
    rows = content_of(done(folders, tmp_path / "out"))["rows"]
    assert all(len(row["calibration"]) == 1 for row in rows)  # as answered


def test_balanced_accuracy_of_exclusive_classes_is_compared_and_thresholds_change_nothing(tmp_path):
    folders = [
        write_sweep(tmp_path / "sweep", 1.5, exclusive=True, fractions=(1.0,)),
        write_run(tmp_path / "old", 0.5, exclusive=True),
        write_run(tmp_path / "new", 1.0, exclusive=True),
    ]
    change_json(folders[2] / "report.json", protocol__thresholds_chosen_on=NO_THRESHOLDS)
    report = json.loads((folders[1] / "report.json").read_text())  # as an older evax wrote it
    del report["test_metrics"]["balanced_accuracy"]
    for row in report["test_metrics"]["findings"]:
        row["threshold"] = 0.2
    (folders[1] / "report.json").write_text(json.dumps(report))
    out = done(folders, tmp_path / "out")
    content = content_of(out)
    values = []
    for row in content["rows"]:
        scores = []
        for folder in row["folders"]:
            table = pd.read_csv(Path(folder) / "predictions-test.csv")
            truth, answer = (
                table.filter(regex=f"^{kind}:").to_numpy().argmax(axis=1) for kind in ("label", "probability")
            )
            scores.append(balanced_accuracy_score(truth, answer))
        values.append(np.mean(scores))
        assert row["balanced_accuracy"]["value"] == pytest.approx(values[-1])
        assert row["findings"][0]["sensitivity"] == pytest.approx(
            np.mean([*map(recall_of_first, row["folders"])])
        )
    for each in content["differences"]:
        names = [row["name"] for row in content["rows"]]
        gap = values[names.index(each["name"])] - values[names.index(each["reference"])]
        assert each["balanced_accuracy"]["value"] == pytest.approx(gap)
    assert {line["of"] for line in table_of(out / "differences.csv")} >= {"macc", "balanced_accuracy"}
    assert float(table_of(out / "compare.csv")[1]["balanced_accuracy"]) == pytest.approx(values[1])
    assert content["protocol"]["thresholds_chosen_on"] == NO_THRESHOLDS
    page = (out / "compare.html").read_text()
    assert "balanced accuracy" in page
    assert "At the thresholds of validation" not in page
    assert page.count("means over 3 seeds") == 1
    assert [line["mean_over_seeds"] for line in table_of(out / "operating-points.csv")[::3]] == [
        "3",
        "1",
        "1",
    ]


def recall_of_first(folder):
    table = pd.read_csv(Path(folder) / "predictions-test.csv")
    answer = table.filter(regex="^probability:").to_numpy().argmax(axis=1)
    return (answer[table[f"label:{FINDINGS[0]}"] == 1] == 0).mean()


def test_independent_findings_keep_their_thresholds_and_have_no_balanced_accuracy(compared):
    content = content_of(compared)
    assert not any("balanced_accuracy" in each for each in (*content["rows"], *content["differences"]))
    page = (compared / "compare.html").read_text()
    assert "At the thresholds of validation" in page
    assert "means over" not in page.partition("<h2>At the thresholds")[2].partition("</section>")[0]


@pytest.mark.long
@pytest.mark.parametrize("exclusive", [True, False])
def test_no_table_of_the_page_is_cut_off_at_1200_pixels(tmp_path, exclusive):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: install it to look at the page as a reader would")
    folders = [write_sweep(tmp_path / f"a-long-name-{n}", n, exclusive=exclusive) for n in (1, 2)]
    out = done(folders, tmp_path / "out", prevalence=0.02)
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    page = (out / "compare.html").read_text() + f"<script>document.title = {cut} + ' cut off'</script>"
    (tmp_path / "measured.html").write_text(page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--window-size=1200,900", "--dump-dom", (tmp_path / "measured.html").as_uri()]
    shown = subprocess.run([browser, *options], capture_output=True, text=True, timeout=60, check=True)
    assert "<title>0 cut off</title>" in shown.stdout

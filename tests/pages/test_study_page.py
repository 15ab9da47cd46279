"""Means, tables, figures and pages of studies, from reports that nothing was trained for."""

import html

import numpy as np
import pandas as pd
import pytest

from evax.comparison.page import Bar, finding_dots
from evax.errors import DataError
from evax.evaluation.study_rows import row_of_share, run_rows, summarize_points, write_rows
from evax.files import write_json
from evax.pages.drawing import save_figure
from evax.pages.result_line import log_test_scores
from evax.pages.study import write_study_page
from evax.pages.study_figures import few_labels_figure, fold_boxes
from finished_runs import FINDINGS, change_json, write_run
from studies import content_of

SEEDS = (0, 1)


def sweep_of(folder, not_learned, **options):
    """not_learned: findings by (fraction, seed)."""
    shares = []
    for fraction in (0.1, 1.0):
        runs = []
        for seed in SEEDS:
            path = folder / "runs" / f"share-{fraction:g}-seed-{seed}"
            missed = not_learned.get((fraction, seed), ())
            write_run(path, 1 + fraction, fraction=fraction, seed=seed, not_learned=missed, **options)
            runs.append(row_of_share(content_of(path / "report.json")))
        shares.append(({"fraction": fraction, "count": None, "lr": 1e-3}, runs))
    card = {
        "kind": "fewshot", "name": folder.name, "data_fingerprint": "0123456789abcdef", "encoder": "a",
        "weights": None, "command": "evax fewshot STORE --out SWEEP", "protocol": {"name": "clean"},
    }  # fmt: skip
    write_json(card | summarize_points(shares), folder / "fewshot.json")
    write_json({}, folder / "environment.json")
    return folder / "fewshot.json"


def column(result, name):
    """(shares, seeds), of the rows of the runs; NaN without a number."""
    points = content_of(result)["points"]
    return np.array([[run[name] for run in point["runs"]] for point in points], dtype=np.float64)


def drawn(figure):
    """Heights of each curve."""
    return [line.lines[0].get_ydata() for line in figure.axes[0].containers]


def test_means_are_over_what_every_run_has_learned_and_page_and_figure_say_so(tmp_path):
    result = sweep_of(tmp_path / "one", {(0.1, 0): ("Mass",)})
    content = content_of(result)
    assert content["findings_in_means"] == ["Effusion", "Hernia"]
    # no test image has a hernia, so it has an accuracy and no AUROC
    accuracies = (column(result, "accuracy:Effusion") + column(result, "accuracy:Hernia")) / 2
    for score, expected in (("mauc", column(result, "auroc:Effusion")), ("macc", accuracies)):
        spreads = [point[score] for point in content["points"]]
        assert [spread["mean"] for spread in spreads] == pytest.approx(expected.mean(axis=1))
        assert [spread["sd"] for spread in spreads] == pytest.approx(expected.std(axis=1, ddof=1))
        (curve,) = drawn(few_labels_figure([result], score))
        assert curve == pytest.approx(expected.mean(axis=1))
    of_two = (column(result, "auroc:Effusion") + column(result, "auroc:Mass"))[1] / 2
    assert column(result, "mauc")[1] == pytest.approx(of_two)  # a run keeps its own mean
    labels = [few_labels_figure([result], score).axes[0].get_ylabel() for score in ("mauc", "macc")]
    assert labels == [f"{of}, mean ± sd over seeds" for of in ("mAUC of 1 finding", "mAcc of 2 findings")]
    page = " ".join(html.unescape(write_study_page([result]).read_text()).split())
    assert "Means are over those that every run has learned: Effusion, Hernia; the table of runs has" in page
    assert f"{content['points'][1]['mauc']['mean']:.3f} ±" in page
    assert f">{of_two[0]:.3f}<" in page.replace(" ", "")


def test_sweeps_that_learned_alike_have_the_means_of_their_runs_and_no_note(tmp_path):
    result = sweep_of(tmp_path / "one", {})
    content = content_of(result)
    for score, label in (("mauc", "mAUC"), ("macc", "mAcc")):
        means = column(result, score).mean(axis=1)
        assert [point[score]["mean"] for point in content["points"]] == pytest.approx(means)
        assert few_labels_figure([result], score).axes[0].get_ylabel() == f"{label}, mean ± sd over seeds"
    assert "Means are over those" not in write_study_page([result]).read_text()


def test_curves_of_several_sweeps_are_over_what_the_runs_of_all_have_learned(tmp_path):
    one = sweep_of(tmp_path / "one", {})
    two = sweep_of(tmp_path / "two", {(1.0, 1): ("Effusion",)})
    for curve, result in zip(drawn(few_labels_figure([one, two])), (one, two), strict=True):
        assert curve == pytest.approx(column(result, "auroc:Mass").mean(axis=1))
    named = few_labels_figure([one, two], names=["mine", "theirs"], findings=["Effusion"])
    assert drawn(named)[0] == pytest.approx(column(one, "auroc:Effusion").mean(axis=1))
    assert [container.get_label() for container in named.axes[0].containers] == ["mine", "theirs"]
    change_json(two, data_fingerprint="else")
    with pytest.raises(DataError, match="not tested on the same"):
        few_labels_figure([one, two])


def test_a_run_that_learned_nothing_is_left_out_and_counted_and_nothing_in_common_is_no_mean(
    tmp_path, caplog
):
    result = sweep_of(tmp_path / "nothing", {(0.1, 0): FINDINGS})
    few, _ = content_of(result)["points"]
    assert (few["mauc"]["entered"], few["mauc"]["mean"]) == (1, few["runs"][1]["mauc"])
    assert not caplog.text
    apart = sweep_of(tmp_path / "apart", {(0.1, 0): ("Mass", "Hernia"), (0.1, 1): ("Effusion",)})
    assert [point["mauc"]["mean"] for point in content_of(apart)["points"]] == [None, None]
    assert "No finding was learned by every run" in caplog.text
    assert (
        "No finding was learned by every run, so there are no means" in write_study_page([apart]).read_text()
    )


def test_top_1_accuracy_is_of_all_findings_together(tmp_path):
    result = sweep_of(tmp_path / "one", {(0.1, 0): ("Mass",)}, exclusive=True)
    (curve,) = drawn(few_labels_figure([result], "macc"))
    assert curve == pytest.approx(column(result, "macc").mean(axis=1))


def test_the_table_has_each_finding_of_each_run(tmp_path):
    result = sweep_of(tmp_path / "one", {(0.1, 0): ("Mass",)})
    write_rows(run_rows(content_of(result)), tmp_path / "table.csv")
    header, first, *_ = (tmp_path / "table.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), first.split(","), strict=True))
    assert (cells["auroc:Mass"], cells["accuracy:Mass"]) == ("", "")
    assert float(cells["auroc:Effusion"]) == column(result, "auroc:Effusion")[0, 0]


def test_a_sweep_from_before_findings_were_kept_says_how_to_write_it_anew(tmp_path):
    result = sweep_of(tmp_path / "one", {})
    content = content_of(result)
    del content["findings_in_means"]
    write_json(content, result)
    with pytest.raises(DataError, match="Repeat its command with --resume"):
        few_labels_figure([result])


def test_a_sweep_of_exclusive_classes_has_balanced_accuracies_also_beside_runs_from_before(tmp_path):
    runs = [write_run(tmp_path / str(seed), 1.0, seed=seed, exclusive=True) for seed in range(3)]
    rows = [row_of_share(content_of(run / "report.json")) for run in runs]
    for column in [column for column in rows[0] if column.startswith("balanced_accuracy")]:
        del rows[0][column]
    (point,) = summarize_points([({"fraction": 1.0, "count": None}, rows)])["points"]
    assert point["balanced_accuracy"]["entered"] == 2
    assert point["balanced_accuracy"]["mean"] == pytest.approx(
        (rows[1]["balanced_accuracy"] + rows[2]["balanced_accuracy"]) / 2
    )
    write_rows(run_rows({"points": [point | {"lr": 1e-3}]}), tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["balanced_accuracy"].isna().tolist() == [True, False, False]
    assert {"balanced_accuracy_low", "balanced_accuracy_high"} < set(table.columns)


def test_two_seeds_say_why_they_have_no_interval_and_how_many_runs_predict_one_class(tmp_path, caplog):
    result = sweep_of(tmp_path / "sweep", {})
    check = {"name": "Predicted classes", "passed": False, "message": "", "action": ""}
    change_json(tmp_path / "sweep" / "runs" / "share-1-seed-0" / "report.json", checks=[check])
    caplog.set_level("INFO", "evax")
    log_test_scores([result])
    warning, last = caplog.messages
    assert "1 of 4 runs predict one class for nearly all images" in warning
    assert last.count("[none: fewer than 3 seeds]") == 2
    assert "not defined" not in last
    page = write_study_page([result]).read_text()
    assert "no t-interval: fewer than 3 seeds" in page


def test_the_line_of_chance_is_drawn_where_an_auroc_is(tmp_path):
    result = sweep_of(tmp_path / "sweep", {})
    for score, expected in (("mauc", 1), ("macc", 0)):
        lines = few_labels_figure([result], score).axes[0].get_lines()
        assert sum(np.array_equal(line.get_ydata(), [0.5, 0.5]) for line in lines) == expected
    bars = [Bar(0.8, 0.7, 0.9)] * 2
    assert "dashed: chance" in finding_dots(["Mass"], [("a", bars)], "mean").axes[0].get_xlabel()
    assert "chance" not in finding_dots(["Mass"], [("a", bars)], "mean", "Dice").axes[0].get_xlabel()


def test_a_box_shows_mean_and_sd_of_the_folds_that_define_it_and_the_warning_stands_above(tmp_path):
    scores = {"Effusion": [0.8, 0.9, None], "Hernia": [None, None, None], "Mass": [0.7, None, None]}
    figure = fold_boxes(scores, title="mine", x_label="AUROC", warning="images were split")
    save_figure(figure, tmp_path / "boxes")
    text = (tmp_path / "boxes.svg").read_text()
    shown = ("0.850 ± 0.071", "not defined", ">0.700<", "images were split", "mine", "Hernia")
    assert [part for part in shown if part not in text] == []
    more = fold_boxes({**scores, "Edema": [0.7, 0.8, 0.75, 0.9]}, title="", x_label="")
    assert len(more.axes[0].patches) == 1  # of four values on

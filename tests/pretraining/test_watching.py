import logging

import pytest

from evax.pretraining.probe import ProbeResult
from evax.pretraining.watch import STEPS_OF_SPREAD, Watch, images_per_s, training_summary
from evax.runs.log import RunLog
from evax.runs.progress import live_panel


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path / "log.jsonl")


def watch(log, **changes):
    options = {"steps": 200, "first": 0, "operations": 1e9, "rate": 1e12}
    return Watch(log, **(options | changes))


def measured(**changes):
    return {
        "loss": -0.5, "cosine": 0.5, "spread": 0.8, "lr": 1e-3, "grad_norm": 1.0, "images_per_s": 250.0
    } | changes  # fmt: skip


def test_a_step_says_what_share_of_the_machine_it_used_and_how_long_the_rest_will_take(log):
    watch(log, first=100).step(150, 2, 1200, measured())
    (line,) = log.events("step")
    assert line["matmul_share"] == pytest.approx(0.25)
    assert (line["step"], line["epoch"], line["images"]) == (150, 2, 1200)
    assert 0 <= line["left_s"] < 5


def test_the_terminal_shows_the_latest_step_and_probe_in_a_frame_under_the_bar(log, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, of the kind that shows the last frame alone
    monkeypatch.setenv("TERM", "dumb")
    running = watch(log)
    with live_panel("pre-training", 3, done=1) as advance:
        running.probe(0, 0, ProbeResult(knn_auc=0.625, findings=1, linear_auc=0.5, rankme=9.0, store="ab12"))
        running.step(1, 0, 8, measured())
        advance(running.news())
    shown = [line.strip("│ ") for line in capsys.readouterr().err.strip().splitlines()]
    assert shown[0].startswith("╭")
    assert shown[1].startswith("pre-training")
    assert "2/3" in shown[1]
    assert shown[2:-1] == [
        "cosine 0.500, spread 0.80, gradient norm 1, lr 1.0e-03",
        "250 images/s, 25% of the speed of a plain matrix product",
        "after step 0: kNN AUC 0.625, linear probe 0.500, RankMe 9.0",
    ]


def test_a_gradient_that_overflowed_is_no_number_in_the_log(log):
    watch(log).step(1, 0, 8, measured(grad_norm=float("nan")))
    assert log.events("step")[0]["grad_norm"] is None


@pytest.mark.parametrize(("spread", "steps", "warned"), [(0.001, 160, 1), (0.1, 160, 0), (0.001, 140, 0)])
def test_predictions_that_are_the_same_everywhere_late_in_a_run_are_said_once(
    log, caplog, spread, steps, warned
):
    assert STEPS_OF_SPREAD == 50
    running = watch(log)
    with caplog.at_level(logging.WARNING, "evax"):
        for done in range(1, steps + 1):
            running.step(done, 0, done, measured(spread=spread))
    assert len(log.events("collapse")) == warned
    assert caplog.text.count("seems to have collapsed: the predictions are nearly the same") == warned


def test_features_on_one_line_are_a_collapse_only_in_the_second_half(log, caplog):
    running = watch(log)
    flat = ProbeResult(knn_auc=0.5, findings=1, linear_auc=0.5, rankme=1.1, store="ab12")
    running.probe(0, 0, flat)
    assert not log.events("collapse")
    running.probe(101, 808, flat)
    assert "RankMe 1.10" in log.events("collapse")[0]["sign"]
    assert "start again with a lower --optimizer.lr" in caplog.text


def test_of_steps_that_were_done_twice_the_last_line_counts_in_the_summary(log):
    for first, steps, cosine, rate in ((0, range(1, 31), 0.2, 100.0), (10, range(11, 41), 0.4, 50.0)):
        running = watch(log, first=first)
        running.probe(
            first, 8 * first, ProbeResult(knn_auc=cosine, findings=1, linear_auc=0.5, rankme=9.0, store="ab")
        )
        for done in steps:
            running.step(done, 0, 8 * done, measured(cosine=cosine + done / 1000, images_per_s=rate))
    summary = training_summary(log)
    assert summary["final_cosine"] == pytest.approx(0.4 + 30.5 / 1000)  # of steps 21 to 40
    assert images_per_s(log) == pytest.approx(39 / (9 / 100 + 30 / 50))
    assert (summary["knn_auc_first"], summary["knn_auc_last"]) == (0.2, 0.4)

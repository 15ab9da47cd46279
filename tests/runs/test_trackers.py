import logging
import sys
from dataclasses import dataclass, field

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evax.errors import ConfigError, Interrupted
from evax.runs.log import Mirror, read_events, start_run
from evax.runs.trackers import open_trackers


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-3


@dataclass(frozen=True)
class Options:
    seed: int = 3
    optimizer: Inner = field(default_factory=Inner)


def begun(out, *names, resume=False):
    return start_run(out, Options(), resume, open_trackers(names))


def curve(out, name):
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    return [(point.step, point.value) for point in events.Scalars(name)]


def test_tensorboard_shows_the_numbers_of_the_log_and_a_resumed_run_takes_the_place_of_what_was_lost(
    tmp_path,
):
    log = begun(tmp_path, "tensorboard")
    with log:
        log.write("start", step=0)
        for step in (1, 2, 3, 4):
            log.write("step", step=step, cosine=step / 8, grad_norm=None)
        log.write("probe", step=4, knn_auc=0.75)
    log = begun(tmp_path, "tensorboard", resume=True)
    with log:
        log.write("start", step=2)  # steps 3 and 4 came after the last checkpoint
        log.write("step", step=3, cosine=0.5, grad_norm=1.0)
    assert curve(tmp_path, "step/cosine") == [(1, 0.125), (2, 0.25), (3, 0.5)]
    assert curve(tmp_path, "step/grad_norm") == [(3, 1.0)]
    assert len(read_events(tmp_path / "log.jsonl", "step")) == 5


def test_mlflow_has_options_numbers_and_the_end_of_a_run_that_was_stopped_and_went_on(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes five seconds to make
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "lungs")
    out = tmp_path / "tiny"
    log = begun(out, "mlflow")

    def stopped():
        with log:
            log.write("start", step=0)
            log.write("step", step=1, cosine=0.25)
            raise Interrupted("stopped", 15)

    with pytest.raises(Interrupted):
        stopped()
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("lungs").experiment_id])
    assert (run.info.run_name, run.info.status) == ("tiny", "KILLED")
    assert run.data.params == {"seed": "3", "optimizer.lr": "0.001"}
    log = begun(out, "mlflow", resume=True)
    with log:
        log.write("step", step=2, cosine=0.5)
        log.write("probe", step=2, knn_auc=0.75)
    run = client.get_run(run.info.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["probe/knn_auc"] == 0.75
    history = client.get_metric_history(run.info.run_id, "step/cosine")
    assert [(point.step, point.value) for point in history] == [(1, 0.25), (2, 0.5)]


def test_an_mlflow_that_cannot_be_used_stops_a_run_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host")
    with pytest.raises(ConfigError, match=r"MLflow at nonsense://host cannot be used: .* or leave --track"):
        begun(tmp_path / "run", "mlflow")
    assert not any((tmp_path / "run").iterdir())


def test_what_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # what import sees where there is none
    with pytest.raises(ConfigError, match=r"--track mlflow needs .* pip install .*\[tracking\]"):
        open_trackers(["tensorboard", "mlflow"])


def test_a_mirror_that_breaks_is_left_out_and_said_so_once_and_the_log_goes_on(tmp_path, caplog):
    class Broken(Mirror):
        def begin(self, out, config, resume):
            pass

        def write(self, line):
            raise OSError("no route to host")

        def end(self, error):
            raise AssertionError("it was left out")

    log = start_run(tmp_path, Options(), False, [Broken()])
    with caplog.at_level(logging.WARNING, "evax"), log:
        log.write("step", step=1)
        log.write("step", step=2)
    assert [record.message for record in caplog.records] == [
        "Broken gets no more numbers of this run: no route to host"
    ]
    assert len(log.events("step")) == 2

"""Other places where the numbers of a run's log are shown, while it runs: TensorBoard and MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evax.config import to_plain
from evax.errors import ConfigError, install_command
from evax.files import read_json, write_json
from evax.options.training import Tracker
from evax.runs.log import Mirror

SHOWN = ("step", "probe")  # events whose numbers are curves
SECONDS_BETWEEN_SENDS = 10.0  # to MLflow: a request costs more than some steps
LONGEST_PARAMETER = 6000  # characters; MLflow's limit


def open_trackers(names: Sequence[Tracker]) -> list[Mirror]:
    """What `--track` names, not begun yet.

    Raises ConfigError when one is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"--track {name} needs a package that is not installed: {install_command('tracking')}. Or "
                "leave it out: log.jsonl has the same numbers."
            )
    makers: dict[Tracker, type[Mirror]] = {"tensorboard": TensorBoard, "mlflow": MlflowServer}
    return [makers[name]() for name in dict.fromkeys(names)]


class TensorBoard(Mirror):
    """Event files in OUT/tensorboard."""

    def __init__(self) -> None:
        self._writer: Any = None

    def begin(self, out: Path, config: Any, resume: bool) -> None:
        """Writes nothing yet: the first line tells at which step."""
        self._folder = out / "tensorboard"

    def write(self, line: Mapping[str, Any]) -> None:
        """A scalar for every number."""
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:  # what a run that was killed wrote after its last checkpoint is hidden
            self._writer = SummaryWriter(self._folder, purge_step=line["step"] + 1, flush_secs=10)
        for name, value in _curves(line):
            self._writer.add_scalar(name, value, line["step"])

    def end(self, error: BaseException | None) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()


class MlflowServer(Mirror):
    """A run at MLFLOW_TRACKING_URI, without it in mlflow.db of the working directory; its experiment is
    MLFLOW_EXPERIMENT_NAME, or evax.

    OUT/mlflow.json keeps its identity, so that a resumed run goes on there.
    """

    def __init__(self) -> None:
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    def begin(self, out: Path, config: Any, resume: bool) -> None:
        """Opens the run and gives it the options of the config."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a hospital's run reports to nobody else
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient, get_tracking_uri

        identity = out / "mlflow.json"
        try:
            self._client = MlflowClient()
            if resume and identity.is_file():
                self._run = read_json(identity)["run"]
                self._client.update_run(self._run, status="RUNNING")
                return
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "evax")
            experiment = self._client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self._client.create_experiment(name)
            self._run = self._client.create_run(number, run_name=out.resolve().name).info.run_id
            options = [Param(key, str(value)[:LONGEST_PARAMETER]) for key, value in _flat(to_plain(config))]
            self._client.log_batch(self._run, params=options)
        except MlflowException as error:
            raise ConfigError(
                f"MLflow at {get_tracking_uri()} cannot be used: {error.message} Set MLFLOW_TRACKING_URI to "
                "a server that runs, or leave --track mlflow out."
            ) from error
        write_json({"run": self._run, "server": get_tracking_uri()}, identity)

    def write(self, line: Mapping[str, Any]) -> None:
        """Keeps the numbers, and sends what it has every ten seconds and after every probe."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, line["step"]) for name, value in _curves(line)]
        if line["event"] == "probe" or time.monotonic() - self._sent > SECONDS_BETWEEN_SENDS:
            self._send()

    def end(self, error: BaseException | None) -> None:
        """Sends the rest and says how it ended."""
        self._send()
        stopped = isinstance(error, KeyboardInterrupt)
        self._client.set_terminated(
            self._run, "KILLED" if stopped else "FAILED" if error is not None else "FINISHED"
        )

    def _send(self) -> None:
        while self._waiting:
            self._client.log_batch(self._run, metrics=self._waiting[:1000])  # the server's limit
            del self._waiting[:1000]
        self._sent = time.monotonic()


def _curves(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    if line["event"] in SHOWN:
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                yield f"{line['event']}/{name}", float(value)


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

"""The run folder: what was asked, on what machine, and a line of JSON for everything that happened."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from evax.config import write_recipe
from evax.errors import ConfigError, EvaxError
from evax.files import LOCK, FolderLock, make_folder, read_lines, write_json
from evax.runs.environment import environment

logger = logging.getLogger("evax")


class Mirror(ABC):
    """Another place that is told every line of a log."""

    @abstractmethod
    def begin(self, out: Path, config: Any, resume: bool) -> None:
        """Before the first line. Raises ConfigError when the place cannot be used."""

    @abstractmethod
    def write(self, line: Mapping[str, Any]) -> None:
        """One event."""

    @abstractmethod
    def end(self, error: BaseException | None) -> None:
        """After the last line; error: what ended the run."""


def start_run(out: Path, config: Any, resume: bool | None, mirrors: Sequence[Mirror] = ()) -> RunLog:
    """Makes the run folder with config.yaml and environment.json and opens its log; a resumed run keeps both.

    resume: None where this run cannot be continued though its config has the option.
    mirrors: are begun here and told what the log is told, while it is open as a context.
    Raises as refuse_used_folder does, and DataError when another run is writing into the folder.
    """
    check_unused_folder(out, config, resume)
    make_folder(out)
    log = RunLog(out / "log.jsonl", mirrors)
    try:
        for mirror in mirrors:
            mirror.begin(out, config, bool(resume))
        if resume:
            log.write("resume", environment=environment())
        else:
            write_json(environment(), out / "environment.json")
            write_recipe(config, out / "config.yaml")  # last: with it there is a run to resume
    except BaseException:
        log.close()
        raise
    return log


def check_unused_folder(out: Path, config: Any, resume: bool | None) -> None:
    """Raises ConfigError when the folder already holds something and resume is not asked for, or the other
    way round. Arguments as for start_run.
    """
    if out.exists() and (not out.is_dir() or _is_begun(out)) and not resume:
        ways = "continue with --resume, or" if resume is not None and hasattr(config, "resume") else "or"
        raise ConfigError(f"The run folder {out} exists. Choose another --out, {ways} delete it.")
    if resume and not (out / "config.yaml").is_file():
        raise ConfigError(f"There is no run to resume in {out}. Leave --resume out to start it.")


@contextmanager
def run_folder(out: Path, config: Any, resume: bool | None = False) -> Iterator[RunLog]:
    """start_run for a block that may yet find out that it cannot begin: such a folder is taken away again.

    Only where this call made the run, the error is the user's to mend, and nothing was logged and no run of a
    study begun.
    """
    log = start_run(out, config, resume)
    try:
        yield log
    except EvaxError:
        if not resume and not (out / "log.jsonl").exists() and not any(out.glob("runs/*")):
            shutil.rmtree(out, ignore_errors=True)  # a folder that is mounted stays, empty
        raise
    finally:
        log.close()


def _is_begun(out: Path) -> bool:
    """Whether a folder holds anything but what a run left that was killed before it began."""
    remains = {
        LOCK,
        "mlflow.json",
        "environment.json",
        ".environment.json.unfinished",
        ".config.yaml.unfinished",
    }
    return any(path.name not in remains for path in out.iterdir())


class RunLog:
    """log.jsonl: one JSON object a line, written at once. As a context it tells its mirrors, too.

    Until the context ends, close is called or nothing keeps it, no other run writes into its folder. Raises
    DataError when another one does already.
    """

    def __init__(self, path: Path, mirrors: Sequence[Mirror] = ()) -> None:
        self.path, self._start, self._lock = path, time.monotonic(), FolderLock(path.parent)
        self._mirrors, self._told = list(mirrors), list[Mirror]()
        if path.is_file() and not (text := path.read_bytes()).endswith(b"\n"):
            # a kill or a full disk broke the last line off
            path.write_bytes(text[: text.rfind(b"\n") + 1])

    def write(self, event: str, **facts: Any) -> None:
        """Appends an event with the seconds since this process started the run."""
        line = {"event": event, **facts, "seconds": round(time.monotonic() - self._start, 2)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._tell(lambda mirror: mirror.write(line))

    def __enter__(self) -> None:
        self._told = self._mirrors

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(lambda mirror: mirror.end(error))
        self._told = []
        self.close()

    def close(self) -> None:
        """Lets other runs write into the folder."""
        self._lock.release()

    def _tell(self, what: Callable[[Mirror], None]) -> None:
        for mirror in list(self._told):
            try:
                what(mirror)
            except Exception as error:  # a run of days does not end because a server did: the log has it all
                self._told.remove(mirror)
                logger.warning("%s gets no more numbers of this run: %s", type(mirror).__name__, error)

    def events(self, event: str) -> list[dict[str, Any]]:
        """All lines of one kind, those of interrupted parts of the run included."""
        return read_events(self.path, event)

    def seconds_before(self) -> float:
        """Of the parts before this one, each to the last line it wrote."""
        lines = read_lines(self.path)
        ends = [before for before, line in itertools.pairwise(lines) if line["event"] == "resume"]
        return sum(line["seconds"] for line in ends)


class QuietLog(RunLog):
    """The log of the processes that leave the writing to the first."""

    def __init__(self) -> None:
        self._mirrors, self._told = [], []

    def write(self, event: str, **facts: Any) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_events(path: Path, event: str) -> list[dict[str, Any]]:
    """The lines of one kind; see files.read_lines."""
    return [line for line in read_lines(path) if line["event"] == event]

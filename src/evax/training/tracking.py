"""The run folder: what was asked, on what machine, and a line of JSON for everything that happened."""

from __future__ import annotations

import itertools
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from evax.config import write_recipe
from evax.errors import ConfigError, EvaxError
from evax.files import make_folder, replaced_whole, write_json

logger = logging.getLogger("evax")

LIBRARIES = ("evax", "torch", "timm", "numpy", "pillow", "pydicom", "pyarrow")


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
    Raises as refuse_used_folder does.
    """
    refuse_used_folder(out, config, resume)
    make_folder(out)
    for mirror in mirrors:
        mirror.begin(out, config, bool(resume))
    log = RunLog(out / "log.jsonl", mirrors)
    if resume:
        log.write("resume", environment=environment())
    else:
        write_json(environment(), out / "environment.json")
        with replaced_whole(out / "config.yaml") as unfinished:  # last: with it there is a run to resume
            write_recipe(config, unfinished)
    return log


def refuse_used_folder(out: Path, config: Any, resume: bool | None) -> None:
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
        if not resume and not any((out / name).exists() for name in ("log.jsonl", "runs")):
            shutil.rmtree(out, ignore_errors=True)  # a folder that is mounted stays, empty
        raise


def _is_begun(out: Path) -> bool:
    """Whether a folder holds anything but what a run left that was killed before it began."""
    remains = {"mlflow.json", "environment.json", ".environment.json.unfinished", ".config.yaml.unfinished"}
    return any(path.name not in remains for path in out.iterdir())


class RunLog:
    """log.jsonl: one JSON object a line, written at once. As a context it tells its mirrors, too."""

    def __init__(self, path: Path, mirrors: Sequence[Mirror] = ()) -> None:
        self.path, self._start = path, time.monotonic()
        self._mirrors, self._told = list(mirrors), list[Mirror]()
        if path.is_file() and not (text := path.read_bytes()).endswith(b"\n"):
            # a kill or a full disk broke the last line off
            path.write_bytes(text[: text.rfind(b"\n") + 1])

    def write(self, event: str, **facts: Any) -> None:
        """Appends an event with the seconds since this process started the run."""
        line = {"event": event, **facts, "seconds": round(time.monotonic() - self._start, 2)}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._tell(lambda mirror: mirror.write(line))

    def __enter__(self) -> None:
        self._told = self._mirrors

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(lambda mirror: mirror.end(error))
        self._told = []

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


class QuietLog(RunLog):
    """The log of the processes that leave the writing to the first."""

    def __init__(self) -> None:
        self._mirrors, self._told = [], []

    def write(self, event: str, **facts: Any) -> None:
        """Nothing."""


def read_events(path: Path, event: str) -> list[dict[str, Any]]:
    """All lines of one kind in a log.jsonl; none where there is no such file. A last line that broke off is
    left out.
    """
    text = path.read_text() if path.is_file() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in lines if line["event"] == event]


@contextmanager
def counting_bar(
    title: str, total: int, done: int = 0, shown: bool = True
) -> Iterator[Callable[[int, str], None]]:
    """A terminal bar with rate and time left; the yielded function takes how much is done and a note."""
    columns = (*_bar_columns(), TextColumn("{task.fields[note]}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, refresh_per_second=2, disable=not shown) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")
        yield lambda now, note: progress.update(task, completed=now, note=note)


def _bar_columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


@contextmanager
def progress_bar(
    title: str, total: int, done: int = 0, shown: bool = True
) -> Iterator[Callable[[str], None]]:
    """The same, moved on by one at every call."""
    steps = itertools.count(done + 1)
    with counting_bar(title, total, done, shown) as show:
        yield lambda note: show(next(steps), note)


class _Framed(Progress):
    """The bar in a frame, its notes beneath it."""

    def get_renderables(self) -> Iterable[RenderableType]:
        notes = (task.fields["note"] for task in self.tasks)
        yield Panel(Group(self.make_tasks_table(self.tasks), *notes), expand=False)


@contextmanager
def live_panel(title: str, total: int, done: int = 0, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """As progress_bar, for a note of several lines."""
    steps, console = itertools.count(done + 1), Console(stderr=True)
    with _Framed(*_bar_columns(), console=console, refresh_per_second=2, disable=not shown) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")
        yield lambda note: progress.update(task, completed=next(steps), note=note)


def environment() -> dict[str, Any]:
    """Versions, processor, commit and date: what a number needs beside it."""
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return platform.processor() or platform.machine()
    lines = dict(
        line.split(":", 1) for line in information.read_text().split("\n\n")[0].splitlines() if ":" in line
    )
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    features = [
        name
        for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        if name in facts.get("flags", "").split()
    ]
    return f"{facts.get('model name', platform.machine())} ({', '.join(features)})"


def _commit() -> str | None:
    """The commit evax was run from, with '+' when files differ from it; None for an installed wheel."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name],
            cwd=here,
            capture_output=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() if tracked.returncode == 0 else None

"""Progress: bars in a terminal; where there is none (nohup, CI), a line now and then."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

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

MOST_SECONDS, LEAST_SECONDS = 60, 5  # between two lines; the shorter one where a share of the work was done
SHARE = 0.05


class PlainLines:
    """A line after the first step, then about every minute or every 5 %, and after the last.

    write: takes a line. total: steps. done: before this process. clock: seconds.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        title: str,
        total: int,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._title, self._total, self._first, self._clock = write, title, total, done, clock
        self._start = clock()
        self._said, self._said_at, self._notes = done, -math.inf, list[str]()  # of the latest line

    def show(self, now: int, note: str) -> None:
        """now: steps that are done. note: may have several lines; what was said before is left out."""
        moment = self._clock()
        waited, moved = moment - self._said_at, now - self._said
        last = now >= self._total and moved > 0
        if not (last or waited >= MOST_SECONDS or (waited >= LEAST_SECONDS and moved >= SHARE * self._total)):
            return
        self._said, self._said_at = now, moment
        spent = moment - self._start
        words = [f"{self._title}: {now:,} of {self._total:,} in {timedelta(seconds=round(spent))}"]
        if self._first < now < self._total:
            left = spent / (now - self._first) * (self._total - now)
            words.append(f"{timedelta(seconds=round(left))} left")
        before, self._notes = self._notes, [line for line in note.splitlines() if line]
        self._write("; ".join([", ".join(words), *(line for line in self._notes if line not in before)]))


@contextmanager
def counting_bar(
    title: str, total: int, done: int = 0, shown: bool = True
) -> Iterator[Callable[[int, str], None]]:
    """A terminal bar with rate and time left, or plain lines where there is no terminal; the yielded function
    takes how much is done and a note.
    """
    columns = (*_bar_columns(), TextColumn("{task.fields[note]}"))
    with _progress(Progress, columns, title, total, done, shown) as show:
        yield show


@contextmanager
def _progress(
    kind: type[Progress], columns: Sequence[ProgressColumn], title: str, total: int, done: int, shown: bool
) -> Iterator[Callable[[int, str], None]]:
    console = Console(stderr=True)
    if shown and not (console.is_terminal or console.is_jupyter):
        yield PlainLines(lambda line: console.out(line, highlight=False), title, total, done).show
        return
    with kind(*columns, console=console, refresh_per_second=2, disable=not shown) as progress:
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
    steps = itertools.count(done + 1)
    with _progress(_Framed, _bar_columns(), title, total, done, shown) as show:
        yield lambda note: show(next(steps), note)

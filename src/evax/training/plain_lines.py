"""Progress where no terminal shows a bar (nohup, CI): a line now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta

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

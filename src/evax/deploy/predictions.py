"""The table that evax predict writes: film by film, locked while it grows, gone on from after a kill.

No job: it has no command.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import logging
import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from evax.data.films import find_films
from evax.errors import DataError
from evax.files import make_folder, name_of, open_csv, refuse_existing, refuse_second_writer

logger = logging.getLogger("evax")


class Scores:
    """The table, line by line in a file beside it that takes its place when all films have one.

    What was kept of it outlives a kill; with resume its films are not scored again. Only what the same bundle
    wrote, in the same runtime and with the same maps, is gone on from.
    """

    def __init__(
        self, out: Path, films: tuple[Path, ...], columns: Sequence[str], resume: bool, content: str
    ) -> None:
        """columns: of an answer, between name and notes. content: what the answers depend on."""
        self.out, self.films, self.columns, self.resume = out, films, columns, resume
        digest = hashlib.blake2b(content.encode(), digest_size=6).hexdigest()
        self.unfinished = out.with_name(f".{out.name}.{digest}.unfinished")
        self.rows, self.unread, self.first_reason = 0, 0, ""

    def __enter__(self) -> Scores:
        make_folder(self.out.parent)
        try:
            self.file = open_csv(self.unfinished, "a")
        except OSError as error:
            raise self._not_written(error) from error
        refuse_second_writer(self.file, self.out)
        self.table = csv.writer(self.file)
        header = ["file", *self.columns, "notes", "error"]
        end = self._kept(header)
        if self.rows and not self.resume:
            raise DataError(
                f"A stopped run has scored {self.rows} of these films: add --resume to go on after them, or "
                f"delete {self.unfinished}."
            )
        self.file.truncate(end)
        if not end:
            self.table.writerow(header)
        if self.rows:
            logger.info("Going on after %d films that have been scored.", self.rows)
        return self

    def _kept(self, header: list[str]) -> int:
        """Counts the lines of an earlier run, as far as they are whole and of the films that are found now;
        returns where they end.
        """
        end = 0
        with self.unfinished.open("rb") as file, contextlib.suppress(csv.Error):  # cut between two quotes
            whole = takewhile(lambda line: line.endswith(b"\n"), file)
            lines = csv.reader((line.decode(errors="replace") for line in whole), strict=True)
            if next(lines, None) == header:
                end = file.tell()
                for path, line in zip(find_films(self.films), lines, strict=False):
                    if line[0] != name_of(path) or len(line) != len(header):
                        break
                    self.rows, self.unread = self.rows + 1, self.unread + bool(line[-1])
                    end = file.tell()
        return end

    def refused(self, path: Path, reason: str) -> None:
        """A line for a film that cannot be read."""
        self.first_reason = self.first_reason or reason
        self.table.writerow([name_of(path), *[""] * (len(self.columns) + 1), reason])
        self.rows, self.unread = self.rows + 1, self.unread + 1

    def scored(self, path: Path, cells: Sequence[str], issues: Sequence[str]) -> None:
        """A line for a film. cells: one per column."""
        self.table.writerow([name_of(path), *cells, " ".join(issues), ""])
        self.rows += 1

    def keep(self) -> None:
        """What has been written so far outlives a kill."""
        self.file.flush()

    def finish(self) -> None:
        """The table takes its place. Raises DataError when no film could be read, or the place is taken."""
        if self.unread == self.rows:
            reason = self.first_reason or "see an earlier run"
            raise DataError(f"None of the {self.rows} files could be read; the first reason: {reason}")
        refuse_existing(self.out)
        self.file.close()
        os.replace(self.unfinished, self.out)
        if self.unread:
            logger.warning(
                "%d of %d films could not be read: the column error of %s says why.",
                self.unread, self.rows, self.out,
            )  # fmt: skip

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with contextlib.suppress(OSError):  # a full disk is said below, a finished table is closed
            self.file.close()
        if error and self.unread == self.rows:  # not worth going on from
            self.unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> DataError:
        return DataError(
            f"{self.out} could not be written: {error}. Free some space and add --resume, or choose another "
            "--out."
        )

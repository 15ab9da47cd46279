"""The table that evax predict writes: image by image, locked while it grows, resumed after a kill."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import logging
import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from evax.data.films import find_images
from evax.errors import DataError
from evax.files import check_absent, check_single_writer, make_folder, name_of, open_csv

logger = logging.getLogger("evax")


class PredictionsTable:
    """The table, line by line in a file next to it that replaces it when all images have a line.

    Flushed lines survive a kill; with resume their images are not scored again. Only lines of the same
    bundle, runtime and maps are resumed.
    """

    def __init__(
        self, out: Path, films: tuple[Path, ...], columns: Sequence[str], resume: bool, content: str
    ) -> None:
        """columns: of an answer, between name and notes. content: what the answers depend on."""
        self.out, self.films, self.columns, self.resume = out, films, columns, resume
        digest = hashlib.blake2b(content.encode(), digest_size=6).hexdigest()
        self.unfinished = out.with_name(f".{out.name}.{digest}.unfinished")
        self.rows, self.unread, self.first_reason = 0, 0, ""

    def __enter__(self) -> PredictionsTable:
        make_folder(self.out.parent)
        try:
            self.file = open_csv(self.unfinished, "a")
        except OSError as error:
            raise self._not_written(error) from error
        check_single_writer(self.file, self.out)
        self.table = csv.writer(self.file)
        header = ["file", *self.columns, "notes", "error"]
        end = self._kept(header)
        if self.rows and not self.resume:
            raise DataError(
                f"A stopped run has scored {self.rows} of these images: add --resume to go on after them, or "
                f"delete {self.unfinished}."
            )
        self.file.truncate(end)
        if not end:
            self.table.writerow(header)
        if self.rows:
            logger.info("Going on after %d images that have been scored.", self.rows)
        return self

    def _kept(self, header: list[str]) -> int:
        """Counts the lines of an earlier run, as far as they are whole and of the images that are found now;
        returns where they end.
        """
        end = 0
        with self.unfinished.open("rb") as file, contextlib.suppress(csv.Error):  # cut between two quotes
            whole = takewhile(lambda line: line.endswith(b"\n"), file)
            lines = csv.reader((line.decode(errors="replace") for line in whole), strict=True)
            if next(lines, None) == header:
                end = file.tell()
                for path, line in zip(find_images(self.films), lines, strict=False):
                    if line[0] != name_of(path) or len(line) != len(header):
                        break
                    self.rows, self.unread = self.rows + 1, self.unread + bool(line[-1])
                    end = file.tell()
        return end

    def add_error(self, path: Path, reason: str) -> None:
        """A line for an image that cannot be read."""
        self.first_reason = self.first_reason or reason
        self.table.writerow([name_of(path), *[""] * (len(self.columns) + 1), reason])
        self.rows, self.unread = self.rows + 1, self.unread + 1

    def add(self, path: Path, cells: Sequence[str], issues: Sequence[str]) -> None:
        """A line for an image. cells: one per column."""
        self.table.writerow([name_of(path), *cells, " ".join(issues), ""])
        self.rows += 1

    def flush(self) -> None:
        """Lines written so far survive a kill."""
        self.file.flush()

    def finish(self) -> None:
        """Moves the table to its path. Raises DataError when no image could be read or the path exists."""
        if self.unread == self.rows:
            reason = self.first_reason or "see an earlier run"
            raise DataError(f"None of the {self.rows} files could be read; the first reason: {reason}")
        check_absent(self.out)
        self.file.close()
        os.replace(self.unfinished, self.out)
        if self.unread:
            logger.warning(
                "%d of %d images could not be read: the column error of %s says why.",
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

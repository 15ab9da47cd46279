"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evax.errors import DataError


@contextlib.contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well; otherwise nothing
    remains.

    Raises DataError, naming the file, when it cannot be written (a full disk, for example).
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise DataError(
            f"{path} could not be written: {error}. Free some space or choose another folder."
        ) from error
    finally:
        # a folder that cannot be written cannot be cleaned either, and the first error says more
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_json(content: Any, path: Path) -> None:
    """Indented JSON; NaN is refused, use None."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with replaced_whole(path) as unfinished:
        unfinished.write_text(text)


def read_json(path: Path) -> Any:
    """Raises DataError naming a file that is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from error

"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evax.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


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


def refuse_existing(path: Path) -> None:
    """Nothing is written over. Raises DataError for a file that is there."""
    if path.exists():
        raise DataError(f"{path} exists. Choose another --out.")


def make_folder(path: Path, mode: int = 0o777) -> Path:
    """The folder, made with its parents where it is missing. Raises DataError when that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise DataError(f"The folder {path} cannot be made: {error.strerror}. Choose another.") from error
    return path


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """A safetensors file, whole or not at all. Raises DataError when it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replaced_whole(path) as unfinished:
        try:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                unfinished,
                metadata,
            )
        except SafetensorError as error:  # a full disk comes out of safetensors as its own kind of error
            raise OSError(str(error)) from error
        # safetensors makes files for their owner only; who may read the folder may read its weights
        unfinished.chmod(path.parent.stat().st_mode & 0o666)


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

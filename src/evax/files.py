"""Files that are written whole or not at all, and by one run at a time."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import hashlib
import json
import logging
import os
import re
import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from evax.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("evax")
LOCK = ".lock"  # in a folder that a run is writing


def name_of(path: str | os.PathLike[str]) -> str:
    r"""The text that the bytes of a path spell in UTF-8: the same in every locale, and always valid Unicode.

    A byte that is no UTF-8 is written as an escape: `b\udcf6r.png` for `bör.png` in Latin-1. `path_of`
    leads back.
    """
    return os.fsencode(path).decode(errors="surrogateescape").encode(errors="backslashreplace").decode()


def path_of(name: str) -> str:
    """The path that a name of `name_of`, or one read from a text file, has on this machine."""
    escaped = re.sub(r"\\udc([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), name)
    return os.fsdecode(escaped.encode(errors="surrogateescape"))


def read_text(path: Path) -> str:
    """A text file, whatever the locale; see encoding_of."""
    return path.read_text(encoding=encoding_of(path))


def encoding_of(path: Path) -> str:
    """UTF-16 for a text, maybe gzipped, that begins with its byte order mark, as some Windows programs write
    it; else UTF-8, with a byte order mark or without one.
    """
    if not path.is_file():  # a pipe can be read only once
        return "utf-8-sig"
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def write_text(text: str, path: Path) -> None:
    """A text file in UTF-8, whole or not at all; what UTF-8 cannot hold is written as an escape."""
    with replaced_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def open_csv(file: Path | int, mode: str = "w") -> IO[str]:
    """A file for the csv module to write into, in UTF-8; what UTF-8 cannot hold is written as an escape.

    file: a path, or the number of an open file. mode: "w" or "a".
    """
    return open(file, mode, newline="", encoding="utf-8", errors="backslashreplace")


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


def checked_path(path: Any, by: str) -> Path:
    """The path that was given. Raises ConfigError for anything else, DataError for a text that is no path.

    by: what the path is needed for, as the beginning of a sentence: "A store is given by".
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ConfigError(f"{by} its path (str or pathlib.Path), not by {type(path).__name__}.")
    if "\0" in text:
        raise DataError(f"{by} its path, and no path holds a null character: {text!r}.")
    return Path(text)


def check_absent(path: Path) -> None:
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


def check_single_writer(file: IO[Any], out: Path) -> None:
    """Locks a file until it is closed or its process dies; there are no such locks on Windows.

    out: what is being written. Raises DataError when another run holds the lock.
    """
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"Another run is writing {out}: wait for it, stop it, or write somewhere else."
            ) from error
        except OSError as error:  # some network file systems have no locks
            logger.warning("%s cannot be locked (%s): let no second run write there.", out, error.strerror)


class FolderLock:
    """A folder that this run alone writes into, until the lock is released or dropped, or its process dies.

    Raises DataError when another run holds the folder, or it cannot be written into.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        try:
            file = path.open("ab")
        except OSError as error:
            raise DataError(f"{folder} cannot be written into: {error.strerror}. Choose another.") from error
        try:
            check_single_writer(file, folder)
            if not _is_at(file, path):  # the run before took its file away between our two steps
                raise DataError(f"Another run was writing {folder} a moment ago: try again.")
        except DataError:
            file.close()
            raise
        self.release = weakref.finalize(self, _give_back, file, path)
        """Once or several times."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.release()


def _give_back(file: IO[Any], path: Path) -> None:
    with contextlib.suppress(OSError):
        if _is_at(file, path):  # and not the lock of a run that began in a new folder of the same name
            path.unlink()  # while it is locked
    file.close()


def _is_at(file: IO[Any], path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


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
        _sort_metadata(unfinished)
        # safetensors makes files for their owner only; who may read the folder may read its weights
        unfinished.chmod(path.parent.stat().st_mode & 0o666)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Of names and bytes; safetensors itself notices a cut file, but no changed byte."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sort_metadata(path: Path) -> None:
    """Makes a safetensors file a function of its content: safetensors writes metadata in random order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))


def write_json(content: Any, path: Path) -> None:
    """Indented JSON; NaN is refused, use None."""
    write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", path)


def read_json(path: Path) -> Any:
    """Raises DataError naming a file that is missing or damaged."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All events of a log.jsonl; none where there is no such file. A last line that broke off is left out.

    Raises DataError naming the file and a line that is damaged.
    """
    text = path.read_bytes() if path.is_file() else b""
    lines = []
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            content = json.loads(line)
            lines.append(dict(content) | {"event": content["event"]})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}, line {number}, is not a JSON object with an 'event': "
                f"{line[:60].decode(errors='replace')!r}. Mend that line, or delete it."
            ) from error
    return lines

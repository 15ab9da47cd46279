"""Archives into folders: regular files only, within the folder, bounded; an interrupted one goes on."""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from evax.errors import DataError
from evax.files import replaced_whole

GZIP, CHUNK = b"\x1f\x8b", 1 << 20
MOST_TIMES = 20  # so many times the archive's size may come out of it; images hardly shrink
AGAIN = "Delete the archive and fetch it again."
MOST_FILES = 200_000  # the largest set has twelve archives of at most 10,000 images
MOST_MORE = 50_000_000  # bytes beyond that, for small archives of tables


class _Refused(DataError):
    """Of the archive itself, not of a full disk, after which unpacking goes on."""


class _Contents:
    """Files of an archive that were looked at so far, and what they come to."""

    def __init__(self, archive: Path) -> None:
        self._archive, self._files, self._bytes = archive, 0, 0
        self._most = archive.stat().st_size * MOST_TIMES + MOST_MORE

    def add(self, name: str, size: int) -> PurePosixPath:
        """The file's path. Raises _Refused for one outside the folder, and when it becomes too much."""
        path = PurePosixPath(name)
        self._files, self._bytes = self._files + 1, self._bytes + size
        if PureWindowsPath(name).anchor or ".." in path.parts or "\\" in name:  # an anchor: / or C:
            fault = f"the file {name}, outside its folder"
        elif self._bytes > self._most:
            fault = f"more than {self._most} bytes, far above its size"
        elif self._files > MOST_FILES:
            fault = f"more than {MOST_FILES} files"
        else:
            return path
        raise _Refused(f"{self._archive} holds {fault}: it is not used. {AGAIN}")


def unpack(archive: Path, folder: Path, top: str = "", places: Mapping[str, str] | None = None) -> int:
    """The files of a zip or tar archive under a folder; those that are there in their size are kept.

    top: folder in the archive that is left off. places: folder in the archive -> folder here; files of others
    keep their place.
    Returns how many files it holds. Raises DataError for a damaged archive, one that would write outside the
    folder, and one that holds far more than its size or too many files; nothing of such an archive is kept.
    """
    written: list[Path] = []
    count, contents = 0, _Contents(archive)
    try:
        if zipfile.is_zipfile(archive):  # lists its files by itself: all are looked at before one is written
            listed = _Contents(archive)
            with zipfile.ZipFile(archive) as packed:
                for info in _files(packed):
                    listed.add(info.filename, info.file_size)
        for name, size, content in _members(archive):
            path = contents.add(name, size)
            if top and path.is_relative_to(top):
                path = path.relative_to(top)
            if path.name.startswith(".") or path.parts[:1] in ((), ("__MACOSX",)):
                continue
            count += 1
            target = folder / _placed(path, places or {})
            if target.is_file() and target.stat().st_size == size:
                continue
            with replaced_whole(target) as unfinished, unfinished.open("wb") as file:
                shutil.copyfileobj(content, file)
            written.append(target)
    except _Refused:
        for target in written:  # nothing of a refused archive is used
            target.unlink(missing_ok=True)
        raise
    except (
        zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, tarfile.TarError, EOFError, RuntimeError
    ) as error:  # fmt: skip
        raise DataError(
            f"{archive} is damaged ({error}): delete it and {folder}, then fetch it again."
        ) from error
    return count


def _placed(path: PurePosixPath, places: Mapping[str, str]) -> PurePosixPath:
    for before, after in places.items():
        if path.is_relative_to(before):
            return PurePosixPath(after) / path.relative_to(before)
    return path


def _files(packed: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [
        info for info in packed.infolist() if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
    ]


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of every regular file; links, devices and folders are passed over."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in _files(packed):
                with packed.open(info) as content:
                    yield info.filename, info.file_size, content
        return
    with archive.open("rb") as file:
        packed_with = gzip.open if file.read(2) == GZIP else open
    with packed_with(archive, "rb") as plain:
        with tarfile.open(fileobj=plain, mode="r|") as stream:
            for member in stream:
                if member.isreg() and (data := stream.extractfile(member)):
                    yield member.name, member.size, data
        while plain.read(CHUNK):  # to the end, where gzip has its checksum
            pass

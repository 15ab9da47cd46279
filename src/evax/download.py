"""One file from a server into a folder: resumable, verified, bounded. Weights and data sets share it."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evax.errors import DataError, EvaxError
from evax.files import read_json, read_text, write_json, write_text

logger = logging.getLogger("evax")
CHECKSUMS = "checksums.json"  # file name -> sha256 and size when it first came, by download or by hand
ROUNDED = 0.02  # a size of three figures may be off by this share
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file that lies on a server, and what was published about it."""

    file: str
    """Its name in the folder."""
    url: str
    size: int | None = None
    """Bytes; rounded to three figures unless `size_is_exact`."""
    size_is_exact: bool = False
    sha256: str = ""
    """As far as it was published: start…end."""
    largest: int = 4_000_000_000
    """Bytes that are accepted where no size was published."""


def cache_folder(variable: str, name: str) -> Path:
    """The folder that an environment variable names, else `name` in the user's cache."""
    import pooch

    return Path(os.environ.get(variable) or Path(pooch.os_cache("evax")) / name)


def fetch_file(remote: Remote, folder: Path, wrong: type[EvaxError], otherwise: str, as_it_is: str) -> Path:
    """The file, downloaded when the folder does not hold it yet; a broken download goes on where it stopped.

    Its checksum is compared at every call with the one that was published, else with the one it had at the
    first call, which is recorded.
    wrong: the error to raise. otherwise: what else a person can do, as the end of a sentence. as_it_is: how
    to use another file than the published one, as a sentence.
    Raises `wrong` when the file cannot be had, or is not the one that was published or came first.
    """
    import pooch
    import requests

    path = folder / remote.file
    if path.is_file():
        known = recorded(folder).get(remote.file)
        try:
            _verify(path, remote, known, wrong)
        except EvaxError as error:
            raise wrong(f"{error} Delete it and fetch it again, or: {as_it_is}") from error
        if not known:
            _record(path, "put here by hand")
        return path
    part = folder / f".{remote.file}.part"

    def download(url: str, output_file: str, _: Any) -> None:
        _resume(url, part, remote)
        try:
            _verify(part, remote, None, wrong)
        except EvaxError:
            part.unlink()
            raise
        os.replace(part, output_file)

    pooch.get_logger().setLevel(logging.WARNING)  # the bar says what pooch would say
    try:
        pooch.retrieve(remote.url, known_hash=None, fname=remote.file, path=folder, downloader=download)
        _record(path, remote.url)
    except (requests.RequestException, OSError) as error:
        raise wrong(
            f"{remote.url} could not be fetched: {error}. Run it again to go on where it stopped, "
            f"{otherwise}."
        ) from error
    return path


def _resume(url: str, part: Path, remote: Remote) -> None:
    """Appends to `part` what is missing, when the server still has the very file it was begun from."""
    import requests
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    tag = part.with_suffix(".etag")
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    headers = {"Accept-Encoding": "identity"}  # Content-Length is then the length of the file
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": read_text(tag)}
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            have = 0  # it had all come, but was not moved into place: once more from the start
            part.unlink()
            response.close()
            return _resume(url, part, remote)
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            have = 0
        total = have + int(response.headers.get("Content-Length", 0)) or None
        limit = int((remote.size or remote.largest) * (1 if remote.size_is_exact else 1 + ROUNDED))
        tag.unlink(missing_ok=True)
        if version := response.headers.get("ETag") or response.headers.get("Last-Modified"):
            write_text(version, tag)
        if (total or 0) > limit:
            raise requests.RequestException(f"it has {total} bytes, at most {limit} were expected")
        bar = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        progress = Progress("{task.description}", *bar, console=Console(stderr=True))
        with progress, part.open("ab" if have else "wb") as file:
            task = progress.add_task(remote.file, total=total, completed=have)
            for chunk in response.iter_content(CHUNK):
                have += len(chunk)
                if have > limit:
                    tag.unlink(missing_ok=True)
                    raise requests.RequestException(f"more came than the {limit} bytes expected")
                file.write(chunk)
                progress.update(task, completed=have)
    tag.unlink(missing_ok=True)
    return None


def _verify(path: Path, remote: Remote, known: dict[str, Any] | None, wrong: type[EvaxError]) -> None:
    """Raises `wrong` unless the file has the size and checksum that were published or recorded."""
    size = path.stat().st_size
    allowed = 0 if remote.size_is_exact else ROUNDED * (remote.size or 0)
    if remote.size is not None and abs(size - remote.size) > allowed:
        about = "" if remote.size_is_exact else "about "
        raise wrong(f"{path} has {size} bytes, the published file {about}{remote.size}.")
    expected = remote.sha256 or (known or {}).get("sha256", "")
    if not expected:
        return
    found = sha256_of(path)
    start, _, end = expected.partition("…")
    if not (found.startswith(start) and found.endswith(end)):
        which = (
            "was published."
            if remote.sha256
            else f"came first. If it is the right one, remove its entry from {path.parent / CHECKSUMS}."
        )
        raise wrong(f"{path} has the sha256 {found}, expected {expected}: it is not the file that {which}")


def _record(path: Path, url: str) -> None:
    """Notes the checksum of a file that has come; of a folder that cannot be written a line of the log says
    so.
    """
    facts = {"sha256": sha256_of(path), "bytes": path.stat().st_size, "url": url}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        write_json(recorded(path.parent) | {path.name: facts | {"date": date}}, path.parent / CHECKSUMS)
    except DataError as error:
        logger.warning("The checksum of %s is not kept, so a change of it goes unnoticed: %s", path, error)


def recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """What was noted of each file when it first came: sha256, bytes, url, date.

    Raises DataError for a record that is damaged.
    """
    path = folder / CHECKSUMS
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict) or not all(isinstance(facts, dict) for facts in content.values()):
        raise DataError(f"{path} is no table of checksums. Delete it; the files are then recorded anew.")
    return content


def sha256_of(path: Path) -> str:
    """Of a file of any size, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

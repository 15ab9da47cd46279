"""Published files into the weights folder: resumable, verified, from the authors' page or a mirror of it."""

from __future__ import annotations

import hashlib
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evax.errors import WeightsError
from evax.files import read_json, write_json
from evax.weights.released import Released, released

FOLDER_VARIABLE = "EVAX_WEIGHTS"
MIRROR_VARIABLE = "EVAX_WEIGHTS_MIRROR"
CHECKSUMS = "checksums.json"  # file name -> what was downloaded; where the table knows no checksum
LARGEST = 4_000_000_000  # bytes; no released file is near it
ROUNDED = 0.02  # a size of three figures may be off by this share
CHUNK = 1 << 20


def weights_folder() -> Path:
    """Where published files lie: EVAX_WEIGHTS, else the user's cache. Files put there by hand are used."""
    import pooch

    return Path(os.environ.get(FOLDER_VARIABLE) or Path(pooch.os_cache("evax")) / "weights")


def fetch_published(name: str, folder: Path | None = None) -> Path:
    """The file of a published weight, downloaded when the folder does not hold it yet.

    name: a key of RELEASED. folder: default weights_folder(). A broken download goes on where it stopped.
    Raises ConfigError for an unknown name, WeightsError when it cannot be had or is not the published file.
    """
    import pooch
    import requests

    row, folder = released(name), folder or weights_folder()
    path = folder / row.file
    if path.is_file():
        _verify(path, row, _recorded(folder).get(row.file, {}).get("sha256", ""))
        return path
    if row.refused:
        raise WeightsError(f"{name} is not offered: {row.refused}.")
    mirror = os.environ.get(MIRROR_VARIABLE)
    url = f"{mirror.rstrip('/')}/{row.file}" if mirror else row.url
    if not url:
        raise WeightsError(
            f"{row.file} has to be fetched by hand, {row.by_hand}. Put it into {folder} under that name "
            f"({FOLDER_VARIABLE} names another folder), or set {MIRROR_VARIABLE} to a server that has it."
        )
    part = folder / f".{row.file}.part"

    def download(url: str, output_file: str, _: Any) -> None:
        _resume(url, part, row)
        try:
            _verify(part, row, "")
        except WeightsError:
            part.unlink()
            raise
        os.replace(part, output_file)

    pooch.get_logger().setLevel(logging.WARNING)  # the bar says what pooch would say
    try:
        pooch.retrieve(url, known_hash=None, fname=row.file, path=folder, downloader=download)
        facts = {"sha256": _sha256(path), "bytes": path.stat().st_size, "url": url}
        date = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(_recorded(folder) | {row.file: facts | {"date": date}}, folder / CHECKSUMS)
    except (requests.RequestException, OSError) as error:
        raise WeightsError(
            f"{url} could not be fetched: {error}. Run it again to go on where it stopped, set "
            f"{MIRROR_VARIABLE} to another server, or put the file {row.file} into {folder} "
            f"({FOLDER_VARIABLE} names another folder)."
        ) from error
    return path


def _resume(url: str, part: Path, row: Released) -> None:
    """Appends to `part` what is missing, when the server still has the very file it was begun from."""
    import requests
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    tag = part.with_suffix(".etag")
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    headers = {"Accept-Encoding": "identity"}  # Content-Length is then the length of the file
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            have = 0  # it had all come, but was not moved into place: once more from the start
            part.unlink()
            response.close()
            return _resume(url, part, row)
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            have = 0
        total = have + int(response.headers.get("Content-Length", 0)) or None
        limit = int((row.size or LARGEST) * (1 if row.size_is_exact else 1 + ROUNDED))
        tag.unlink(missing_ok=True)
        if version := response.headers.get("ETag") or response.headers.get("Last-Modified"):
            tag.write_text(version)
        if (total or 0) > limit:
            raise requests.RequestException(f"it has {total} bytes, at most {limit} were expected")
        bar = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        progress = Progress("{task.description}", *bar, console=Console(stderr=True))
        with progress, part.open("ab" if have else "wb") as file:
            task = progress.add_task(row.file, total=total, completed=have)
            for chunk in response.iter_content(CHUNK):
                have += len(chunk)
                if have > limit:
                    tag.unlink(missing_ok=True)
                    raise requests.RequestException(f"more came than the {limit} bytes expected")
                file.write(chunk)
                progress.update(task, completed=have)
    tag.unlink(missing_ok=True)
    return None


def _verify(path: Path, row: Released, recorded: str) -> None:
    """Raises WeightsError unless the file has the size and checksum that were published or recorded."""
    size = path.stat().st_size
    allowed = 0 if row.size_is_exact else ROUNDED * (row.size or 0)
    if row.size is not None and abs(size - row.size) > allowed:
        raise WeightsError(
            f"{path} has {size} bytes, the published file {'' if row.size_is_exact else 'about '}{row.size}. "
            "Delete it and fetch it again."
        )
    expected = row.sha256 or recorded
    if not expected:
        return
    found = _sha256(path)
    start, _, end = expected.partition("…")
    if not (found.startswith(start) and found.endswith(end)):
        raise WeightsError(
            f"{path} has the sha256 {found}, expected {expected}: it is not the file that was "
            f"{'published' if row.sha256 else 'downloaded first'}. Delete it and fetch it again."
        )


def _recorded(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / CHECKSUMS
    return read_json(path) if path.is_file() else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

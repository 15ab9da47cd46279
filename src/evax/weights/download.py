"""Published files into the weights folder, from the authors' page or a mirror of it."""

from __future__ import annotations

import os
from pathlib import Path

from evax.download import Remote, cache_folder, fetch_file
from evax.errors import WeightsError
from evax.weights.released import released

FOLDER_VARIABLE = "EVAX_WEIGHTS"
MIRROR_VARIABLE = "EVAX_WEIGHTS_MIRROR"


def weights_folder() -> Path:
    """Where published files lie: EVAX_WEIGHTS, else the user's cache. Files put there by hand are used."""
    return cache_folder(FOLDER_VARIABLE, "weights")


def fetch_published(name: str, folder: Path | None = None) -> Path:
    """The file of a published weight, downloaded when the folder does not hold it yet.

    name: a key of RELEASED. folder: default weights_folder(). A broken download goes on where it stopped.
    Raises ConfigError for an unknown name, WeightsError when it cannot be had or is not the published file.
    """
    row, folder = released(name), folder or weights_folder()
    mirror = os.environ.get(MIRROR_VARIABLE)
    url = f"{mirror.rstrip('/')}/{row.file}" if mirror else row.url
    if not (folder / row.file).is_file():
        if row.refused:
            raise WeightsError(f"{name} is not offered: {row.refused}.")
        if not url:
            raise WeightsError(
                f"{row.file} has to be fetched by hand, {row.by_hand}. Put it into {folder} under that name "
                f"({FOLDER_VARIABLE} names another folder), or set {MIRROR_VARIABLE} to a server that has it."
            )
    remote = Remote(file=row.file, url=url, size=row.size, size_is_exact=row.size_is_exact, sha256=row.sha256)
    return fetch_file(
        remote,
        folder,
        WeightsError,
        f"set {MIRROR_VARIABLE} to another server, or put the file {row.file} into {folder} "
        f"({FOLDER_VARIABLE} names another folder)",
    )

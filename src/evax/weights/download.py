"""Where weights lie; published files go into the weights folder, from the authors' page or a mirror of it.

Read without torch.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from evax.download import Remote, cache_folder, fetch_file
from evax.errors import WeightsError
from evax.weights.names import published_name, released

FOLDER_VARIABLE = "EVAX_WEIGHTS"
MIRROR_VARIABLE = "EVAX_WEIGHTS_MIRROR"


def weights_folder() -> Path:
    """Where published files lie: EVAX_WEIGHTS, else the user's cache. Files put there by hand are used."""
    return cache_folder(FOLDER_VARIABLE, "weights")


def weights_path(name: str, weights: str | os.PathLike[str]) -> Path:
    """The path that is meant, of a published file after it was fetched.

    name, weights: as for create_encoder. Raises as refuse_absent does, and WeightsError when a published file
    cannot be had or is another one.
    """
    refuse_absent(name, weights)
    published = published_name(name, weights)
    return Path(weights) if published is None else fetch_published(published)


def refuse_absent(name: str, weights: str | os.PathLike[str]) -> None:
    """Raises as published_name does, and WeightsError where nothing lies and nothing can be fetched."""
    published = published_name(name, weights)
    if published is not None:
        _remote(published, weights_folder())
    elif not Path(weights).exists():
        raise WeightsError(
            f"There is no weight file at {weights}. Give a .safetensors, .pt or .pth file or a bundle folder."
        )


def fetch_published(name: str, folder: Path | None = None) -> Path:
    """The file of a published weight, downloaded when the folder does not hold it yet.

    name: a key of RELEASED. folder: default weights_folder(). A broken download goes on where it stopped.
    Raises ConfigError for an unknown name, WeightsError when it cannot be had or is not the published file.
    """
    folder = folder or weights_folder()
    remote = _remote(name, folder)
    path = shlex.quote(str(folder / remote.file))
    return fetch_file(
        remote,
        folder,
        WeightsError,
        f"set {MIRROR_VARIABLE} to another server, or put the file {remote.file} into {folder} "
        f"({FOLDER_VARIABLE} names another folder)",
        f"to use this very file, give its path in place of the name: {path}.",
    )


def _remote(name: str, folder: Path) -> Remote:
    """Where a published file comes from, if it is not in the folder. Raises WeightsError for one without an
    address.
    """
    row, mirror = released(name), os.environ.get(MIRROR_VARIABLE)
    url = f"{mirror.rstrip('/')}/{row.file}" if mirror else row.url
    if not (folder / row.file).is_file():
        if row.refused:
            raise WeightsError(f"{name} is not offered: {row.refused}.")
        if not url:
            raise WeightsError(
                f"{row.file} has to be fetched by hand, {row.by_hand}. Put it into {folder} under that name "
                f"({FOLDER_VARIABLE} names another folder), or set {MIRROR_VARIABLE} to a server that has it."
            )
    return Remote(file=row.file, url=url, size=row.size, size_is_exact=row.size_is_exact, sha256=row.sha256)

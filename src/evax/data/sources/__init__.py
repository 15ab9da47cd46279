"""One reader per kind of release: a folder on disk -> Manifest. Its keyword arguments are its options."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evax.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from evax.data.manifest import Manifest

SOURCES = {  # name: what the folder holds; module read_<name> of the same name
    "csv": "a table and the images it names",
    "folders": "one folder of images per class, or images without labels",
    "dicom": "a tree of DICOM files",
    "chestxray14": "the official ChestX-ray14 release",
}


def read_source(name: str, raw: Path, options: dict[str, Any]) -> Manifest:
    """The manifest of a release.

    options: only those that were set. Raises ConfigError for an option the source does not have, DataError
    for a
    folder that is not such a release.
    """
    if name not in SOURCES:
        raise unknown_name("source", name, SOURCES)
    if not raw.is_dir():
        raise DataError(f"There is no folder {raw}. --raw names the folder that holds the films.")
    reader = getattr(importlib.import_module(f"evax.data.sources.{name}"), f"read_{name}")
    known = list(inspect.signature(reader).parameters)[1:]
    if stray := [option for option in options if option not in known]:
        names = ", ".join(known) or "none"
        raise ConfigError(f"The source '{name}' has no option {stray[0]} (its options: {names}).")
    manifest: Manifest = reader(raw, **options)
    return manifest

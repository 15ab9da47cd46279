"""The registry of sources and public data sets, one module each.

A source reads a folder on disk into a Manifest; its keyword arguments are its options. The folder of a module
says what it is: `own`, `releases`, `corpora` or `downloads` (see their docstrings). `evax prepare` and `evax
fetch` know it by its file name. Modules are listed here and imported when used: --help needs no pandas.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evax.data.sources.record import FETCH_RECORD, PublicSet
from evax.errors import ConfigError, DataError, unknown_name
from evax.files import path_of, read_json

FILES_SIZED = 16  # of a folder of own data
PHANTOMS = "phantoms"  # the set that is drawn, not fetched


def _modules(folder: str) -> dict[str, str]:
    """Name -> full name of the modules of a folder here, in alphabetical order."""
    listed = pkgutil.iter_modules([str(Path(__file__).parent / folder)])
    return {module.name: f"{__name__}.{folder}.{module.name}" for module in listed}


_PUBLISHED = _modules("releases") | _modules("corpora")
SOURCES: dict[str, str] = _modules("own") | _PUBLISHED
"""Sources of `evax prepare` -> module that defines read_<source>."""
PUBLIC_SETS: dict[str, str] = _modules("downloads") | _modules("releases")
"""Data sets of `evax fetch`, besides phantoms -> module that defines PUBLIC_SET."""

if TYPE_CHECKING:
    from evax.data.manifest import Manifest

    SourceName = str
    SetName = str
else:
    SourceName = Literal[tuple(SOURCES)]
    SetName = Literal[(PHANTOMS, *PUBLIC_SETS)]


def is_release(name: str) -> bool:
    """Whether this source is a public release: listed images that the disk lacks are left out and counted."""
    return name in _PUBLISHED


def is_own(source: str) -> bool:
    """Whether a store of this source holds data of its user: no release, and no set that evax made or fetched
    (see source_name).
    """
    return not is_release(source) and ":" not in source


def public_set(name: str) -> PublicSet:
    """The record of a public data set or release."""
    record: PublicSet = importlib.import_module((PUBLIC_SETS | _PUBLISHED)[name]).PUBLIC_SET
    return record if record.source else replace(record, source=name)


def source_name(kind: str, raw: Path) -> str:
    """What a store calls its source: the kind of folder and, after a colon, the set `evax fetch` put into it.

    Never the folder's own name, which may be that of a person or a hospital.
    """
    record = raw / FETCH_RECORD
    content = read_json(record) if record.is_file() else None
    name = content.get("name") if isinstance(content, dict) else None
    return f"{kind}:{name}" if name in (PHANTOMS, *PUBLIC_SETS) else kind


def read_source(name: str, raw: Path, options: dict[str, Any]) -> Manifest:
    """The manifest of the images that are there.

    options: only those that were set. Raises ConfigError for an option the source does not have, DataError
    for a folder that is not such a release.
    """
    from evax.data.sources.disk import images_on_disk

    manifest = list_source(name, raw, options)
    return images_on_disk(manifest) if is_release(name) else manifest


def list_source(name: str, raw: Path, options: dict[str, Any]) -> Manifest:
    """The manifest of everything a release's tables list, be it on the disk or not; as read_source."""
    if name not in SOURCES:
        raise unknown_name("source", name, SOURCES)
    if not raw.is_dir():
        raise DataError(f"There is no folder {raw}. --raw names the folder that holds the images.")
    reader = getattr(importlib.import_module(SOURCES[name]), f"read_{name}")
    known = list(inspect.signature(reader).parameters)[1:]
    if stray := [option for option in options if option not in known]:
        names = ", ".join(known) or "none"
        raise ConfigError(f"The source '{name}' has no option {stray[0]} (its options: {names}).")
    manifest: Manifest = reader(raw, **options)
    return manifest if manifest.namespace else replace(manifest, namespace=_namespace(name, manifest))


def _namespace(name: str, manifest: Manifest) -> str:
    """Of a release its name; of own data a digest of the names of all images and patients, with the sizes of
    a few files, as two hospitals may both number their images from 1.
    """
    if is_release(name):
        return name
    rows = sorted(zip(manifest.table["image"], manifest.table["patient"], strict=True))
    few = [manifest.root / path_of(image) for image, _ in rows[:FILES_SIZED]]
    # os.path: a name that is too long for a file is none
    sizes = [path.stat().st_size if os.path.isfile(path) else 0 for path in few]
    return hashlib.blake2b(repr((rows, sizes)).encode(), digest_size=16).hexdigest()

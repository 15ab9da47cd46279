"""One reader per kind of release: a folder on disk -> Manifest. Its keyword arguments are its options."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from evax.errors import ConfigError, DataError, unknown_name
from evax.files import path_of

if TYPE_CHECKING:
    from evax.data.manifest import Manifest

SourceName = Literal[
    "csv", "folders", "masks", "coco", "dicom",
    "chestxray14", "chexpert", "mimic_cxr", "covidx9a", "covidx_cxr4", "siim", "rsna", "shenzhen", "lungs",
    "merged_520k",
]  # fmt: skip


FILES_SIZED = 16  # of a folder of own data


class Source(NamedTuple):
    """What a folder holds, and who reads it."""

    what: str
    module: str
    """Module here that defines read_<name of the source>."""
    published: bool = True
    """A public release: films it lists and the disk lacks are left out and counted."""


SOURCES: dict[str, Source] = {
    "csv": Source("a table and the images it names, maybe with boxes and masks", "csv", published=False),
    "folders": Source("one folder of images per class, or images without labels", "folders", published=False),
    "masks": Source("images/ and masks/ of the same names", "masks", published=False),
    "coco": Source("a COCO file of boxes and its images", "coco", published=False),
    "dicom": Source("a tree of DICOM files", "dicom", published=False),
    "chestxray14": Source("the official ChestX-ray14 release", "chestxray14"),
    "chexpert": Source("CheXpert-v1.0 or CheXpert-v1.0-small", "chexpert"),
    "mimic_cxr": Source("MIMIC-CXR-JPG 2", "mimic_cxr"),
    "covidx9a": Source("COVIDx V9A, the paper's CovidX-CXR-3", "covidx"),
    "covidx_cxr4": Source("COVIDx CXR-4", "covidx"),
    "siim": Source("SIIM-ACR pneumothorax, stage 2", "siim"),
    "rsna": Source("RSNA pneumonia, stage 2", "rsna"),
    "shenzhen": Source("Shenzhen tuberculosis with the NLM's masks", "shenzhen"),
    "lungs": Source("lung segmentation as Zhang released it", "lungs"),
    "merged_520k": Source("ChestX-ray14, CheXpert and MIMIC-CXR-JPG as one corpus", "merged_520k"),
}


def is_release(name: str) -> bool:
    """Whether this source is a public release."""
    return name in SOURCES and SOURCES[name].published


def is_own(source: str) -> bool:
    """Whether a store of this source holds data of its user: no release, and no set that evax made or fetched
    (see public_sets.source_name).
    """
    return not is_release(source) and ":" not in source


def read_source(name: str, raw: Path, options: dict[str, Any]) -> Manifest:
    """The manifest of the films that are there.

    options: only those that were set. Raises ConfigError for an option the source does not have, DataError
    for a folder that is not such a release.
    """
    from evax.data.sources.disk import films_on_disk

    manifest = list_source(name, raw, options)
    return films_on_disk(manifest) if is_release(name) else manifest


def list_source(name: str, raw: Path, options: dict[str, Any]) -> Manifest:
    """The manifest of everything a release's tables list, be it on the disk or not; as read_source."""
    if name not in SOURCES:
        raise unknown_name("source", name, SOURCES)
    if not raw.is_dir():
        raise DataError(f"There is no folder {raw}. --raw names the folder that holds the films.")
    module = importlib.import_module(f"evax.data.sources.{SOURCES[name].module}")
    reader = getattr(module, f"read_{name}")
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

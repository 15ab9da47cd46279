"""One reader per kind of release: a folder on disk -> Manifest. Its keyword arguments are its options."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from evax.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from evax.data.manifest import Manifest

SourceName = Literal[
    "csv", "folders", "masks", "coco", "dicom",
    "chestxray14", "chexpert", "mimic_cxr", "covidx9a", "covidx_cxr4", "siim", "rsna", "shenzhen", "lungs",
    "merged_520k",
]  # fmt: skip


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


def read_source(name: str, raw: Path, options: dict[str, Any]) -> Manifest:
    """The manifest of the films that are there.

    options: only those that were set. Raises ConfigError for an option the source does not have, DataError
    for a folder that is not such a release.
    """
    from evax.data.sources.disk import films_on_disk

    manifest = list_source(name, raw, options)
    return films_on_disk(manifest) if SOURCES[name].published else manifest


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
    return manifest

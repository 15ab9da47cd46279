"""The record of a public data set: what it is, where to get it, its folder and its published counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evax.download import Remote

FETCH_RECORD = "fetched.json"  # in a fetched folder: the set's name, its archives, whether all are unpacked
LARGEST = 8_000_000_000  # bytes; none of these archives is near it


@dataclass(frozen=True, kw_only=True)
class PublicSet:
    """What a person needs to get one data set and to prepare it, and what the complete set holds."""

    what: str
    terms: str
    layout: str
    """What the folder must look like for `evax prepare`."""
    page: str = ""
    """Where it is described and, unless there are archives, available."""
    ask: str = ""
    """How to get what no address gives."""
    archives: tuple[Remote, ...] = ()
    """Files that an address gives; none: a person has to ask. No checksum of them was published."""
    top: str = ""
    """Folder in the archives whose content is the content of the set's folder."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Folder in the archives, below `top`: where it belongs, for a source that expects other names."""
    complete: Callable[[Path], None] | None = None
    """Called once on the unpacked folder: writes what the source expects and the archives lack."""
    source: str = ""
    """The source that reads it, where it has no reader of its own."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Published counts of the complete set, named as in `counted` (sources/disk.py)."""
    counts_from: str = ""
    """Where they were published."""


def archive(file: str, url: str) -> Remote:
    """An archive of a public data set."""
    return Remote(file=file, url=url, largest=LARGEST)

"""What can go wrong, in four kinds; the sentence for an unknown name, the command for a missing package."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname


class EvaxError(Exception):
    """Something the user can mend; the command line prints it as one line, without a traceback."""


class DataError(EvaxError):
    """An image, table, store or run folder is not what it should be."""


class WeightsError(EvaxError):
    """A weight file or checkpoint cannot be read, or does not fit the network."""


class ConfigError(EvaxError, ValueError):
    """An option, recipe or name is wrong."""


class ExportError(EvaxError):
    """A bundle cannot be run or converted here."""


class Interrupted(KeyboardInterrupt):
    """A signal asked a job to stop, and what it had done is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.status = 128 + signal_number
        """Exit status, as a shell reports the signal."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a table, with the nearest known one as a hint.

    kind: the noun, as a user would say it ("encoder", "finding"). known: every accepted name.
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return ConfigError(f"No {kind} is called '{name}'.{hint} Known: {', '.join(names)}.")


def work_not_shared(processes: int) -> ConfigError:
    """The error for a command that torchrun started several times, each to do the whole work."""
    return ConfigError(
        f"torchrun started {processes} processes, and only evax pretrain shares its work among several. "
        "Start this command without torchrun."
    )


def install_command(extra: str) -> str:
    """The pip command that adds an optional part of evax to this installation.

    extra: a key of the optional dependencies in pyproject.toml.
    Source: PEP 610, direct_url.json of an installed distribution; without it evax came from a package index.
    """
    what = f"evax[{extra}]"
    origin = _origin()
    if origin is not None:
        url = str(origin["url"])
        if origin.get("dir_info", {}).get("editable"):
            folder = url2pathname(urlsplit(url).path)
            return f"pip install -e {shlex.quote(f'{folder}[{extra}]')}"
        if version := origin.get("vcs_info"):
            url = f"{version['vcs']}+{url}@{version['commit_id']}"
        what = f"{what} @ {url}"
    return f"pip install {shlex.quote(what)}"


def _origin() -> dict[str, Any] | None:
    """Where evax was installed from; None for a package index."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        text = distribution("evax").read_text("direct_url.json")
    except PackageNotFoundError:  # run from a clone that was not installed
        clone = Path(__file__).resolve().parents[2]
        return {"url": clone.as_uri(), "dir_info": {"editable": True}}
    return None if text is None else json.loads(text)

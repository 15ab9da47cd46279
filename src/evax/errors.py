"""What can go wrong, in four kinds, and the sentence for a name nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EvaxError(Exception):
    """Something the user can mend; the command line prints it as one line, without a traceback."""


class DataError(EvaxError):
    """A film, table, store or run folder is not what it should be."""


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


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a table, with the nearest known one as a hint.

    kind: the noun, as a user would say it ("encoder", "finding"). known: every accepted name.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return ConfigError(f"No {kind} is called '{name}'.{hint} Known: {', '.join(names)}.")


def work_not_shared(processes: int) -> ConfigError:
    """The error for a command that torchrun started several times, each to do the whole work."""
    return ConfigError(
        f"torchrun started {processes} processes, and only evax pretrain shares its work among several. "
        "Start this command without torchrun."
    )

"""evax describe: what stores are made of, side by side, and whether they differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from evax.config import job, validated
from evax.errors import ConfigError


@validated
@dataclass(frozen=True, kw_only=True)
class DescribeConfig:
    """Films, patients, age, sex, view, findings and pixels of stores, with tests of their differences."""

    stores: tyro.conf.Positional[tuple[Path, ...]]
    """Stores made by `evax prepare`."""
    out: Path
    """Folder for statistics.json, statistics.csv, statistics.html and the figures."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("describe needs stores: evax describe STORE... --out DIR.")


@job(DescribeConfig)
def describe(config: DescribeConfig) -> Path:
    """Writes the table, the figures and the page; returns the path of statistics.json."""
    from evax.reporting.statistics_files import write_statistics
    from evax.training.tracking import run_folder

    with run_folder(config.out, config):
        return write_statistics(config.out, config.stores)

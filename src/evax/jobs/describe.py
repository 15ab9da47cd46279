"""evax describe: what stores are made of, side by side, and whether they differ."""

from __future__ import annotations

from pathlib import Path

from evax.config import job
from evax.options.data import DescribeConfig
from evax.pages.statistics import write_statistics
from evax.runs.log import run_folder


@job(DescribeConfig)
def describe(config: DescribeConfig) -> Path:
    """Writes the table, the figures and the page; returns the path of statistics.json."""
    with run_folder(config.out, config):
        return write_statistics(config.out, config.stores)

"""evax fetch: get films to work with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from evax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Get a data set. phantoms: synthetic radiographs with known findings, boxes and masks, drawn on this
    machine.
    """

    name: tyro.conf.Positional[Literal["phantoms"]]
    """Data set."""
    out: Path
    """Folder that is filled: images/, labels.csv, boxes.csv, masks/."""
    films: int = 1200
    """How many phantoms."""
    seed: int = 0
    """Another seed draws other patients."""
    workers: int = 0
    """Processes; 0 uses every core."""

    def __post_init__(self) -> None:
        if self.films <= 0:
            raise ConfigError(f"films must be above 0, got {self.films}.")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}.")
        if self.workers < 0:
            raise ConfigError(f"workers must be at least 0, got {self.workers}.")


def fetch(config: FetchConfig) -> Path:
    """Fills the folder and returns it. Raises ConfigError when it already holds something."""
    import os

    from evax.data.phantom_release import write_phantoms
    from evax.training.tracking import progress_bar

    if config.out.exists() and any(config.out.iterdir()):
        raise ConfigError(f"The folder {config.out} is not empty. Choose another --out or delete it.")
    workers = config.workers or os.cpu_count() or 1
    with progress_bar("drawing phantoms", config.films) as advance:
        write_phantoms(config.out, config.films, config.seed, workers, lambda done, total: advance(""))
    return config.out

"""evax export: a bundle -> an ONNX file that needs no torch, and a certificate that it answers the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evax.config import job
from evax.errors import DataError
from evax.options.results import ExportConfig

if TYPE_CHECKING:
    from evax.data.radiograph import Radiograph

SYNTHETIC = 16


@job(ExportConfig)
def export(config: ExportConfig) -> Path:
    """Exports and compares; returns the path of the certificate.

    Raises DataError for a folder that is no bundle or that another run exports, and for films that cannot be
    read, ExportError when a runtime is missing or does not agree with torch within 1e-4; the bundle is then
    left as it was.
    """
    from evax.deploy.bundle import read_card
    from evax.deploy.predictor import refuse_absent
    from evax.files import FolderLock

    card = read_card(config.bundle)
    for runtime in config.runtimes:
        refuse_absent(runtime)
    with FolderLock(config.bundle):
        from evax.deploy.export import export_onnx  # torch only now

        films = real_films(config, card.preprocess.bits) if config.films else synthetic_films()
        source = "given films" if config.films else f"{SYNTHETIC} synthetic films; black, white, noise"
        return export_onnx(config.bundle, card, films, source, config.runtimes)


def real_films(config: ExportConfig, bits: int | None) -> list[Radiograph]:
    """The first films that can be read, with these bits (see read_image). Raises DataError without any."""
    from itertools import islice

    from evax.data.films import find_films, read_or_reason

    read = (read_or_reason(path, bits) for path in find_films(config.films))
    films = list(islice((film for film in read if not isinstance(film, str)), config.most_films))
    if not films:
        raise DataError(f"No film in {', '.join(map(str, config.films))} can be read.")
    return films


def synthetic_films() -> list[Radiograph]:
    """Phantoms, and what a network may find hard: all black, all white, noise."""
    import numpy as np

    from evax.data.phantom import make_phantom
    from evax.data.radiograph import Radiograph

    chance = np.random.default_rng(0)
    pixels = [make_phantom(0, index).pixels for index in range(SYNTHETIC)]
    flat = np.zeros((64, 64), np.float32)
    pixels += [flat, flat + 1, chance.random((300, 200), np.float32)]
    return [Radiograph(each, None, None, ()) for each in pixels]

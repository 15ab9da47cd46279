"""evax export: a bundle -> an ONNX file that needs no torch, and a certificate that it answers the same."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from evax.boxed import located
from evax.config import job
from evax.data.films import find_images, read_or_reason
from evax.data.phantom import make_phantom
from evax.data.radiograph import Radiograph
from evax.deploy.bundle import read_card
from evax.deploy.predictor import check_runtime_installed
from evax.errors import ConfigError, DataError
from evax.files import FolderLock
from evax.options.results import ExportConfig

SYNTHETIC = 16


@job(ExportConfig)
def export(config: ExportConfig) -> Path:
    """Exports and compares; returns the path of the certificate.

    Raises DataError for a folder that is no bundle or that another run exports, and for images that cannot be
    read, ExportError when a runtime is missing or differs from torch by more than 1e-4; the bundle is then
    left as it was.
    """
    card = read_card(config.bundle)
    if located(config.bundle) != config.bundle:
        raise ConfigError(
            f"{config.bundle} comes with evax and is left as it is. Copy it, then export the copy: "
            f"evax zoo fetch {config.bundle} --out FOLDER."
        )
    for runtime in config.runtimes:
        check_runtime_installed(runtime)
    with FolderLock(config.bundle):
        from evax.deploy.export import export_onnx  # torch only now

        images = real_images(config, card.preprocess.bits) if config.films else synthetic_images()
        source = "given images" if config.films else f"{SYNTHETIC} synthetic images; black, white, noise"
        return export_onnx(config.bundle, card, images, source, config.runtimes)


def real_images(config: ExportConfig, bits: int | None) -> list[Radiograph]:
    """The first images that can be read, with these bits (see read_image). Raises DataError without any."""
    read = (read_or_reason(path, bits) for path in find_images(config.films))
    images = list(islice((image for image in read if not isinstance(image, str)), config.most_films))
    if not images:
        raise DataError(f"No image in {', '.join(map(str, config.films))} can be read.")
    return images


def synthetic_images() -> list[Radiograph]:
    """Phantoms, and hard cases for a network: all black, all white, noise."""
    chance = np.random.default_rng(0)
    pixels = [make_phantom(0, index).pixels for index in range(SYNTHETIC)]
    flat = np.zeros((64, 64), np.float32)
    pixels += [flat, flat + 1, chance.random((300, 200), np.float32)]
    return [Radiograph(each, None, None, ()) for each in pixels]

"""evax predict: a bundle + films -> a table of probabilities, and heat maps when asked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from evax.data.films import batches_of, count_films, find_films, read_or_reason
from evax.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from evax.data.radiograph import Radiograph
    from evax.deploy.predictor import Predictor

logger = logging.getLogger("evax")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Score films with a classifier, a bundle or a published one; any number of films in constant memory."""

    bundle: tyro.conf.Positional[Path]
    """Classifier bundle; or the name of a published classifier (`evax zoo list`), or its file under the
    official file name: fetched if need be, and converted once into the folder EVAX_WEIGHTS."""
    films: tyro.conf.Positional[tuple[Path, ...]]
    """Films, or folders that are searched for films."""
    out: Path
    """CSV file: file, one probability and one present/absent per finding, notes on the film, error."""
    heatmaps: Path | None = None
    """Folder for one Grad-CAM picture per film and present finding: ROW-FILM-FINDING.png, row of OUT."""
    batch_size: int = 16
    """Films scored at once."""

    def __post_init__(self) -> None:
        if not self.films:
            raise ConfigError("predict needs films: evax predict BUNDLE FILES|FOLDER --out x.csv.")
        if self.batch_size <= 0:
            raise ConfigError(f"batch_size must be above 0, got {self.batch_size}.")


def predict(config: PredictConfig) -> Path:
    """Writes the table and returns its path; a film that cannot be read gets a line with the reason.

    Raises DataError when a named file or folder does not exist, no film is found, or none could be read, and
    as open_bundle does.
    """
    import csv

    import numpy as np

    from evax.deploy.predictor import open_bundle
    from evax.deploy.published import card_of
    from evax.files import make_folder, replaced_whole
    from evax.training.tracking import progress_bar

    card = card_of(config.bundle)  # before a file of an encoder is fetched for nothing
    if card.kind != "classifier":
        raise ConfigError(
            f"{config.bundle} holds an encoder; predict needs a classifier bundle. Fine-tune it first."
        )
    protocol = card.training.get("protocol", {})
    if reason := protocol.get("warning") or protocol.get("leak"):
        logger.warning("%s has optimistic test results: %s.", config.bundle, reason)
    total = count_films(config.films)
    predictor = open_bundle(config.bundle)
    if config.heatmaps:
        make_folder(config.heatmaps)
    header = ["file", *card.findings, *(f"{finding}:present" for finding in card.findings), "notes", "error"]
    row, scored, first_reason = 0, 0, ""
    with (
        replaced_whole(config.out) as unfinished,
        unfinished.open("w", newline="") as file,
        progress_bar("predicting", total) as advance,
    ):
        table = csv.writer(file)
        table.writerow(header)
        for batch in batches_of(find_films(config.films), config.batch_size):
            films = [prepared(path, predictor, bool(config.heatmaps)) for path in batch]
            inputs = [film.input for film in films if isinstance(film, ReadFilm)]
            answers = iter(predictor.predict_inputs(np.stack(inputs)) if inputs else ())
            for path, film in zip(batch, films, strict=True):
                row += 1
                if isinstance(film, str):
                    first_reason = first_reason or film
                    table.writerow([path, *[""] * (2 * len(card.findings) + 1), film])
                else:
                    answer = next(answers)
                    present = [
                        "" if card.thresholds.get(finding) is None else int(value >= card.thresholds[finding])
                        for finding, value in zip(card.findings, answer.tolist(), strict=True)
                    ]
                    table.writerow(
                        [path, *(f"{value:.6f}" for value in answer), *present, " ".join(film.issues), ""]
                    )
                    scored += 1
                    if config.heatmaps and film.radiograph:
                        name = f"{row:05d}-{path.stem}"
                        draw_heatmaps(predictor, film.radiograph, present, config.heatmaps, name)
                advance("")
        if not scored:
            raise DataError(f"None of the {total} files could be read; the first reason: {first_reason}")
    return config.out


@dataclass(frozen=True, eq=False)
class ReadFilm:
    """What is kept of a film until its batch is scored; the native film only where a map is drawn on it."""

    input: np.ndarray[Any, Any]
    issues: tuple[str, ...]
    radiograph: Radiograph | None


def prepared(path: Path, predictor: Predictor, keep: bool) -> ReadFilm | str:
    """The film as the network sees it, or why it cannot be read."""
    radiograph = read_or_reason(path)
    if isinstance(radiograph, str):
        return radiograph
    return ReadFilm(predictor.network_input(radiograph), radiograph.issues, radiograph if keep else None)


def draw_heatmaps(
    predictor: Predictor, film: Radiograph, present: Sequence[int | str], folder: Path, name: str
) -> None:
    """One picture per finding that counts as present: the film beside the film with the map.

    name: how the files start; unlike a film's name alone, different for every film.
    """
    from evax.explain.gradcam import grad_cam, usual_layer
    from evax.explain.overlay import overlay

    for finding, is_present in zip(predictor.card.findings, present, strict=True):
        if is_present == 1:
            picture = overlay(film.pixels, grad_cam(predictor, film, finding, usual_layer(predictor)))
            picture.save(folder / f"{name}-{finding.replace('/', '-')}.png")

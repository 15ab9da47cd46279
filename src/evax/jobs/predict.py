"""evax predict: a bundle + films -> a table of probabilities or areas, heat maps and masks when asked."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evax.config import job
from evax.data.films import batches_of, count_films, find_films, read_or_reason
from evax.deploy.predictions import Scores
from evax.errors import ConfigError
from evax.files import make_folder, refuse_existing
from evax.options.results import PredictConfig

if TYPE_CHECKING:
    from PIL.Image import Image

    from evax.data.radiograph import Radiograph
    from evax.deploy.bundle import Card
    from evax.deploy.predictor import Predictor

logger = logging.getLogger("evax")


@job(PredictConfig)
def predict(config: PredictConfig) -> Path:
    """Writes the table and returns its path; a film that cannot be read gets a line with the reason.

    Raises DataError when a named file or folder does not exist, the table exists, cannot be written or is
    being written by another run, scores of a stopped run are there, no film is found, or none could be read;
    and as open_bundle does.
    """
    from evax.deploy.predictor import default_runtime, open_bundle
    from evax.runs.progress import progress_bar

    card = answering_card(config)  # before a file of an encoder is fetched for nothing
    refuse_existing(config.out)
    total = count_films(config.films)
    runtime = config.runtime or default_runtime()
    predictor = open_bundle(config.bundle, runtime)
    pictures = config.heatmaps or config.masks
    content = f"{card!r} {runtime} {[str(place) for place in (*config.films, pictures)]}"
    with (
        Scores(config.out, config.films, columns_of(card), config.resume, content) as scores,
        progress_bar("predicting", total, scores.rows) as advance,
    ):
        if pictures:
            make_folder(pictures)
        films = islice(find_films(config.films), scores.rows, None)
        for batch in batches_of(films, config.batch_size):
            read = [prepared(path, predictor, bool(pictures)) for path in batch]
            inputs = [film.input for film in read if isinstance(film, ReadFilm)]
            answers = iter(predictor.predict_inputs(np.stack(inputs)) if inputs else ())
            for path, film in zip(batch, read, strict=True):
                if isinstance(film, str):
                    scores.refused(path, film)
                else:
                    answer = next(answers)
                    masks = card.masks(answer, film.shape) if card.kind == "segmenter" else {}
                    if pictures:  # before the line: what has one has its pictures
                        name = f"{scores.rows + 1:05d}-{path.stem[:64]}"  # a file's name has 255 bytes
                        draw(predictor, film, answer, masks, pictures / name)
                    cells = areas_of(masks, film) if masks else scores_of(card, answer)
                    scores.scored(path, cells, film.issues)
                advance("")
            scores.keep()
        scores.finish()
    return config.out


def answering_card(config: PredictConfig) -> Card:
    """What the bundle says of itself, with a warning where its test results are optimistic.

    Raises ConfigError for an encoder, and for pictures that it cannot draw.
    """
    from evax.deploy.bundle import read_card
    from evax.deploy.predictor import refuse_without_converter

    bundle = config.bundle
    if bundle.is_dir():
        card = read_card(bundle)
    else:
        refuse_without_converter(bundle)
        from evax.deploy.published import card_of

        card = card_of(bundle)
    if card.kind == "encoder":
        raise ConfigError(
            f"{bundle} holds an encoder; predict needs a classifier or segmenter bundle. Fine-tune it first."
        )
    if (config.heatmaps and card.kind == "segmenter") or (config.masks and card.kind == "classifier"):
        raise ConfigError(f"{bundle} is a {card.kind}: --heatmaps are of classifiers, --masks of segmenters.")
    pictures = config.heatmaps or config.masks
    if pictures and (inside := [place for place in config.films if is_within(pictures, place)]):
        raise ConfigError(
            f"{pictures} lies in {inside[0]}, where its pictures would be taken for films: choose another."
        )
    protocol = card.training.get("protocol", {})
    if reason := protocol.get("warning") or protocol.get("leak"):
        logger.warning("%s has optimistic test results: %s.", bundle, reason)
    return card


def is_within(folder: Path, other: Path) -> bool:
    """Whether a folder is another one or lies in it."""
    return other.is_dir() and folder.resolve().is_relative_to(other.resolve())


def columns_of(card: Card) -> list[str]:
    """Of an answer, see scores_of and areas_of."""
    if card.kind == "classifier" and card.exclusive:
        return [*card.findings, "predicted"]
    further = ("present",) if card.kind == "classifier" else ("present", "cm2")
    return [*card.findings, *(f"{finding}:{each}" for each in further for finding in card.findings)]


def scores_of(card: Card, answer: np.ndarray[Any, Any]) -> list[str]:
    """Probabilities of a classifier, and its decisions: which findings are present, or which class it is."""
    probabilities = [f"{value:.6f}" for value in answer]
    if card.exclusive:
        return [*probabilities, card.predicted(answer)]
    return [*probabilities, *("" if each is None else str(int(each)) for each in card.present(answer))]


def areas_of(masks: Mapping[str, np.ndarray[Any, Any]], film: ReadFilm) -> list[str]:
    """Of a segmenter each mask's share of the film, whether it has a pixel, and its area where the distance
    of the pixels is known.
    """
    pixels = [int(mask.sum()) for mask in masks.values()]
    shares = [f"{count / math.prod(film.shape):.6f}" for count in pixels]
    spacing = film.spacing_mm
    areas = ["" if spacing is None else f"{count * math.prod(spacing) / 100:.2f}" for count in pixels]
    return [*shares, *(str(int(count > 0)) for count in pixels), *areas]


@dataclass(frozen=True, eq=False)
class ReadFilm:
    """What is kept of a film until its batch is scored; the native film only where it is drawn on."""

    input: np.ndarray[Any, Any]
    issues: tuple[str, ...]
    shape: tuple[int, ...]
    """(H, W) of the native film."""
    spacing_mm: tuple[float, float] | None
    radiograph: Radiograph | None


def prepared(path: Path, predictor: Predictor, keep: bool) -> ReadFilm | str:
    """The film as the network sees it, or why it cannot be read."""
    radiograph = read_or_reason(path, predictor.card.preprocess.bits)
    if isinstance(radiograph, str):
        return radiograph
    return ReadFilm(
        predictor.network_input(radiograph), radiograph.issues, radiograph.pixels.shape,
        radiograph.spacing_mm, radiograph if keep else None,
    )  # fmt: skip


def draw(
    predictor: Predictor,
    film: ReadFilm,
    answer: np.ndarray[Any, Any],
    masks: Mapping[str, np.ndarray[Any, Any]],
    stem: Path,
) -> None:
    """The pictures of a film: heat maps of what counts as present; or masks, and the film with their edges.

    stem: how their paths start; unlike a film's name alone, different for every film.
    """
    from PIL import Image

    from evax.explain.overlay import outlined_and_named
    from evax.files import replaced_whole

    assert film.radiograph  # kept where pictures are drawn
    pixels = film.radiograph.pixels
    if masks:
        drawn = {f"-{finding}": Image.fromarray(mask) for finding, mask in masks.items()}
        drawn[""] = outlined_and_named(pixels, masks)
    else:
        present = predictor.card.present(answer)
        drawn = {f"-{name}": picture for name, picture in heatmaps_of(predictor, film.input, pixels, present)}
    for what, picture in drawn.items():
        with replaced_whole(stem.with_name(f"{stem.name}{what.replace('/', '-')}.png")) as unfinished:
            picture.save(unfinished, "PNG")


def heatmaps_of(
    predictor: Predictor,
    network_input: np.ndarray[Any, Any],
    pixels: np.ndarray[Any, Any],
    present: Sequence[bool | None],
) -> Iterator[tuple[str, Image]]:
    """Each finding that counts as present, and the film beside the film with its map."""
    from evax.explain.heatmap import spread
    from evax.explain.overlay import overlay

    if True not in present:
        return
    maps = predictor.maps(network_input[None], predictor.layers[0])[0]  # of all findings, as grad_cam
    for finding, grid, is_present in zip(predictor.card.findings, maps, present, strict=True):
        if is_present:
            yield finding, overlay(pixels, spread(grid, pixels.shape, predictor.card.preprocess))

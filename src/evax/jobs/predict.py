"""evax predict: a bundle + images -> a table of probabilities or areas, and heat maps or masks on request."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evax.boxed import located
from evax.config import job
from evax.data.films import count_images, find_images, in_batches, read_or_reason
from evax.data.radiograph import Radiograph
from evax.deploy.bundle import Card, read_card
from evax.deploy.predictions import PredictionsTable
from evax.deploy.predictor import Predictor, check_torch_converts, default_runtime, open_bundle
from evax.errors import ConfigError
from evax.explain.heatmap import spread
from evax.explain.overlay import outlined_and_named, overlay
from evax.files import check_absent, make_folder, replaced_whole
from evax.options.results import PredictConfig
from evax.runs.progress import progress_bar

logger = logging.getLogger("evax")


@job(PredictConfig)
def predict(config: PredictConfig) -> Path:
    """Writes the table and returns its path; an image that cannot be read gets a line with the reason.

    Raises DataError when a named file or folder does not exist, the table exists, cannot be written or is
    being written by another run, scores of a stopped run are there, no image is found, or none could be read;
    and as open_bundle does.
    """
    card = read_answering_card(config)  # before a file of an encoder is fetched for nothing
    check_absent(config.out)
    total = count_images(config.films)
    runtime = config.runtime or default_runtime()
    predictor = open_bundle(config.bundle, runtime)
    pictures = config.heatmaps or config.masks
    content = f"{card!r} {runtime} {[str(place) for place in (*config.films, pictures)]}"
    with (
        PredictionsTable(config.out, config.films, answer_columns(card), config.resume, content) as table,
        progress_bar("predicting", total, table.rows) as advance,
    ):
        if pictures:
            make_folder(pictures)
        paths = islice(find_images(config.films), table.rows, None)
        for batch in in_batches(paths, config.batch_size):
            for path, image, answer in predict_batch(predictor, batch, bool(pictures)):
                if isinstance(image, str):
                    table.add_error(path, image)
                else:
                    masks = card.masks(answer, image.shape) if card.kind == "segmenter" else {}
                    if pictures:  # before the line: an image with a line has its pictures
                        name = f"{table.rows + 1:05d}-{path.stem[:64]}"  # a file's name has 255 bytes
                        save_pictures(predictor, image, answer, masks, pictures / name)
                    table.add(
                        path, area_cells(masks, image) if masks else score_cells(card, answer), image.issues
                    )
                advance("")
            table.flush()
        table.finish()
    return config.out


def read_answering_card(config: PredictConfig) -> Card:
    """The card of the bundle; warns where its test results are optimistic.

    Raises ConfigError for an encoder, and for pictures that it cannot draw.
    """
    bundle = located(config.bundle)
    if bundle.is_dir():
        card = read_card(bundle)
    else:
        check_torch_converts(bundle)
        from evax.deploy.published import card_of_source

        card = card_of_source(bundle)
    if card.kind == "encoder":
        raise ConfigError(
            f"{bundle} holds an encoder; predict needs a classifier or segmenter bundle. Fine-tune it first."
        )
    if (config.heatmaps and card.kind == "segmenter") or (config.masks and card.kind == "classifier"):
        raise ConfigError(f"{bundle} is a {card.kind}: --heatmaps are of classifiers, --masks of segmenters.")
    pictures = config.heatmaps or config.masks
    if pictures and (inside := [place for place in config.films if is_within(pictures, place)]):
        raise ConfigError(
            f"{pictures} lies in {inside[0]}, where its pictures would be taken for images: choose another."
        )
    protocol = card.training.get("protocol", {})
    if reason := protocol.get("warning") or protocol.get("leak"):
        logger.warning("%s has optimistic test results: %s.", bundle, reason)
    return card


def is_within(folder: Path, other: Path) -> bool:
    """Whether a folder is another one or lies in it."""
    return other.is_dir() and folder.resolve().is_relative_to(other.resolve())


def answer_columns(card: Card) -> list[str]:
    """Those of score_cells and area_cells."""
    if card.kind == "classifier" and card.exclusive:
        return [*card.findings, "predicted"]
    further = ("present",) if card.kind == "classifier" else ("present", "cm2")
    return [*card.findings, *(f"{finding}:{each}" for each in further for finding in card.findings)]


def score_cells(card: Card, answer: np.ndarray[Any, Any]) -> list[str]:
    """Probabilities of a classifier, and its decisions: which findings are present, or which class it is."""
    probabilities = [f"{value:.6f}" for value in answer]
    if card.exclusive:
        return [*probabilities, card.predicted(answer)]
    return [*probabilities, *("" if each is None else str(int(each)) for each in card.present(answer))]


def area_cells(masks: Mapping[str, np.ndarray[Any, Any]], image: LoadedImage) -> list[str]:
    """Of a segmenter each mask's share of the image, whether it has a pixel, and its area where the distance
    of the pixels is known.
    """
    pixels = [int(mask.sum()) for mask in masks.values()]
    shares = [f"{count / math.prod(image.shape):.6f}" for count in pixels]
    spacing = image.spacing_mm
    areas = ["" if spacing is None else f"{count * math.prod(spacing) / 100:.2f}" for count in pixels]
    return [*shares, *(str(int(count > 0)) for count in pixels), *areas]


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """What is kept of an image until its batch is scored; the native image only where it is drawn on."""

    input: np.ndarray[Any, Any]
    issues: tuple[str, ...]
    shape: tuple[int, ...]
    """(H, W) of the native image."""
    spacing_mm: tuple[float, float] | None
    radiograph: Radiograph | None


def predict_batch(
    predictor: Predictor, paths: Sequence[Path], keep: bool
) -> Iterator[tuple[Path, LoadedImage | str, Any]]:
    """Each path with its image and the network's answer, or with the reason why it cannot be read.

    keep: the native images, too.
    """
    images = [load_image(path, predictor, keep) for path in paths]
    inputs = [image.input for image in images if isinstance(image, LoadedImage)]
    answers = iter(predictor.predict_inputs(np.stack(inputs)) if inputs else ())
    for path, image in zip(paths, images, strict=True):
        yield path, image, None if isinstance(image, str) else next(answers)


def load_image(path: Path, predictor: Predictor, keep: bool) -> LoadedImage | str:
    """The image as the network sees it, or why it cannot be read."""
    radiograph = read_or_reason(path, predictor.card.preprocess.bits)
    if isinstance(radiograph, str):
        return radiograph
    return LoadedImage(
        predictor.network_input(radiograph), radiograph.issues, radiograph.pixels.shape,
        radiograph.spacing_mm, radiograph if keep else None,
    )  # fmt: skip


def save_pictures(
    predictor: Predictor,
    image: LoadedImage,
    answer: np.ndarray[Any, Any],
    masks: Mapping[str, np.ndarray[Any, Any]],
    stem: Path,
) -> None:
    """Heat maps of the findings that count as present; or masks, and the image with their edges.

    stem: how their paths start; unlike a file's name alone, different for every image.
    """
    assert image.radiograph  # kept where pictures are drawn
    pixels = image.radiograph.pixels
    drawn: dict[str, Image.Image] = {}
    if masks:
        drawn = {f"-{finding}": Image.fromarray(mask) for finding, mask in masks.items()}
        drawn[""] = outlined_and_named(pixels, masks)
    elif True in (present := predictor.card.present(answer)):
        maps = predictor.maps(image.input[None], predictor.layers[0])[0]  # of all findings, as grad_cam
        for finding, grid, is_present in zip(predictor.card.findings, maps, present, strict=True):
            if is_present:
                heat = spread(grid, pixels.shape, predictor.card.preprocess)
                drawn[f"-{finding}"] = overlay(pixels, heat)
    for what, picture in drawn.items():
        with replaced_whole(stem.with_name(f"{stem.name}{what.replace('/', '-')}.png")) as unfinished:
            picture.save(unfinished, "PNG")

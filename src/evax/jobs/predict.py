"""evax predict: a bundle + films -> a table of probabilities, and heat maps when asked."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from evax.data.films import batches_of, count_films, find_films, read_or_reason
from evax.errors import ConfigError, DataError, EvaxError
from evax.files import make_folder

if TYPE_CHECKING:
    from evax.data.radiograph import Radiograph
    from evax.deploy.bundle import Card
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
    runtime: Literal["torch", "onnx", "openvino"] | None = None
    """onnx and openvino run what `evax export` wrote, without torch; default: torch where it is installed."""
    resume: bool = False
    """Go on where a stopped run of the same bundle over the same films left off."""

    def __post_init__(self) -> None:
        if not self.films:
            raise ConfigError("predict needs films: evax predict BUNDLE FILES|FOLDER --out x.csv.")
        if self.batch_size <= 0:
            raise ConfigError(f"batch_size must be above 0, got {self.batch_size}.")


def predict(config: PredictConfig) -> Path:
    """Writes the table and returns its path; a film that cannot be read gets a line with the reason.

    Raises DataError when a named file or folder does not exist, the table exists, no film is found, or none
    could be read, and as open_bundle does.
    """
    from evax.deploy.predictor import open_bundle
    from evax.training.tracking import progress_bar

    card = classifier_card(config.bundle)  # before a file of an encoder is fetched for nothing
    refuse_finished(config)
    total = count_films(config.films)
    runtime = config.runtime or ("torch" if find_spec("torch") else "onnx")
    predictor = open_bundle(config.bundle, runtime)
    if config.heatmaps:
        make_folder(config.heatmaps)
    with (
        Scores(config, card, runtime) as scores,
        progress_bar("predicting", total, min(scores.rows, total)) as advance,
    ):
        films = islice(find_films(config.films), scores.rows, None)
        for batch in batches_of(films, config.batch_size):
            read = [prepared(path, predictor, bool(config.heatmaps)) for path in batch]
            inputs = [film.input for film in read if isinstance(film, ReadFilm)]
            answers = iter(predictor.predict_inputs(np.stack(inputs)) if inputs else ())
            for path, film in zip(batch, read, strict=True):
                if isinstance(film, str):
                    scores.refused(path, film)
                else:
                    present = scores.scored(path, next(answers), film.issues)
                    if config.heatmaps and film.radiograph:
                        name = f"{scores.rows:05d}-{path.stem}"
                        draw_heatmaps(predictor, film.radiograph, present, config.heatmaps, name)
                advance("")
            scores.keep()
        scores.finish()
    return config.out


def classifier_card(bundle: Path) -> Card:
    """What the bundle says of itself, with a warning where its test results are optimistic.

    Raises ConfigError for an encoder.
    """
    from evax.deploy.bundle import read_card

    if bundle.is_dir():
        card = read_card(bundle)
    else:
        from evax.deploy.published import card_of

        card = card_of(bundle)
    if card.kind != "classifier":
        raise ConfigError(
            f"{bundle} holds an encoder; predict needs a classifier bundle. Fine-tune it first."
        )
    protocol = card.training.get("protocol", {})
    if reason := protocol.get("warning") or protocol.get("leak"):
        logger.warning("%s has optimistic test results: %s.", bundle, reason)
    return card


def refuse_finished(config: PredictConfig) -> None:
    """Nothing is written over. Raises DataError for a table that is there."""
    if config.out.exists():
        raise DataError(f"{config.out} exists. Choose another --out.")


class Scores:
    """The table, line by line in a file beside it that takes its place when all films have one.

    What was kept of it outlives a kill; with resume its films are not scored again. Only what the same bundle
    wrote, in the same runtime, is gone on from.
    """

    def __init__(self, config: PredictConfig, card: Card, runtime: str) -> None:
        self.out, self.card = config.out, card
        content = f"{card!r} {runtime} {[str(place) for place in config.films]}"
        digest = hashlib.blake2b(content.encode(), digest_size=6).hexdigest()
        self.unfinished = config.out.with_name(f".{config.out.name}.{digest}.unfinished")
        self.resume = config.resume
        self.rows, self.unread, self.first_reason = 0, 0, ""

    def __enter__(self) -> Scores:
        header = ["file", *self.card.findings, *(f"{finding}:present" for finding in self.card.findings)]
        header += ["notes", "error"]
        make_folder(self.out.parent)
        known = self._kept(header) if self.resume else []
        self.file = self.unfinished.open("w", newline="")
        self.table = csv.writer(self.file)
        self.table.writerows([header, *known])
        self.rows, self.unread = len(known), sum(bool(row[-1]) for row in known)
        if self.resume:
            logger.info("Going on after %d films that have been scored.", self.rows)
        return self

    def _kept(self, header: list[str]) -> list[list[str]]:
        """Whole lines of an earlier run, without its header; a line that a kill cut is done again."""
        if not self.unfinished.is_file():
            return []
        with self.unfinished.open(newline="") as file:
            whole, end, _ = file.read().rpartition("\n")
        lines = list(csv.reader(io.StringIO(whole + end, newline="")))
        return [line for line in lines[1:] if len(line) == len(header)]

    def refused(self, path: Path, reason: str) -> None:
        """A line for a film that cannot be read."""
        self.first_reason = self.first_reason or reason
        self.table.writerow([path, *[""] * (2 * len(self.card.findings) + 1), reason])
        self.rows, self.unread = self.rows + 1, self.unread + 1

    def scored(self, path: Path, answer: np.ndarray[Any, Any], issues: Sequence[str]) -> list[int | str]:
        """A line for a film; returns for each finding 1, 0, or "" where there is no threshold."""
        limits = [self.card.thresholds.get(finding) for finding in self.card.findings]
        present: list[int | str] = [
            "" if limit is None else int(value >= limit)
            for limit, value in zip(limits, answer.tolist(), strict=True)
        ]
        self.table.writerow([path, *(f"{value:.6f}" for value in answer), *present, " ".join(issues), ""])
        self.rows += 1
        return present

    def keep(self) -> None:
        """What has been written so far outlives a kill."""
        self.file.flush()

    def finish(self) -> None:
        """The table takes its place. Raises DataError when no film could be read."""
        if self.unread == self.rows:
            reason = self.first_reason or "see an earlier run"
            raise DataError(f"None of the {self.rows} files could be read; the first reason: {reason}")
        self.file.close()
        os.replace(self.unfinished, self.out)
        if self.unread:
            logger.warning(
                "%d of %d films could not be read: the column error of %s says why.",
                self.unread, self.rows, self.out,
            )  # fmt: skip

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        if kind is not None and issubclass(kind, EvaxError):  # an answer, not an accident
            self.unfinished.unlink(missing_ok=True)


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
    from evax.explain.heatmap import grad_cam
    from evax.explain.overlay import overlay
    from evax.files import replaced_whole

    for finding, is_present in zip(predictor.card.findings, present, strict=True):
        if is_present == 1:
            picture = overlay(film.pixels, grad_cam(predictor, film, finding))
            with replaced_whole(folder / f"{name}-{finding.replace('/', '-')}.png") as unfinished:
                picture.save(unfinished, "PNG")

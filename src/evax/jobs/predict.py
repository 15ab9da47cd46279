"""evax predict: a bundle + films -> a table of probabilities, and heat maps when asked."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from evax.data.films import batches_of, count_films, find_films, read_or_reason
from evax.errors import ConfigError, DataError
from evax.files import make_folder, refuse_existing, refuse_second_writer

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
    """Go on where a stopped run of the same bundle and options left off; films that are no longer found where
    they were, and those after them, are scored anew."""

    def __post_init__(self) -> None:
        if not self.films:
            raise ConfigError("predict needs films: evax predict BUNDLE FILES|FOLDER --out x.csv.")
        if self.batch_size <= 0:
            raise ConfigError(f"batch_size must be above 0, got {self.batch_size}.")


def predict(config: PredictConfig) -> Path:
    """Writes the table and returns its path; a film that cannot be read gets a line with the reason.

    Raises DataError when a named file or folder does not exist, the table exists, cannot be written or is
    being written by another run, scores of a stopped run are there, no film is found, or none could be read;
    and as open_bundle does.
    """
    from evax.deploy.predictor import default_runtime, open_bundle
    from evax.training.tracking import progress_bar

    card = classifier_card(config.bundle)  # before a file of an encoder is fetched for nothing
    refuse_existing(config.out)
    total = count_films(config.films)
    runtime = config.runtime or default_runtime()
    predictor = open_bundle(config.bundle, runtime)
    if config.heatmaps:
        make_folder(config.heatmaps)
    with (
        Scores(config, card, runtime) as scores,
        progress_bar("predicting", total, scores.rows) as advance,
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
                    answer = next(answers)
                    present = card.present(answer)
                    if config.heatmaps and True in present:  # before the line: what has one has its maps
                        name = f"{scores.rows + 1:05d}-{path.stem[:64]}"  # a file's name has 255 bytes
                        draw_heatmaps(predictor, film, present, config.heatmaps, name)
                    scores.scored(path, answer, present, film.issues)
                advance("")
            scores.keep()
        scores.finish()
    return config.out


def classifier_card(bundle: Path) -> Card:
    """What the bundle says of itself, with a warning where its test results are optimistic.

    Raises ConfigError for an encoder.
    """
    from evax.deploy.bundle import read_card
    from evax.deploy.predictor import refuse_without_converter

    if bundle.is_dir():
        card = read_card(bundle)
    else:
        refuse_without_converter(bundle)
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


class Scores:
    """The table, line by line in a file beside it that takes its place when all films have one.

    What was kept of it outlives a kill; with resume its films are not scored again. Only what the same bundle
    wrote, in the same runtime and with the same maps, is gone on from.
    """

    def __init__(self, config: PredictConfig, card: Card, runtime: str) -> None:
        self.out, self.card, self.films = config.out, card, config.films
        content = f"{card!r} {runtime} {[str(place) for place in (*config.films, config.heatmaps)]}"
        digest = hashlib.blake2b(content.encode(), digest_size=6).hexdigest()
        self.unfinished = config.out.with_name(f".{config.out.name}.{digest}.unfinished")
        self.resume = config.resume
        self.rows, self.unread, self.first_reason = 0, 0, ""

    def __enter__(self) -> Scores:
        make_folder(self.out.parent)
        try:  # a name that is no UTF-8 must not end the run
            self.file = self.unfinished.open("a", newline="", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise self._not_written(error) from error
        refuse_second_writer(self.file, self.out)
        self.table = csv.writer(self.file)
        header = ["file", *self.card.findings, *(f"{finding}:present" for finding in self.card.findings)]
        header += ["notes", "error"]
        end = self._kept(header)
        if self.rows and not self.resume:
            raise DataError(
                f"A stopped run has scored {self.rows} of these films: add --resume to go on after them, or "
                f"delete {self.unfinished}."
            )
        self.file.truncate(end)
        if not end:
            self.table.writerow(header)
        if self.resume:
            logger.info("Going on after %d films that have been scored.", self.rows)
        return self

    def _kept(self, header: list[str]) -> int:
        """Counts the lines of an earlier run, as far as they are whole and of the films that are found now;
        returns where they end.
        """
        end = 0
        with self.unfinished.open("rb") as file, contextlib.suppress(csv.Error):  # cut between two quotes
            whole = takewhile(lambda line: line.endswith(b"\n"), file)
            lines = csv.reader((line.decode(errors="replace") for line in whole), strict=True)
            if next(lines, None) == header:
                end = file.tell()
                for path, line in zip(find_films(self.films), lines, strict=False):
                    name = str(path).encode(errors="backslashreplace").decode()
                    if line[0] != name or len(line) != len(header):
                        break
                    self.rows, self.unread = self.rows + 1, self.unread + bool(line[-1])
                    end = file.tell()
        return end

    def refused(self, path: Path, reason: str) -> None:
        """A line for a film that cannot be read."""
        self.first_reason = self.first_reason or reason
        self.table.writerow([path, *[""] * (2 * len(self.card.findings) + 1), reason])
        self.rows, self.unread = self.rows + 1, self.unread + 1

    def scored(
        self, path: Path, answer: np.ndarray[Any, Any], present: Sequence[bool | None], issues: Sequence[str]
    ) -> None:
        """A line for a film."""
        counts = ("" if each is None else int(each) for each in present)
        self.table.writerow([path, *(f"{value:.6f}" for value in answer), *counts, " ".join(issues), ""])
        self.rows += 1

    def keep(self) -> None:
        """What has been written so far outlives a kill."""
        self.file.flush()

    def finish(self) -> None:
        """The table takes its place. Raises DataError when no film could be read, or the place is taken."""
        if self.unread == self.rows:
            reason = self.first_reason or "see an earlier run"
            raise DataError(f"None of the {self.rows} files could be read; the first reason: {reason}")
        refuse_existing(self.out)
        self.file.close()
        os.replace(self.unfinished, self.out)
        if self.unread:
            logger.warning(
                "%d of %d films could not be read: the column error of %s says why.",
                self.unread, self.rows, self.out,
            )  # fmt: skip

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with contextlib.suppress(OSError):  # a full disk is said below, a finished table is closed
            self.file.close()
        if error and self.unread == self.rows:  # not worth going on from
            self.unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> DataError:
        return DataError(
            f"{self.out} could not be written: {error}. Free some space and add --resume, or choose another "
            "--out."
        )


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
    predictor: Predictor, film: ReadFilm, present: Sequence[bool | None], folder: Path, name: str
) -> None:
    """One picture per finding that counts as present: the film beside the film with the map.

    name: how the files start; unlike a film's name alone, different for every film.
    """
    from evax.explain.heatmap import spread
    from evax.explain.overlay import overlay
    from evax.files import replaced_whole

    assert film.radiograph  # kept where maps are drawn
    pixels = film.radiograph.pixels
    maps = predictor.maps(film.input[None], predictor.layers[0])[0]  # of all findings, as grad_cam
    for finding, grid, is_present in zip(predictor.card.findings, maps, present, strict=True):
        if is_present:
            picture = overlay(pixels, spread(grid, pixels.shape, predictor.card.preprocess))
            with replaced_whole(folder / f"{name}-{finding.replace('/', '-')}.png") as unfinished:
                picture.save(unfinished, "PNG")

"""Published files as bundles: what the table of released files knows becomes a card."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, is_bundle, read_card, save_bundle
from evax.download import sha256_of
from evax.errors import ConfigError, DataError, WeightsError, unknown_name
from evax.models.classifier import Classifier
from evax.models.encoders import Encoder
from evax.weights.encoders import create_published
from evax.weights.released import RELEASED, Released
from evax.weights.resolve import FOLDER_VARIABLE, fetch_published, name_of_file, weights_folder

logger = logging.getLogger("evax")
BUNDLES = "bundles"  # inside the weights folder: published files that were used as bundles


@dataclass(frozen=True)
class PublishedFile:
    """A published file that somebody means, here already or not."""

    name: str
    """Key of RELEASED."""
    path: Path | None
    """Where it lies; None: it was named, and is fetched when it is needed."""

    @property
    def row(self) -> Released:
        """What the table knows of it."""
        return RELEASED[self.name]

    def file(self) -> Path:
        """Its path, fetched where it was named. Raises WeightsError when it cannot be had."""
        return fetch_published(self.name) if self.path is None else self.path

    def card(self, full_precision: bool = False) -> Card:
        """What the table knows, as a card; nothing that was not published is filled in.

        The store size of fine-tuned files is that of their images before the central crop, as they were tuned
        on images resized once; the images of EVA-X's pre-training were kept at 336 pixels, as are those of
        other encoders that see no more.
        """
        row = self.row
        kept = row.resize_size or max(Preprocess().store_size, row.input_size)
        training: dict[str, Any] = {
            "published": row.file,
            "source": row.url or row.by_hand,
            "read_from": row.file if self.path is None else self.path.name,
        }
        if row.layout == "mim":
            training["precision"] = "float32" if full_precision else "float16"
        return Card(
            kind="classifier" if row.findings else "encoder",
            encoder=row.encoder,
            preprocess=Preprocess(kept, row.input_size, row.mean, row.std, row.resize_size),
            findings=row.findings,
            exclusive=row.exclusive,
            thresholds=dict.fromkeys(row.findings),
            training=training,
            licence=f"{row.licence} (the published weights); the terms of the images they learned from hold "
            "too.",
        )

    def network(self, full_precision: bool = False) -> Encoder | Classifier:
        """Read safely and strictly. Raises WeightsError for a file that cannot be had or is another one."""
        return create_published(self.row, self.file(), full_precision)


def find_published(source: str | os.PathLike[str], like: str | None = None) -> PublishedFile:
    """The published file that is meant by its name, its official file name, or `like`, a name for a file that
    has another one. An existing path goes before a name; nothing is fetched or read yet.

    Raises ConfigError for what is neither, WeightsError for a file that evax does not convert.
    """
    text, path = os.fspath(source), Path(source)
    is_name = not path.exists() and path.name == text
    if is_name and like:
        raise ConfigError(f"There is no file {path}; like describes a file that is there.")
    name = text if is_name else like or name_of_file(path.name)
    if not name and not path.exists():
        raise ConfigError(f"There is no file or folder {path}.")
    if not name:
        names = ", ".join(key for key, row in RELEASED.items() if row.loadable)
        raise ConfigError(
            f"{path} has not the name of a published file, so its outputs and input size are unknown. Say "
            f"which it is with `evax zoo convert {path} --to bundle --out BUNDLE --like NAME`: {names}."
        )
    if name not in RELEASED:
        raise unknown_name("bundle folder, weight file or published weight", name, RELEASED)
    row = RELEASED[name]
    if not row.loadable:
        raise WeightsError(
            f"{row.file} has the layout of {row.layout}, which evax does not convert. "
            f"`evax zoo fetch {name}` gives it as it is."
            if not row.refused
            else f"{name} is not offered: {row.refused}."
        )
    return PublishedFile(name, None if is_name else path)


def is_file_or_name(source: str | os.PathLike[str]) -> bool:
    """Whether a file or a name is meant and no folder."""
    path = Path(source)
    return path.is_file() or (not path.exists() and path.name == os.fspath(source))


def card_of_source(source: str | os.PathLike[str]) -> Card:
    """The card of a bundle, or the one that a published file gets as a bundle; nothing is fetched.

    Raises DataError for a folder that is no bundle, and as `find_published` does.
    """
    return find_published(source).card() if is_file_or_name(source) else read_card(Path(source))


def bundle_of(source: str | os.PathLike[str]) -> Path:
    """The bundle folder that is meant: itself, or the one that a published file is converted to, once.

    source: a bundle folder, a published file under its official file name, or its name.
    What is converted stays in the weights folder under the name and the checksum of the file, so another file
    never answers for it; a card that this evax would write otherwise is made anew. The log says what the
    scores mean.
    Raises ConfigError, WeightsError and DataError as `find_published` and its parts do.
    """
    if not is_file_or_name(source):
        return Path(source)
    meant = find_published(source)
    card, digest = meant.card(), sha256_of(meant.file())
    folder = weights_folder() / BUNDLES / f"{meant.name}-{digest[:32]}"
    if not (is_bundle(folder) and read_card(folder) == card):
        network = meant.network()
        try:
            save_bundle(folder, card, network)
        except DataError as error:
            raise DataError(f"{error} {FOLDER_VARIABLE} names another one.") from error
    logger.info("%s is used as the bundle %s. %s", source, folder, describe_published(card))
    return folder


def describe_published(card: Card) -> str:
    """What a published classifier answers, what it sees, and what was not published with it."""
    chain = card.preprocess
    centre = f", of which it sees the central {chain.input_size} x {chain.input_size}"
    seen = f"{chain.store_size} x {chain.store_size} pixels{'' if chain.seen == (0, 1) else centre}"
    normalised = f"normalised with mean {chain.mean} and standard deviation {chain.std}"
    if card.kind == "encoder":
        return f"It is an encoder and gives features. Images are resized to {seen}, {normalised}."
    decision = (
        "`evax predict` gives probabilities and the most probable class."
        if card.exclusive
        else "No thresholds were published: `evax predict` gives probabilities, leaves present empty and "
        "draws no heat maps."
    )
    return (
        f"{'Exactly one' if card.exclusive else 'Each on its own'} of {len(card.findings)} findings: "
        f"{', '.join(card.findings)}. Images are resized to {seen}, {normalised}. {decision}"
    )

"""Bundles: a folder with card.json and model.safetensors that says everything a prediction needs."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt64

from evax.boxed import located
from evax.config import validated
from evax.data.preprocess import Preprocess, on_film
from evax.data.sources import is_own
from evax.errors import ConfigError, DataError
from evax.files import read_json, replaced_whole, save_tensors, write_json

if TYPE_CHECKING:  # reading a card needs neither torch nor a store
    from torch import nn

    from evax.data.store import ImageStore

logger = logging.getLogger("evax")
FORMAT = 1
# What every card must say; another field that a card lacks, because it came later, has its default.
DECISIVE = {"kind", "encoder", "preprocess", "findings", "exclusive", "thresholds"}
FILMS, PATIENTS = "films.u64", "patients.u64"
OWN_DATA = np.uint64(1)  # among the patients: some are of no public release
INTENDED_USE = "Research. Not a medical device; not for diagnosis or for decisions about patients."


@validated
@dataclass(frozen=True, kw_only=True)
class Card:
    """What a bundle says about itself; card.json."""

    kind: Literal["encoder", "classifier", "segmenter"]
    encoder: str
    """Name of the architecture."""
    preprocess: Preprocess
    """Native image -> store size -> network input, as in training."""
    findings: tuple[str, ...] = ()
    """Order of the outputs; empty for an encoder."""
    exclusive: bool = False
    """Exactly one finding per image (softmax), else one probability each."""
    thresholds: dict[str, float | None] = field(default_factory=dict)
    """Probability from which a finding counts as present, or a pixel as inside, chosen on validation; None
    where undefined. Of no effect for exclusive classes, see `present`.
    """
    training: dict[str, Any] = field(default_factory=dict)
    """How the weights came about: data fingerprints, steps, seed, commit."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Test results with their protocol."""
    licence: str = (
        "Apache-2.0 for the software; the weights follow the terms of the images they learned from."
    )
    intended_use: str = INTENDED_USE
    format: int = FORMAT

    def predicted(self, answer: Float[np.ndarray, " K"]) -> str:
        """The most probable of exclusive classes; a tie goes to the first. answer: (K,) of an image."""
        return self.findings[int(answer.argmax())]

    def present(self, answer: Float[np.ndarray, " outputs"]) -> list[bool | None]:
        """Which findings count as present: those at or above their threshold, None without one; of exclusive
        classes the predicted one alone, whatever thresholds a card of an older evax has.

        answer: (K,) probabilities of an image; an encoder has no findings, whatever it answers.
        """
        if self.exclusive:
            return [finding == self.predicted(answer) for finding in self.findings]
        limits = [self.thresholds.get(finding) for finding in self.findings]
        return [
            None if limit is None else value >= limit
            for limit, value in zip(limits, answer.tolist(), strict=False)
        ]

    def masks(
        self, answer: Float[np.ndarray, "K h w"], shape: tuple[int, ...]
    ) -> dict[str, Bool[np.ndarray, "H W"]]:
        """A segmenter's answer on an image of this shape: each finding's pixels that count as inside."""
        limits = (self.thresholds.get(finding) for finding in self.findings)
        return {
            finding: on_film(each, shape) >= (math.inf if limit is None else limit)
            for finding, each, limit in zip(self.findings, answer, limits, strict=True)
        }


def save_bundle(folder: Path, card: Card, network: nn.Module) -> Path:
    """Writes card and weights; the card last, so that a folder with a card is complete.

    The encoder's rotary grid is noted in model.safetensors itself: it is part of what the weights mean.
    """
    grid = getattr(getattr(network, "encoder", network), "rotary_grid", None)
    notes = {"kind": card.kind, "encoder": card.encoder} | ({"rotary_grid": str(grid)} if grid else {})
    save_tensors(network.state_dict(), folder / "model.safetensors", notes)
    write_json(asdict(card) | {"preprocess": card.preprocess.to_json()}, folder / "card.json")
    return folder


class Seen(NamedTuple):
    """What weights have learned from, or chosen by, as numbers that say nothing to who has not the images."""

    films: UInt64[np.ndarray, " films"]
    """See ImageStore.digests."""
    patients: UInt64[np.ndarray, " patients"]
    """See ImageStore.people; with them ImageStore.namespace_mark of each store, and OWN_DATA."""

    def also(self, other: Seen) -> Seen:
        """Both together."""
        return Seen(np.union1d(self.films, other.films), np.union1d(self.patients, other.patients))


def seen_in(store: ImageStore, *parts: Int64[np.ndarray, " _"]) -> Seen:
    """These rows of a store."""
    rows = np.unique(np.concatenate(parts))
    marks = [store.namespace_mark()] + ([OWN_DATA] if is_own(store.manifest.source) else [])
    return Seen(np.unique(store.digests(rows)), np.union1d(store.people(rows), np.array(marks, np.uint64)))


def read_seen(weights: Path | None) -> Seen:
    """What save_seen kept in a bundle, or beside a weight file; nothing without it."""
    if weights is None:
        return Seen(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
    folder = weights.parent if weights.is_file() else located(weights)
    numbers = []
    for path in (folder / FILMS, folder / PATIENTS):
        content = path.read_bytes() if path.is_file() else b""
        if len(content) % 8:
            raise DataError(
                f"{path} is damaged: it has {len(content)} bytes, no multiple of 8. Copy it again."
            )
        numbers.append(np.frombuffer(content, "<u8"))
    return Seen(*numbers)


def save_seen(folder: Path, seen: Seen) -> None:
    """Keeps beside weights what they learned from, so that nobody tests on it unknowingly."""
    for name, numbers in ((FILMS, seen.films), (PATIENTS, seen.patients)):
        with replaced_whole(folder / name) as unfinished:
            unfinished.write_bytes(numbers.astype("<u8").tobytes())


def is_bundle(weights: Path | None) -> bool:
    """Whether these weights are a bundle folder, which brings its own chain."""
    return weights is not None and (located(weights) / "card.json").is_file()


def seen_images(
    weights: Path | None, store: ImageStore, rows: Int64[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """Which of these images the weights learned from, or from other images of their patients.

    The very same stored pixels are recognised, and patients of the same public release, table or pseudonym
    key, whatever the size of the store.
    """
    known = read_seen(weights)
    people = store.people(rows)
    return np.isin(store.digests(rows), known.films) | ((people != 0) & np.isin(people, known.patients))


def check_test_unseen(weights: Path | None, store: ImageStore, test: Int64[np.ndarray, " rows"]) -> None:
    """Raises DataError when weights have learned from images or patients of this test split (see seen_films);
    warns where the patients cannot be compared.
    """
    if weights is None or not (known := read_seen(weights)).films.size:
        return
    if seen := int(seen_images(weights, store, test).sum()):
        raise DataError(
            f"{weights} has learned from {seen} of the {len(test)} test images of {store.path}, or from other "
            "images of their patients. Divide both stores alike (the same patients, --seed and shares, or one "
            "--split), or train without these images."
        )
    # weights of an earlier evax have no patients; a mark of 0 is of a store without a namespace
    unknown = not known.patients.size or OWN_DATA in known.patients
    mark = store.namespace_mark()
    if unknown and is_own(store.manifest.source) and (mark == 0 or mark not in known.patients):
        warn_if_patients_unknown(weights, store.path)


@cache
def warn_if_patients_unknown(weights: Path, store: Path) -> None:
    """Once for all runs of a study."""
    logger.warning(
        "Whether %s learned from other images of the test patients of %s is not known: their names cannot be "
        "compared (another table, another key of the pseudonyms, or weights of an earlier evax). evax audit "
        "compares the images.",
        weights, store,
    )  # fmt: skip


def read_card(folder: Path) -> Card:
    """The card of a bundle. Raises DataError when the folder is none or its card is not understood."""
    path = located(folder) / "card.json"
    if not path.is_file():
        wrong = "is not a bundle: it has no card.json" if folder.exists() else "does not exist"
        raise DataError(
            f"{folder} {wrong}. A bundle is written by pretrain, finetune and segment, and of published "
            "weights by `evax zoo convert NAME --to bundle`."
        )
    content = read_json(path)
    try:
        if content["format"] not in range(1, FORMAT + 1):
            raise DataError(
                f"{path} has format {content['format']}, this evax reads format {FORMAT}: update evax."
            )
        names = [item.name for item in fields(Card)]
        given = {name: content[name] for name in names if name in DECISIVE or name in content}
        given["preprocess"] = Preprocess.from_json(content["preprocess"])
        given["findings"] = tuple(content["findings"])
        return Card(**given)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a readable bundle card: {error!r}.") from error


def model_facts(card: Card, network: nn.Module, weights: Path | None) -> dict[str, Any]:
    """What a model card says of a network besides its scores, for report.json.

    weights: what it began from; of an encoder bundle, also what that had learned from.
    """
    began = read_card(weights).training if weights is not None and is_bundle(weights) else {}
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "preprocess": card.preprocess.to_json(),
        "licence": card.licence,
        "intended_use": card.intended_use,
        "began_from": {key: began[key] for key in ("tokenizer", "images", "steps", "stores") if key in began},
    }


def log_other_size(weights: Path | None, image_size: int) -> None:
    """A line of the log where an encoder bundle will see images at another size than it was trained at."""
    if weights is not None and is_bundle(weights):
        own = read_card(weights).preprocess.input_size
        if own != image_size:
            logger.info(
                "%s was trained at %d pixels and sees images at %d here; --image-size %d is its own size.",
                weights, own, image_size, own,
            )  # fmt: skip


def warn_if_other_bits(bundle: Path, chain: Preprocess, store: ImageStore) -> None:
    """Warns where the deep pictures of a store were read at another depth than a bundle's images."""
    if chain.bits and store.bits and chain.bits != store.bits:
        logger.warning(
            "%s was trained on pictures read at %d bits, those of %s were read at %d: that is right where "
            "they come from another device; otherwise prepare the store with --bits %d.",
            bundle, chain.bits, store.path, store.bits, chain.bits,
        )  # fmt: skip


def starting_preprocess(
    encoder: str, weights: Path | None, store: ImageStore | None, image_size: int
) -> Preprocess:
    """The chain for an encoder with these weights on the images of a store, or on images as they come (None).

    A bundle brings its own chain and a published file its own normalisation; for others the statistics of the
    store are used, or the published ones of EVA-X where there is no store, and a line of the log says so. The
    depth in bits is the store's where it has one.
    So is the size at which its images are kept. Raises as create_encoder does for weights that cannot be had.
    """
    from evax.weights.encoders import EncoderWeights

    if weights is not None and is_bundle(weights):
        chain = read_card(weights).preprocess
        if store is not None and chain.store_size != store.size:
            logger.info(
                "%s was trained on images kept at %d pixels, %s keeps them at %d.",
                weights, chain.store_size, store.path, store.size,
            )  # fmt: skip
            chain = replace(chain, store_size=store.size)
        if store is not None and store.bits:
            warn_if_other_bits(weights, chain, store)
            chain = replace(chain, bits=store.bits)
        return chain.at(image_size)
    chain = Preprocess(input_size=image_size)
    if store is not None:
        chain = replace(chain, store_size=store.size, mean=store.mean, std=store.std, bits=store.bits)
    if (own := EncoderWeights(encoder, weights).normalisation()) is not None:
        return replace(chain, mean=own[0], std=own[1])
    if weights is not None:
        source = "EVA-X's publication" if store is None else "the store"
        logger.info(
            "%s does not say how its images were normalised: the statistics are those of %s.", weights, source
        )
    return chain


def earlier_training(weights: Path | None) -> dict[str, Any] | None:
    """What the weights to start from say about their own training; None for random ones.

    Raises ConfigError for a classifier: which images its labels came from is not kept with it.
    """
    if weights is None:
        return None
    if not is_bundle(weights):
        return {"weights": weights.name}
    card = read_card(weights)
    if card.kind != "encoder":
        raise ConfigError(
            f"{weights} is a {card.kind}; pre-training starts from an encoder. Give the encoder it was "
            "fine-tuned from."
        )
    return card.training


def training_so_far(before: dict[str, Any] | None, images: int, films: int) -> dict[str, Any]:
    """Crops of this run and of all runs, and different images of all runs, with what came before.

    images_total is None when the run began from weights that do not tell theirs.
    """
    earlier = 0 if before is None else before.get("images_total")
    return {
        "images": images,
        "images_total": None if earlier is None else earlier + images,
        "films_total": films,
        "before": before,
    }

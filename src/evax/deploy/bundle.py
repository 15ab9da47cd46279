"""Bundles: a folder with card.json and model.safetensors that says everything a prediction needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import nn

from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore
from evax.errors import DataError
from evax.files import read_json, replaced_whole, write_json
from evax.models.encoders import CNNS
from evax.weights.encoders import is_imagenet

FORMAT = 1
INTENDED_USE = "Research. Not a medical device; not for diagnosis or for decisions about patients."


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a bundle says about itself; card.json."""

    kind: Literal["encoder", "classifier"]
    encoder: str
    """Name of the architecture."""
    preprocess: Preprocess
    """Native film -> store size -> network input, as in training."""
    findings: tuple[str, ...] = ()
    """Order of the outputs; empty for an encoder."""
    exclusive: bool = False
    """Exactly one finding per film (softmax), else one probability each."""
    thresholds: dict[str, float | None] = field(default_factory=dict)
    """Probability from which a finding counts as present, chosen on validation; None where undefined."""
    training: dict[str, Any] = field(default_factory=dict)
    """How the weights came about: data fingerprints, steps, seed, commit."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Test results with their protocol."""
    licence: str = "Apache-2.0 for the software; the weights follow the terms of the films they learned from."
    intended_use: str = INTENDED_USE
    format: int = FORMAT


def save_bundle(folder: Path, card: Card, network: nn.Module) -> Path:
    """Writes card and weights; the card last, so that a folder with a card is complete."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replaced_whole(folder / "model.safetensors") as unfinished:
        save_file(state, unfinished, {"kind": card.kind, "encoder": card.encoder})
    write_json(asdict(card) | {"preprocess": card.preprocess.to_json()}, folder / "card.json")
    return folder


def read_card(folder: Path) -> Card:
    """The card of a bundle. Raises DataError when the folder is none or its card is not understood."""
    path = folder / "card.json"
    if not path.is_file():
        raise DataError(
            f"{folder} is not a bundle: it has no card.json. A bundle is written by pretrain and finetune."
        )
    content = read_json(path)
    try:
        if content["format"] != FORMAT:
            raise DataError(
                f"{path} has format {content['format']}, this evax reads format {FORMAT}: update evax."
            )
        given = {item.name: content[item.name] for item in fields(Card)}
        given["preprocess"] = Preprocess.from_json(content["preprocess"])
        given["findings"] = tuple(content["findings"])
        return Card(**given)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a readable bundle card: {error!r}.") from error


def starting_preprocess(
    encoder: str, weights: Path | None, store: ImageStore | None, image_size: int
) -> Preprocess:
    """The chain for an encoder with these weights on the films of a store, or on films as they come (None).

    A bundle brings its own chain and ImageNet weights their own normalisation; for others the statistics of
    the store are used, or the published ones where there is no store.
    Raises DataError when a bundle was trained on films kept at another size.
    """
    if weights is not None and (weights / "card.json").is_file():
        chain = read_card(weights).preprocess
        if store is not None and chain.store_size != store.size:
            raise DataError(
                f"{weights} was trained on films kept at {chain.store_size} pixels, {store.path} "
                f"keeps them at {store.size}: prepare the store with --size {chain.store_size}."
            )
        return replace(chain, input_size=image_size)
    chain = Preprocess(input_size=image_size)
    if store is not None:
        chain = replace(chain, store_size=store.size, mean=store.mean, std=store.std)
    if is_imagenet(encoder, weights):
        chain = replace(chain, mean=CNNS[encoder].mean, std=CNNS[encoder].std)
    return chain

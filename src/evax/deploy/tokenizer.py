"""The tokenizer a user asks for: foreign weights, or a bundle of ours (self-distillation in generations)."""

from __future__ import annotations

import os
from pathlib import Path

from evax.deploy.bundle import read_card
from evax.errors import ConfigError, WeightsError
from evax.models.encoders import EvaX
from evax.models.tokenizers import AUTO, EncoderFeatures, Tokenizer
from evax.weights.encoders import create_encoder
from evax.weights.tokenizers import create_tokenizer


def open_tokenizer(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    image_size: int = 224,
    layer: str = AUTO,
    view: int | None = None,
) -> Tokenizer:
    """name: the folder of an encoder bundle, or what create_tokenizer takes, as do the others.

    A bundle is normalised as its card says. Raises as create_tokenizer does; WeightsError for a bundle whose
    features were learned from labels.
    """
    folder = Path(name)
    if not (folder / "card.json").is_file():
        return create_tokenizer(name, weights, image_size=image_size, layer=layer, view=view)
    card = read_card(folder)
    if card.kind != "encoder":
        raise WeightsError(
            f"{folder} is a {card.kind}, whose features were learned from labels; pre-training uses none. "
            "Give an encoder bundle."
        )
    if weights is not None:
        raise WeightsError(f"{folder} brings its own weights: leave --tokenizer-weights out.")
    view = view or image_size
    if view % EvaX.stride:
        raise ConfigError(f"A view of {view} pixels is not filled by patches of {EvaX.stride}.")
    chain = card.preprocess
    return Tokenizer(
        EncoderFeatures(create_encoder(card.encoder, weights=folder, img_size=view), layer),
        name=f"bundle of {card.encoder}",
        image_size=image_size,
        view=view,
        mean=chain.mean,
        std=chain.std,
    )

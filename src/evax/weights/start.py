"""The encoder that a fine-tuning begins with, and what tells its weights from others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evax.errors import ConfigError
from evax.files import digest_of
from evax.models.encoders import Encoder
from evax.weights.download import weights_path
from evax.weights.encoders import create_encoder
from evax.weights.files import read_state_dict
from evax.weights.names import is_packaged
from evax.weights.packaged import imagenet_state


def starting_encoder(config: Any) -> Encoder:
    """The encoder with its weights, before the first step.

    config: a FinetuneConfig. Raises ConfigError for what a CNN does not have.
    """
    encoder = create_encoder(
        config.encoder,
        config.weights,
        position_antialias=config.position_antialias,
        img_size=config.image_size,
        drop_path_rate=config.drop_path,
    )
    if config.fc_norm == "new":
        if not hasattr(encoder.fc_norm, "reset_parameters"):
            raise ConfigError(f"{config.encoder} has no final norm: leave fc_norm out.")
        encoder.fc_norm.reset_parameters()  # type: ignore[operator]
    if config.freeze_patch_embed:
        if not hasattr(encoder, "patch_embed"):
            raise ConfigError(f"{config.encoder} has no patch embedding: leave freeze_patch_embed out.")
        encoder.patch_embed.requires_grad_(False)
    return encoder


def digest_of_weights(encoder: str, weights: Path | None) -> str | None:
    """Returns a digest of the tensors, wherever their file lies; None for random weights.

    Arguments as for create_encoder. Raises as create_encoder does for weights that cannot be read.
    """
    if weights is None:
        return None
    packaged = is_packaged(encoder, weights)
    state = imagenet_state(encoder) if packaged else read_state_dict(weights_path(encoder, weights))
    return digest_of(state)[:16]

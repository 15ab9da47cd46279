"""The encoder that a fine-tuning begins with."""

from __future__ import annotations

from typing import Any

from evax.errors import ConfigError
from evax.models.encoders import Encoder
from evax.weights.encoders import create_encoder


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

"""What an encoder has learned from so far, when its training began from another encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evax.deploy.bundle import is_bundle, read_card
from evax.errors import ConfigError


def earlier_training(weights: Path | None) -> dict[str, Any] | None:
    """What the weights to start from say about their own training; None for random ones.

    Raises ConfigError for a classifier: which films its labels came from is not kept with it.
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
    """Crops of this run and of all runs, and different films of all runs, with what came before.

    images_total is None when the run began from weights that do not tell theirs.
    """
    earlier = 0 if before is None else before.get("images_total")
    return {
        "images": images,
        "images_total": None if earlier is None else earlier + images,
        "films_total": films,
        "before": before,
    }

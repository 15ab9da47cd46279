"""Tokenizers with their published weights."""

from __future__ import annotations

from evax.models.tokenizers import Tokenizer
from evax.weights.packaged import imagenet_state


def create_tokenizer(name: str) -> Tokenizer:
    """A frozen tokenizer, with its pre-trained weights, by its name in models.tokenizers.TOKENIZERS."""
    tokenizer = Tokenizer(name)
    tokenizer.network.load_state_dict(imagenet_state(name), strict=True)
    return tokenizer

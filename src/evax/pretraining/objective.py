"""The pre-training objective (paper, Eq. 6-7), and how varied predictions are."""

from __future__ import annotations

import torch.nn.functional as F  # torch's own habit
from jaxtyping import Float, Int
from torch import Tensor


def at_positions(tokens: Float[Tensor, "B N D"], positions: Int[Tensor, "B M"]) -> Float[Tensor, "B M D"]:
    """The tokens at the given positions of each image."""
    return tokens.gather(1, positions.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def masked_cosine_loss(
    predicted: Float[Tensor, "B M Dt"], targets: Float[Tensor, "B N Dt"], positions: Int[Tensor, "B M"]
) -> Float[Tensor, ""]:
    """Minus the mean cosine between prediction and tokenizer feature over the hidden patches (Eq. 6-7), in
    float32.

    predicted: at the hidden positions only. targets: the tokenizer's features of all patches of the clean
    image.
    Returns a value in [-1, 1]; lower is better.
    """
    wanted = at_positions(targets, positions)
    return -F.cosine_similarity(predicted.float(), wanted.float(), dim=-1).mean()


def relative_spread(predicted: Float[Tensor, "B M Dt"], wanted: Float[Tensor, "B M Dt"]) -> Float[Tensor, ""]:
    """How much the directions of the predictions differ from each other, over how much the wanted ones do.

    0: every patch of every image is predicted to be the same (a collapse); 1: as varied as the features.
    """
    return _spread(predicted) / _spread(wanted).clamp(min=1e-6)


def _spread(vectors: Float[Tensor, "B M Dt"]) -> Float[Tensor, ""]:
    """Variance of the unit vectors: 1 - |mean|^2, in [0, 1]."""
    directions = F.normalize(vectors.float(), dim=-1).flatten(0, 1)
    return 1 - directions.mean(dim=0).square().sum()

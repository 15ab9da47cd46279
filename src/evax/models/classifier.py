"""Encoder + head: mean of the patches -> LayerNorm (EVA-X) or nothing (CNN) -> linear."""

from __future__ import annotations

import torch
from jaxtyping import Float
from timm.layers import trunc_normal_
from torch import Tensor, nn

from evax.models.encoders import Encoder, cut_outliers


class Classifier(nn.Module):
    """Logits of K findings from an encoder.

    The class token is left out of the mean, as the released weights were tuned (paper: "average all the
    tokens").
    """

    def __init__(self, encoder: Encoder, findings: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.num_features, findings)
        # a head close to zero: first probabilities are 0.5 and the encoder is not shaken; paper-facts.md 1.2
        trunc_normal_(self.head.weight, std=2e-5)
        cut_outliers([self.head.weight], std=2e-5)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """images: normalised."""
        return self.read(self.encoder.encode(images).patches)

    def read(self, patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B K"]:
        """Logits from the encoder's patches."""
        logits: Tensor = self.head(self.encoder.fc_norm(patches.mean(dim=1)))
        return logits


def probabilities(logits: Float[Tensor, "B K"], exclusive: bool) -> Float[Tensor, "B K"]:
    """Softmax when exactly one finding is true per image, else a sigmoid per finding; computed in float32."""
    return torch.softmax(logits.float(), dim=1) if exclusive else torch.sigmoid(logits.float())

"""Frozen tokenizers: networks whose patch features are the target of pre-training."""

from __future__ import annotations

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from evax.errors import unknown_name
from evax.models.encoders import CNNS

TOKENIZERS = {  # name, also in CNNS: (stage whose map is the target, its channels)
    "efficientnet_lite0": (3, 112),  # at stride 16
}


class Tokenizer(nn.Module):
    """Clean films in [0, 1] -> one feature vector per patch; always in eval mode, never a gradient."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in TOKENIZERS:
            raise unknown_name("tokenizer", name, TOKENIZERS)
        self.stage, self.width = TOKENIZERS[name]
        facts = CNNS[name]
        # (1, 1, 1) for one number, (3, 1, 1) for one per colour
        self.register_buffer("mean", torch.tensor(facts.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(facts.std).view(-1, 1, 1), persistent=False)
        self.network = timm.create_model(facts.network, num_classes=1000)
        self.network.requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)
        self.eval()

    def train(self, mode: bool = True) -> Tokenizer:
        """Stays in eval mode whatever is asked: batch statistics of a frozen teacher must not move."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, films: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B N Dt"]:
        """films: clean crops in [0, 1]; the tokenizer's own normalisation is applied here.

        The grid is H/16 x W/16, equal to the student's. Source: Eq. (5).
        """
        images = ((films - self.mean) / self.std).expand(-1, 3, -1, -1)
        maps: list[Tensor] = self.network.forward_intermediates(
            images.contiguous(memory_format=torch.channels_last),
            indices=[self.stage],
            stop_early=True,
            intermediates_only=True,
        )
        return maps[0].flatten(2).transpose(1, 2)  # (B, Dt, h, w) -> (B, N, Dt)

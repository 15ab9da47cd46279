"""Frozen tokenizers: networks whose patch features are the target of pre-training."""

from __future__ import annotations

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from evax.errors import unknown_name

# name: (timm network, stage whose map is the target, channels, mean, std the network was trained with)
TOKENIZERS: dict[str, tuple[str, int, int, float, float]] = {
    # 127 and 128 of 255 in the package's own recipe; 112 channels at stride 16
    "efficientnet_lite0": ("tf_efficientnet_lite0", 3, 112, 127 / 255, 128 / 255),
}


class Tokenizer(nn.Module):
    """Clean films in [0, 1] -> one feature vector per patch; always in eval mode, never a gradient."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in TOKENIZERS:
            raise unknown_name("tokenizer", name, TOKENIZERS)
        network, self.stage, self.width, self.mean, self.std = TOKENIZERS[name]
        self.network = timm.create_model(network, num_classes=1000)
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

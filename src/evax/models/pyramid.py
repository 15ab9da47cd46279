"""Maps of an encoder at several scales, for decoders: a transformer's one map at four, a CNN's stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evax.models.encoders import Cnn, Encoder

Map = Float[Tensor, "B D h w"]


class PatchPyramid(nn.Module):
    """The last block's raw output at strides 4, 8, 16 and 32, all D wide.

    Source: ViTDet's simple pyramid as EVA-X's segmentation has it (facts 5.1).
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        width = encoder.num_features
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
        )
        self.up2 = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.down2 = nn.MaxPool2d(kernel_size=2, stride=2)
        self.widths = [width] * 4

    def forward(self, encoder: Encoder, images: Float[Tensor, "B C H W"]) -> list[Tensor]:
        """images: normalised. Returns four maps, the largest first."""
        encoded = encoder.encode(images)
        whole = encoded.patches.transpose(1, 2).reshape(len(images), -1, *encoded.grid)  # (B, D, h, w)
        return [self.up4(whole), self.up2(whole), whole, self.down2(whole)]


class StagePyramid(nn.Module):
    """A CNN's maps at strides 2, 4, 8, 16 and 32, each as wide as the stage that makes it."""

    def __init__(self, encoder: Cnn) -> None:
        super().__init__()
        self.widths: list[int] = [int(stage["num_chs"]) for stage in encoder.network.feature_info]

    def forward(self, encoder: Cnn, images: Float[Tensor, "B C H W"]) -> Sequence[Tensor]:
        """images: normalised. Returns the maps, the largest first."""
        images = images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        stages: list[Tensor] = encoder.network.forward_intermediates(images, intermediates_only=True)
        return stages

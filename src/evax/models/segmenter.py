"""Encoder + decoder -> a mask per finding: UPerNet on a transformer, U-Net on a CNN, as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # torch's own habit
from jaxtyping import Float
from torch import Tensor, nn

from evax.errors import ConfigError
from evax.models.encoders import Cnn, Encoder

DECODER_WIDTH = 256  # of the paper's UPerNet
UNET_WIDTHS = (256, 128, 64, 32, 16)
UNET_HEAD = 64


class Segmenter(nn.Module):
    """Logits of K findings for every pixel.

    decoder_width: channels of UPerNet's decoder; a CNN's U-Net has its own.
    Source: paper-facts.md 5.1, 5.2. The decoders are those of segmentation_models_pytorch: its UPerNet
    normalises the maps it is given, which mmsegmentation's does not (docs/paper-map.md).
    """

    def __init__(self, encoder: Encoder, findings: int, decoder_width: int = DECODER_WIDTH) -> None:
        super().__init__()
        # here: it imports every encoder it has, and only segmenters need it
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        self.encoder = encoder
        self.pyramid: nn.Module
        self.decoder: nn.Module
        if isinstance(encoder, Cnn):
            if encoder.stride != 32:
                raise ConfigError(
                    "A U-Net needs all stages of a CNN, and this one has been cut: use a whole one."
                )
            self.pyramid = StagePyramid(encoder)
            self.decoder = UnetDecoder([3, *self.pyramid.widths], UNET_WIDTHS)
            self.head = nn.Sequential(
                nn.Conv2d(UNET_WIDTHS[-1], UNET_HEAD, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(UNET_HEAD),
                nn.ReLU(),
                nn.Dropout2d(0.1),
                nn.Conv2d(UNET_HEAD, findings, kernel_size=1),
            )
        else:
            self.pyramid = PatchPyramid(encoder)
            self.decoder = UPerNetDecoder([0, 0, *self.pyramid.widths], decoder_channels=decoder_width)
            self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(decoder_width, findings, kernel_size=1))

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """images: normalised. Logits at the size of the images, bilinear where the decoder's are smaller."""
        maps = self.pyramid(self.encoder, images)
        # both decoders expect finer scales before these, of which they look at the size alone
        before: list[Any] = [images] if isinstance(self.encoder, Cnn) else [images, images]
        logits = self.head(self.decoder([*before, *maps]))
        size = images.shape[-2:]
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits


Map = Float[Tensor, "B D h w"]


class PatchPyramid(nn.Module):
    """The last block's raw output at strides 4, 8, 16 and 32, all D wide.

    Source: ViTDet's simple pyramid as EVA-X's segmentation has it (paper-facts.md 5.1).
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

"""EVA-X Ti, S and B (timm's Eva with the paper's sizes, registered in timm), convolutional baselines, and one
way to ask any of them for features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import timm
import torch
from jaxtyping import Bool, Float
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from evax.errors import unknown_name
from evax.published import MERGED_520K_MEAN, MERGED_520K_STD

EVA_X = {  # name: (width, heads, split q/k/v with sub-LN in the FFN); facts 1.1
    "eva_x_tiny_patch16_224": (192, 3, False),
    "eva_x_small_patch16_224": (384, 6, False),
    "eva_x_base_patch16_224": (768, 12, True),
}
ROTARY_GRID = 14  # rotary positions run from 0 to 13 at every resolution, unless a file was trained otherwise


class CnnFacts(NamedTuple):
    """What is to be known of a convolutional network."""

    network: str
    """Its name in timm."""
    stride: int
    """Pixels per side of a place of its last map."""
    mean: float
    """Normalisation of its ImageNet weights, for pixels in [0, 1]."""
    std: float


CNNS = {
    # 127 and 128 of 255 are in the recipe of the package that brings the ImageNet weights
    "efficientnet_lite0": CnnFacts("tf_efficientnet_lite0", 32, 127 / 255, 128 / 255),
    "densenet121": CnnFacts("densenet121", 32, 0.449, 0.226),  # the mean over torchvision's three channels
    "resnet50": CnnFacts("resnet50", 32, 0.449, 0.226),
}
VITS = {"vit_small_patch16_224": (384, 6)}  # name: (width, heads)
ENCODERS = (*EVA_X, *VITS, *CNNS)


class Encoded(NamedTuple):
    """Raw output of an encoder's last block; the final LayerNorm belongs to whoever pools or projects it."""

    patches: Tensor
    """(B, N, D), row by row."""
    grid: tuple[int, int]
    """(h, w) with h * w = N."""
    cls: Tensor | None
    """(B, D), or None for encoders without a class token."""


class Encoder(nn.Module):
    """What every encoder offers to heads, probes and maps."""

    num_features: int
    """D."""
    depth: int
    """Blocks that layer-wise learning rates count; 0 for a CNN, which has one rate."""
    stride: int
    """Pixels per side of a patch."""
    fc_norm: nn.Module
    """What acts on pooled patches before a linear head: LayerNorm for EVA-X, nothing for a CNN."""

    def encode(self, images: Float[Tensor, "B C H W"]) -> Encoded:
        """images: normalised; one grey channel is shown to all three input channels."""
        raise NotImplementedError


class Cnn(Encoder):
    """A convolutional network of timm; its patches are the places of its last map.

    options: timm's, for example drop_path_rate.
    """

    depth = 0

    def __init__(self, facts: CnnFacts, **options: Any) -> None:
        super().__init__()
        self.network = timm.create_model(facts.network, num_classes=0, **options)
        self.network.to(
            memory_format=torch.channels_last
        )  # trains twice as fast on a CPU (docs/decisions.md)
        self.num_features = self.network.num_features
        self.stride = facts.stride
        self.fc_norm = nn.Identity()

    def encode(self, images: Float[Tensor, "B C H W"]) -> Encoded:
        """The map that timm's own classifier would pool. Source: the paper's CNN baselines (facts 7)."""
        images = images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        features = self.network.forward_features(images)  # (B, D, h, w)
        height, width = features.shape[2:]
        return Encoded(features.flatten(2).transpose(1, 2), (height, width), None)


class PlainVit(VisionTransformer, Encoder):
    """timm's VisionTransformer plus `encode`; its final norm is `fc_norm`."""

    stride = 16
    patch_embed: Any  # timm has no types
    blocks: Any
    _pos_embed: Any

    def __init__(self, name: str, **options: Any) -> None:
        width, heads = VITS[name]
        sizes = {"patch_size": self.stride, "embed_dim": width, "num_heads": heads}
        super().__init__(num_classes=0, global_pool="avg", fc_norm=True, **sizes, **options)
        self.depth = len(self.blocks)

    def encode(self, images: Float[Tensor, "B C H W"]) -> Encoded:
        """Features of the last block, before any norm. Source: the paper's ViT baselines (facts 7)."""
        tokens = self._pos_embed(self.patch_embed(images.expand(-1, 3, -1, -1)))  # (B, T, D)
        for block in self.blocks:
            tokens = block(tokens)
        height, width = self.patch_embed.grid_size
        return Encoded(tokens[:, 1:], (height, width), tokens[:, 0])


class EvaX(Eva, Encoder):
    """timm's Eva plus `encode`. Parameters and names are timm's, so timm checkpoints fit as they are."""

    depth = 12
    stride = 16
    patch_embed: Any  # timm has no types
    blocks: Any
    rope: Any
    embed_dim: int
    _pos_embed: Any

    @property
    def rotary_grid(self) -> int:
        """Side of the grid whose positions the rotary tables span at every resolution: 14, or a file's own
        (facts 1.3).
        """
        return int(self.rope.ref_feat_shape[0])

    def encode(
        self,
        images: Float[Tensor, "B C H W"],
        hidden: Bool[Tensor, "B N"] | None = None,
        mask_token: Float[Tensor, "1 1 D"] | None = None,
    ) -> Encoded:
        """Features of the last block, before any norm.

        images: normalised; one grey channel is shown to all three input channels, as the paper does.
        hidden: patches whose embedding is replaced by mask_token; given together with mask_token.
        Source: Eq. (1)-(3); the replacement comes before class token and position table (facts 2.1).
        """
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        patches = self.patch_embed(images)  # (B, N, D)
        if hidden is not None and mask_token is not None:
            patches = torch.where(hidden.unsqueeze(-1), mask_token.to(patches.dtype), patches)
        tokens, rope = self._pos_embed(patches)  # (B, T, D)
        for block in self.blocks:
            tokens = block(tokens, rope=rope)
        height, width = self.patch_embed.grid_size
        return Encoded(tokens[:, 1:], (height, width), tokens[:, 0])


def _eva_x(name: str, pretrained: bool, **options: Any) -> EvaX:
    width, heads, split = EVA_X[name]
    settings: dict[str, Any] = {
        "patch_size": EvaX.stride,
        "embed_dim": width,
        "depth": EvaX.depth,
        "num_heads": heads,
        "mlp_ratio": 4 * 2 / 3,
        "swiglu_mlp": True,
        "scale_mlp": split,
        "qkv_fused": not split,
        "use_rot_pos_emb": True,
        "ref_feat_shape": (ROTARY_GRID, ROTARY_GRID),  # facts 1.2
        "num_classes": 0,
    }
    return build_model_with_cfg(EvaX, name, pretrained, **(settings | options))


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {
            "url": "",
            "num_classes": 0,
            "input_size": (3, 224, 224),
            "fixed_input_size": True,
            "mean": (MERGED_520K_MEAN,) * 3,
            "std": (MERGED_520K_STD,) * 3,
            "interpolation": "bilinear",
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
        for name in EVA_X
    }
)


@register_model
def eva_x_tiny_patch16_224(pretrained: bool = False, **options: Any) -> EvaX:
    """EVA-X-Ti, 5 525 184 parameters."""
    return _eva_x("eva_x_tiny_patch16_224", pretrained, **options)


@register_model
def eva_x_small_patch16_224(pretrained: bool = False, **options: Any) -> EvaX:
    """EVA-X-S, 21 667 200 parameters."""
    return _eva_x("eva_x_small_patch16_224", pretrained, **options)


@register_model
def eva_x_base_patch16_224(pretrained: bool = False, **options: Any) -> EvaX:
    """EVA-X-B, 85 850 880 parameters."""
    return _eva_x("eva_x_base_patch16_224", pretrained, **options)


def build_encoder(name: str, *, img_size: int = 224, **options: Any) -> Encoder:
    """An encoder with random weights.

    name: one of ENCODERS. img_size: side of the input in pixels; a CNN takes any. options: timm's, for
    example drop_path_rate.
    Raises ConfigError for an unknown name.
    """
    if name in CNNS:
        return Cnn(CNNS[name], **options)
    if name in VITS:
        return PlainVit(name, img_size=img_size, **options)
    if name not in EVA_X:
        raise unknown_name("encoder", name, ENCODERS)
    return _eva_x(name, pretrained=False, img_size=img_size, **options)

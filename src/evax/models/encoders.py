"""EVA-X Ti, S and B: timm's Eva with the paper's sizes, registered in timm, and one way to ask any of them
for features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.eva import Eva
from torch import Tensor

from evax.errors import unknown_name
from evax.published import MERGED_520K_MEAN, MERGED_520K_STD

ENCODERS: dict[
    str, tuple[int, int, bool]
] = {  # name: (width, heads, split q/k/v with sub-LN in the FFN); facts 1.1
    "eva_x_tiny_patch16_224": (192, 3, False),
    "eva_x_small_patch16_224": (384, 6, False),
    "eva_x_base_patch16_224": (768, 12, True),
}
ROTARY_GRID = 14  # rotary positions run from 0 to 13 at every resolution, unless a file was trained otherwise


class Encoded(NamedTuple):
    """Raw output of an encoder's last block; the final LayerNorm belongs to whoever pools or projects it."""

    patches: Tensor
    """(B, N, D), row by row."""
    grid: tuple[int, int]
    """(h, w) with h * w = N."""
    cls: Tensor | None
    """(B, D), or None for encoders without a class token."""


class EvaX(Eva):
    """timm's Eva plus `encode`. Parameters and names are timm's, so timm checkpoints fit as they are."""

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
    width, heads, split = ENCODERS[name]
    settings: dict[str, Any] = {
        "patch_size": 16,
        "embed_dim": width,
        "depth": 12,
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
        for name in ENCODERS
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


def build_encoder(name: str, **options: Any) -> EvaX:
    """An encoder with random weights.

    name: a key of ENCODERS. options: timm's, for example img_size or drop_path_rate.
    Raises ConfigError for an unknown name.
    """
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    return _eva_x(name, pretrained=False, **options)

"""EVA-X Ti, S and B (timm's Eva with the paper's sizes, registered in timm), the paper's baselines (CNNs and
plain ViTs of timm), and one way to ask any of them for features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import timm
import torch
from jaxtyping import Bool, Float
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs, register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from evax.errors import ConfigError, unknown_name
from evax.published import IMAGENET_MEAN, IMAGENET_STD, MERGED_520K_MEAN, MERGED_520K_STD, Channels

EVA_X = {  # name: (width, heads, split q/k/v with sub-LN in the FFN); paper-facts.md 1.1
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
    mean: Channels
    """Normalisation of its ImageNet weights, for pixels in [0, 1]."""
    std: Channels
    """Of pixels in [0, 1]."""
    without: str = ""
    """Last stage of the network that is left out."""
    adds: bool = True
    """Its layers add to their input, so that drop_path_rate can skip them; those of a DenseNet append."""


CNNS = {
    # 127 and 128 of 255 are in the recipe of the package that brings the ImageNet weights
    "efficientnet_lite0": CnnFacts("tf_efficientnet_lite0", 32, 127 / 255, 128 / 255),
    "resnet50": CnnFacts("resnet50", 32, IMAGENET_MEAN, IMAGENET_STD),
    "resnet50_layer3": CnnFacts("resnet50", 16, IMAGENET_MEAN, IMAGENET_STD, without="layer4"),  # MedKLIP's
    "densenet121": CnnFacts("densenet121", 32, IMAGENET_MEAN, IMAGENET_STD, adds=False),
}
VITS = {  # name: (patch, width, heads, layer scale); 12 blocks each
    "vit_small_patch16_224": (16, 384, 6, False),
    "vit_base_patch16_224": (16, 768, 12, False),
    "vit_base_patch14_dinov2": (14, 768, 12, True),
}
ENCODERS = (*EVA_X, *VITS, *CNNS)


class Encoded(NamedTuple):
    """Raw output of an encoder's last block; the final LayerNorm belongs to whoever pools or projects it."""

    patches: Tensor
    """(B, N, D), row by row."""
    grid: tuple[int, int]
    """(h, w) with h * w = N."""
    cls: Tensor | None
    """(B, D), or None for encoders without a class token."""


def matrices(network: nn.Module) -> list[nn.Parameter]:
    """All weights but biases, and scales and offsets of norms."""
    return [parameter for parameter in network.parameters() if parameter.ndim > 1]


def as_input(images: Tensor, weight: Tensor) -> Tensor:
    """The images with as many channels as the first layer takes: one grey channel is shown to all of them.

    images: (B, C, H, W), normalised. weight: of the first layer, (D, C, h, w).
    Raises ConfigError for anything else, and for images of another type or device than the weights.
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        given = f"shape {tuple(images.shape)}" if hasattr(images, "shape") else "no shape"
        raise ConfigError(
            "An encoder takes a tensor of images (batch, channels, height, width), got "
            f"{type(images).__name__} of {given}."
        )
    channels = weight.shape[1]
    if images.shape[1] not in (1, channels):
        raise ConfigError(
            f"The images have {images.shape[1]} channels; this encoder takes {channels}, or one grey channel."
        )
    if not images.is_floating_point():
        raise ConfigError(
            f"The images are {images.dtype}: normalise them, as (pixels / 255 - mean) / std, to float32."
        )
    if images.device != weight.device:
        raise ConfigError(
            f"The images are on {images.device} and the encoder on {weight.device}: move one with .to(...)."
        )
    if images.dtype != weight.dtype and not torch.is_autocast_enabled(images.device.type):
        raise ConfigError(
            f"The images are {images.dtype} and the encoder {weight.dtype}: give images.to({weight.dtype})."
        )
    return images.expand(-1, channels, -1, -1)


def _as_patch_input(patch_embed: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Before a transformer cuts images into patches, whichever of timm's ways leads there."""
    images, size = as_input(inputs[0], patch_embed.proj.weight), tuple(inputs[0].shape[2:])
    if patch_embed.strict_img_size and size != patch_embed.img_size:
        raise ConfigError(
            f"The images have {size[0]} x {size[1]} pixels, this encoder takes {patch_embed.img_size[0]} x "
            f"{patch_embed.img_size[1]}: resize them, or create it with img_size={size[0]}."
        )
    patch = patch_embed.patch_size
    if not patch_embed.dynamic_img_pad and (size[0] % patch[0] or size[1] % patch[1]):
        raise ConfigError(
            f"The images have {size[0]} x {size[1]} pixels, which are not whole patches of {patch[0]} x "
            f"{patch[1]}: resize them."
        )
    return (images,)


class Encoder(nn.Module):
    """What every encoder offers to heads, probes and maps."""

    num_features: int
    """D."""
    depth: int
    """Blocks that layer-wise learning rates count; 0 for a CNN, which has one rate."""
    stride: int
    """Pixels per side of a patch."""
    fc_norm: nn.Module
    """What acts on pooled patches before a linear head: LayerNorm for a transformer, nothing for a CNN."""

    def encode(self, images: Float[Tensor, "B C H W"]) -> Encoded:
        """images: normalised; one grey channel is shown to all three input channels."""
        raise NotImplementedError


class Cnn(Encoder):
    """A convolutional network of timm; its patches are the places of its last map.

    options: timm's, for example drop_path_rate, which a network without residual layers leaves unused.
    """

    depth = 0

    def __init__(self, facts: CnnFacts, **options: Any) -> None:
        super().__init__()
        if not facts.adds:
            options.pop("drop_path_rate", None)
        self.network = timm.create_model(facts.network, num_classes=0, **options)
        self.num_features = self.network.num_features
        if facts.without:
            setattr(self.network, facts.without, nn.Identity())
            self.num_features //= 2  # each stage of a ResNet doubles the channels of the one before
        self.network.to(
            memory_format=torch.channels_last
        )  # trains twice as fast on a CPU (docs/decisions.md)
        self.stride = facts.stride
        self.fc_norm = nn.Identity()

    def forward(self, images: Float[Tensor, "B C H W"]) -> Tensor:
        """Timm's answer: pooled features (B, D)."""
        features: Tensor = self.network(self._input(images))
        return features

    def encode(self, images: Float[Tensor, "B C H W"]) -> Encoded:
        """The map that timm's own classifier would pool. Source: CNN baselines, paper-facts.md 7."""
        features = self.network.forward_features(self._input(images))  # (B, D, h, w)
        height, width = features.shape[2:]
        return Encoded(features.flatten(2).transpose(1, 2), (height, width), None)

    def _input(self, images: Tensor) -> Tensor:
        first = self.network.get_submodule(self.network.pretrained_cfg["first_conv"])
        return as_input(images, first.weight).contiguous(memory_format=torch.channels_last)


class PlainVit(VisionTransformer, Encoder):
    """timm's VisionTransformer plus `encode`; its final norm is `fc_norm`, whatever its classifier pools.

    name: a key of VITS. options: timm's (img_size, drop_path_rate, depth, ...).
    """

    patch_embed: Any  # timm has no types
    blocks: Any
    embed_dim: int
    _pos_embed: Any
    norm_pre: Any

    def __init__(self, name: str, **options: Any) -> None:
        self.stride, width, heads, scaled = VITS[name]
        settings: dict[str, Any] = {
            "patch_size": self.stride,
            "embed_dim": width,
            "num_heads": heads,
            "init_values": 1e-5 if scaled else None,
            "num_classes": 0,
            # with "token", timm's default, the norm would act on every token and mean pooling would skip it
            "global_pool": "avg",
            "fc_norm": True,
        }
        super().__init__(**(settings | options))
        self.patch_embed.register_forward_pre_hook(_as_patch_input)
        self.depth = len(self.blocks)
        cut_outliers(matrices(self), std=0.02)

    def encode(self, images: Float[Tensor, "B C H W"]) -> Encoded:
        """Features of the last block, before any norm. Source: ViT baselines, paper-facts.md 7."""
        tokens = self.norm_pre(self._pos_embed(self.patch_embed(images)))  # (B, T, D)
        for block in self.blocks:
            tokens = block(tokens)
        return _encoded(self, images, tokens)


class EvaX(Eva, Encoder):
    """timm's Eva plus `encode`. Parameters and names are timm's, so timm checkpoints fit as they are."""

    depth = 12
    stride = 16
    patch_embed: Any  # timm has no types
    blocks: Any
    rope: Any
    embed_dim: int
    grad_checkpointing: bool
    _pos_embed: Any
    patch_gradient = 1.0
    """Share of the gradient that reaches the patch embedding, in [0, 1]."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.patch_embed.register_forward_pre_hook(_as_patch_input)
        self.depth = len(self.blocks)
        self.stride = self.patch_embed.patch_size[0]
        cut_outliers(matrices(self), std=0.02)

    @property
    def rotary_grid(self) -> int:
        """Side of the grid whose positions the rotary tables span at every resolution: 14, or a file's own
        (paper-facts.md 1.3).
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
        Source: Eq. (1)-(3); the replacement comes before class token and position table (paper-facts.md 2.1).
        """
        patches = self.patch_embed(images)  # (B, N, D)
        if self.patch_gradient < 1:
            patches = self.patch_gradient * patches + (1 - self.patch_gradient) * patches.detach()
        if hidden is not None and mask_token is not None:
            patches = torch.where(hidden.unsqueeze(-1), mask_token.to(patches.dtype), patches)
        tokens, rope = self._pos_embed(patches)  # (B, T, D)
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, rope=rope)  # activations are computed again when needed
            else:
                tokens = block(tokens, rope=rope)
        return _encoded(self, images, tokens)


def _encoded(encoder: Any, images: Tensor, tokens: Tensor) -> Encoded:
    """The tokens (B, T, D) of a transformer, divided into patches and what comes before them."""
    height, width = encoder.patch_embed.dynamic_feat_size(images.shape[2:])
    cls = None if encoder.cls_token is None else tokens[:, 0]
    return Encoded(tokens[:, encoder.num_prefix_tokens :], (height, width), cls)


def _eva_x(name: str, pretrained: bool, **options: Any) -> nn.Module:
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
        "ref_feat_shape": (ROTARY_GRID, ROTARY_GRID),  # paper-facts.md 1.2
        "num_classes": 0,
    }
    # features_only: as for timm's own Eva, whose maps all have the patch grid
    maps = {"out_indices": options.pop("out_indices", 3), "feature_cls": "getter"}
    return build_model_with_cfg(EvaX, name, pretrained, feature_cfg=maps, **(settings | options))


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
def eva_x_tiny_patch16_224(pretrained: bool = False, **options: Any) -> nn.Module:
    """EVA-X-Ti, 5 525 184 parameters."""
    return _eva_x("eva_x_tiny_patch16_224", pretrained, **options)


@register_model
def eva_x_small_patch16_224(pretrained: bool = False, **options: Any) -> nn.Module:
    """EVA-X-S, 21 667 200 parameters."""
    return _eva_x("eva_x_small_patch16_224", pretrained, **options)


@register_model
def eva_x_base_patch16_224(pretrained: bool = False, **options: Any) -> nn.Module:
    """EVA-X-B, 85 850 880 parameters."""
    return _eva_x("eva_x_base_patch16_224", pretrained, **options)


def build_encoder(name: str, *, img_size: int = 224, **options: Any) -> Encoder:
    """An encoder with random weights.

    name: one of ENCODERS. img_size: side of the input in pixels; a CNN takes any. options: timm's, for
    example drop_path_rate.
    Raises ConfigError for an unknown name, and for an img_size that is not whole patches.
    """
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    if name in CNNS:
        return _built(name, partial(Cnn, CNNS[name]), options)
    if not isinstance(img_size, Integral) or img_size <= 0:
        raise ConfigError(f"img_size is the side of the input in pixels, a whole number; got {img_size!r}.")
    patch = VITS[name][0] if name in VITS else EvaX.stride
    if img_size % patch:
        raise ConfigError(
            f"{name} cuts images into patches of {patch} pixels, which {img_size} is no multiple of. "
            f"The nearest sizes are {img_size - img_size % patch} and {img_size - img_size % patch + patch}."
        )
    build = partial(PlainVit, name) if name in VITS else partial(_eva_x, name, False)
    return _built(name, build, {"img_size": img_size, **options})


def _built(name: str, build: Callable[..., nn.Module], options: dict[str, Any]) -> Encoder:
    try:
        encoder = build(**options)
    except (TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ConfigError(f"timm cannot build {name} with {given}: {error}.") from error
    if not isinstance(encoder, Encoder):  # features_only
        raise ConfigError(f"This way of using {name} is timm's own: timm.create_model('{name}', ...).")
    return encoder


MOST = 6  # deviations; a value drawn in float32 lies within 5.4


@torch.no_grad()
def cut_outliers(tensors: Iterable[Tensor], std: float) -> None:
    """Brings values beyond MOST * std to there, in place; all others stay as they were drawn.

    timm's trunc_normal_ cuts at -2 and 2, whatever std is, and one value in 2^24 comes out exactly there: at
    std 0.02 that is 100 deviations, in about every third new ViT-Ti.
    """
    for tensor in tensors:
        tensor.clamp_(-MOST * std, MOST * std)


CPU = torch.device("cpu")


def best_device() -> torch.device:
    """Returns an NVIDIA or Apple GPU where torch finds one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else CPU

"""Frozen tokenizers: networks of several libraries whose patch features are the target of pre-training."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import math
from typing import Any, Literal, NamedTuple

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from evax.errors import ConfigError, unknown_name
from evax.models.encoders import CNNS, Encoder, EvaX
from evax.published import Channels

AUTO, LAST, PROJECTED = "auto", "last", "projected"


class TimmFeatures(nn.Module):
    """A block of a timm transformer, or a stage of a timm network whose map shrinks from stage to stage.

    layer: `last`, the last block through the network's final norm (its last stage as it is); `projected`,
    the same through its output layer, place by place; a number, that block through the norm or that stage as
    it is, counted from 0 as timm's out_indices; several numbers with + between, all of them; `auto`, the last
    block, or the last stage whose stride is not above `stride`, in pixels.
    Raises ConfigError for a layer that the network does not have.
    """

    def __init__(self, network: nn.Module, layer: str, stride: int) -> None:
        super().__init__()
        self.network = network
        strides = layer_strides(network)
        column = is_column(strides)
        if layer == PROJECTED and not (column and isinstance(network.head, nn.Linear)):
            raise ConfigError(
                "This network has no output layer that could act on single patches: ask for last."
            )
        if layer == AUTO:
            fine = [i for i, each in enumerate(strides) if each <= stride]
            layer = LAST if column else str(max(fine, default=0))
        self.indices = layer_numbers(layer, len(strides))
        self.layer = layer if layer in (LAST, PROJECTED) else "+".join(map(str, self.indices))
        self.norm: Any = final_norm(network) if column else nn.Identity()
        self.head: Any = network.head if layer == PROJECTED else nn.Identity()
        if not column:
            network.to(memory_format=torch.channels_last)  # faster on a CPU (docs/decisions.md)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B h w Dt"]]:
        """images: normalised as this network wants them. Returns the map of each layer asked for."""
        maps: list[Tensor] = self.network.forward_intermediates(  # type: ignore[operator]
            images, indices=self.indices, stop_early=True, intermediates_only=True
        )
        return [self.head(self.norm(each.permute(0, 2, 3, 1))) for each in maps]


class TransformersFeatures(nn.Module):
    """A vision model of transformers: its `last_hidden_state`, or one of its `hidden_states` as it is.

    layer: `auto` and `last` for the former, a number for the latter, counted from 0 (the embeddings).
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        if layer not in (AUTO, LAST) and not layer.isdecimal():
            raise ConfigError(
                f"A transformers model has no layer '{layer}': give last or the number of a hidden state."
            )
        self.network = network
        self.layer = LAST if layer == AUTO else layer
        self.index = None if self.layer == LAST else int(layer)
        takes = inspect.signature(network.forward).parameters
        self._more: dict[str, bool] = {"output_hidden_states": True} if self.index is not None else {}
        if "interpolate_pos_encoding" in takes:
            self._more["interpolate_pos_encoding"] = True

    @property
    def patch(self) -> int | None:
        """Pixels per side of a patch for a plain transformer; None for one whose map shrinks, or a CNN."""
        config: Any = self.network.config
        heads, patch = getattr(config, "num_attention_heads", None), getattr(config, "patch_size", None)
        return patch if isinstance(heads, int) and isinstance(patch, int) else None

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B h w Dt"]]:
        """images: normalised as this network wants them."""
        output = self.network(pixel_values=images, **self._more)
        if self.index is not None and self.index >= len(output.hidden_states):
            raise ConfigError(
                f"This network has {len(output.hidden_states)} hidden states, counted from 0, "
                f"not {self.index}."
            )
        hidden: Tensor = output.last_hidden_state if self.index is None else output.hidden_states[self.index]
        if hidden.ndim == 4:  # a CNN: (B, Dt, h, w)
            return [hidden.permute(0, 2, 3, 1)]
        side = images.shape[-1] // self.patch if self.patch else math.isqrt(hidden.shape[1])
        if not 0 < side * side <= hidden.shape[1]:
            raise ConfigError(
                f"This network gives {hidden.shape[1]} tokens, which do not hold a {side} x {side} grid."
            )
        # class and register tokens come first
        patches = hidden[:, hidden.shape[1] - side * side :]
        return [patches.reshape(len(patches), side, side, -1)]


class EncoderFeatures(nn.Module):
    """An encoder of ours: its last block through its norm, patch by patch, as it learned to predict from."""

    def __init__(self, encoder: Encoder, layer: str) -> None:
        super().__init__()
        if layer not in (AUTO, LAST):
            raise ConfigError(f"A bundle is asked for its last features, not for layer {layer}.")
        self.encoder = encoder
        self.layer = LAST

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B h w Dt"]]:
        """images: normalised as the encoder's card says."""
        patches, grid, _ = self.encoder.encode(images)
        features: Tensor = self.encoder.fc_norm(patches)
        return [features.reshape(len(features), *grid, -1)]


def build_timm_features(
    name: str, layer: str, image_size: int, stride: int, view: int | None, options: dict[str, Any]
) -> tuple[TimmFeatures, int]:
    """A timm network by name, with random weights.

    image_size, stride: side of the student's input and of its patches, in pixels. view: side of what the
    network is shown; without it, for a transformer the one at which its grid is the student's, for others
    image_size. Returns network and view.
    Raises ConfigError for an unknown name, a layer it lacks, or a view that its patches do not fill.
    """
    base, _, _ = name.partition(".")
    if not timm.is_model(base):
        close = difflib.get_close_matches(base, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"timm {timm.__version__} has no model called '{base}'.{hint}")
    if layer != PROJECTED:
        options = {"num_classes": 0} | options
    try:
        with torch.device("meta"):  # sizes only
            network = timm.create_model(name, **options)
        strides = layer_strides(network)
        patch = strides[0] if is_column(strides) else None
        view = view or (image_size // stride * patch if patch else image_size)
        if patch and view % patch:
            raise ConfigError(
                f"A view of {view} pixels is not filled by the patches of {name}, {patch} each."
            )
        if network.pretrained_cfg["fixed_input_size"]:
            options = options | {"img_size": view}
        network = timm.create_model(name, **options)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"timm cannot make {name} for this view: {error}") from error
    return TimmFeatures(network, layer, stride), view


def layer_strides(network: nn.Module) -> list[int]:
    """Pixels per side of a place of the map of each block or stage."""
    layers: Any = getattr(network, "feature_info", None)
    if not layers or not hasattr(network, "forward_intermediates"):
        raise ConfigError(
            f"timm does not give the inner features of {type(network).__name__}: choose another."
        )
    return [layer["reduction"] for layer in layers]


def is_column(strides: list[int]) -> bool:
    """Whether the map keeps its size from block to block, as in a plain transformer."""
    return len(set(strides)) == 1


def final_norm(network: nn.Module) -> nn.Module:
    """What a transformer's tokens pass before its output layer; some pool between."""
    norms = [getattr(network, name, None) for name in ("norm", "fc_norm")]
    real = [norm for norm in norms if norm is not None and not isinstance(norm, nn.Identity)]
    return real[0] if real else nn.Identity()


def layer_numbers(layer: str, count: int) -> list[int]:
    """The indices of one or several layers among `count`, rising. Raises ConfigError for one not there."""
    if layer in (LAST, PROJECTED):
        return [count - 1]
    numbers = layer.split("+")
    if not all(number.isdecimal() and int(number) < count for number in numbers):
        raise ConfigError(
            f"The tokenizer has no layer '{layer}': give {AUTO}, {LAST}, {PROJECTED}, a number from 0 to "
            f"{count - 1}, or several with + between."
        )
    return sorted({int(number) for number in numbers})


class Named(NamedTuple):
    """A tokenizer that has a name here."""

    network: str
    """Its architecture in timm; with a tag, the normalisation of that tag."""
    layer: str
    """What is read from it unless asked otherwise; see TimmFeatures."""
    mean: Channels | None = None
    """Normalisation of its weights, for pixels in [0, 1], where it is not timm's."""
    std: Channels | None = None


TOKENIZERS = {
    "efficientnet_lite0": Named(
        "tf_efficientnet_lite0", AUTO, CNNS["efficientnet_lite0"].mean, CNNS["efficientnet_lite0"].std
    ),
    "mgca_vit_base_patch16": Named("vit_base_patch16_224", LAST, 0.5, 0.5),  # paper-facts.md 2.3
    # EVA-CLIP's projection per patch, as in EVA-02's own pre-training; paper-facts.md 2.1 and 2.2
    "eva_clip_base_patch16": Named("eva02_base_patch16_clip_224.merged2b", PROJECTED),
    "eva_clip_large_patch14": Named("eva02_large_patch14_clip_224.merged2b", PROJECTED),
    "eva_clip_giant_patch14": Named("eva_giant_patch14_clip_224.laion400m", PROJECTED),
}
TIMM, TRANSFORMERS = "timm:", "transformers:"
WAYS = (*TOKENIZERS, f"{TIMM}NAME", f"{TRANSFORMERS}FOLDER", "the folder of an encoder bundle")


class Tokenizer(nn.Module):
    """Clean images in [0, 1] -> one feature vector per patch of the student; in eval mode, never a gradient.

    features: the network, its weights filled in. name: for the run's identity. image_size: side of the
    student's input; its patches decide the grid. view: side of the picture that the network is shown, which
    may be larger than the student's. mean, std: its normalisation, per channel, for pixels in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: TimmFeatures | TransformersFeatures | EncoderFeatures,
        *,
        name: str,
        image_size: int,
        view: int,
        mean: Channels,
        std: Channels,
    ) -> None:
        super().__init__()
        self.features = features
        self.name, self.view = name, view
        self.grid = image_size // EvaX.stride
        self.register_buffer("mean", per_channel(mean), persistent=False)
        self.register_buffer("std", per_channel(std), persistent=False)
        self.requires_grad_(False)
        self.eval()
        self.width = self(torch.zeros(1, 1, image_size, image_size)).shape[-1]
        """Dt; asked of the network itself, which is thereby known to run."""

    def train(self, mode: bool = True) -> Tokenizer:
        """Stays in eval mode whatever is asked: batch statistics of a frozen teacher must not move."""
        return super().train(False)

    @torch.no_grad()  # not inference_mode: torch 2.14 cannot compile a class token under it
    def forward(self, films: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B N Dt"]:
        """films: clean crops in [0, 1]; view and normalisation of the tokenizer are applied here.

        The grid is the student's: by the size of the view where possible (paper-facts.md 2.2), else the
        features are interpolated to it. Those of several layers stand side by side, of length 1 each.
        Source: Eq. (5).
        """
        films = resized(films, self.view).expand(-1, 3, -1, -1)
        maps = self.features((films - self.mean) / self.std)
        grids = [self._on_grid(each).flatten(1, 2) for each in maps]
        if len(grids) == 1:
            return grids[0]
        # of equal length each, or the cosine would follow the layer with the largest numbers
        return torch.cat([F.normalize(each.float(), dim=-1) for each in grids], dim=-1)

    def _on_grid(self, features: Float[Tensor, "B h w Dt"]) -> Float[Tensor, "B g g Dt"]:
        if features.shape[1:3] == (self.grid, self.grid):
            return features
        maps = interpolated(features.permute(0, 3, 1, 2).float(), self.grid, "bilinear")
        return maps.permute(0, 2, 3, 1)

    def normalise_by(self, mean: Channels, std: Channels) -> None:
        """Takes another normalisation than the one its weights were trained with; for pixels in [0, 1]."""
        self.mean.copy_(per_channel(mean))
        self.std.copy_(per_channel(std))

    def identity(self) -> dict[str, str | int]:
        """What makes two tokenizers the same one, whatever files they came from."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.features.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return {
            "name": self.name,
            "layer": self.features.layer,
            "view": self.view,
            "weights": digest.hexdigest()[:16],
        }


def resized(films: Float[Tensor, "B 1 H W"], side: int) -> Float[Tensor, "B 1 s s"]:
    """The same images in [0, 1], `side` pixels wide."""
    if films.shape[-1] == side:
        return films
    return interpolated(films, side, "bicubic").clamp(0, 1)  # bicubic overshoots


@torch.compiler.disable  # inside a network, torch 2.14 needs many minutes to compile it
def interpolated(
    maps: Float[Tensor, "B C h w"], side: int, mode: Literal["bilinear", "bicubic"]
) -> Float[Tensor, "B C s s"]:
    return F.interpolate(maps, size=(side, side), mode=mode, antialias=True)


def per_channel(value: Channels) -> Float[Tensor, "1 3 1 1"]:
    """One number for red, green and blue, or one each, to reckon with pictures."""
    return torch.tensor(value).view(1, -1, 1, 1).expand(1, 3, 1, 1).contiguous()


def build_tokenizer(
    name: str, *, image_size: int = 224, layer: str = AUTO, view: int | None = None, **options: Any
) -> Tokenizer:
    """A tokenizer of timm's with random weights.

    name: of TOKENIZERS, or timm:NAME. layer, view: see TimmFeatures and build_timm_features; AUTO is the
    named tokenizer's own layer. options: timm's, for example depth.
    Raises ConfigError for a name, layer or view that does not exist.
    """
    if name.startswith(TIMM):
        named = Named(name.removeprefix(TIMM), AUTO)
    elif name in TOKENIZERS:
        named = TOKENIZERS[name]
    else:
        raise unknown_name("tokenizer", name, WAYS)
    layer = named.layer if layer == AUTO else layer
    features, view = build_timm_features(named.network, layer, image_size, EvaX.stride, view, options)
    published: Any = features.network.pretrained_cfg
    mean: Any = published["mean"] if named.mean is None else named.mean
    std: Any = published["std"] if named.std is None else named.std
    return Tokenizer(features, name=name, image_size=image_size, view=view, mean=mean, std=std)

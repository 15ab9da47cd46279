"""Frozen tokenizers: networks whose patch features are the target of pre-training."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F  # torch's own habit
from jaxtyping import Float
from torch import Tensor, nn

from evax.errors import unknown_name
from evax.models.encoders import CNNS, EvaX
from evax.models.teachers import (
    AUTO,
    LAST,
    PROJECTED,
    EncoderFeatures,
    TimmFeatures,
    TransformersFeatures,
    build_timm_features,
)
from evax.published import Channels


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
    "mgca_vit_base_patch16": Named("vit_base_patch16_224", LAST, 0.5, 0.5),  # facts 2.3
    # EVA-CLIP's projection per patch, as in EVA-02's own pre-training; facts 2.1 and 2.2
    "eva_clip_base_patch16": Named("eva02_base_patch16_clip_224.merged2b", PROJECTED),
    "eva_clip_large_patch14": Named("eva02_large_patch14_clip_224.merged2b", PROJECTED),
    "eva_clip_giant_patch14": Named("eva_giant_patch14_clip_224.laion400m", PROJECTED),
}
TIMM, TRANSFORMERS = "timm:", "transformers:"
WAYS = (*TOKENIZERS, f"{TIMM}NAME", f"{TRANSFORMERS}FOLDER", "the folder of an encoder bundle")


class Tokenizer(nn.Module):
    """Clean films in [0, 1] -> one feature vector per patch of the student; in eval mode, never a gradient.

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

        The grid is the student's: by the size of the view where that is possible (facts 2.2), else the
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
    """The same films in [0, 1], `side` pixels wide."""
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

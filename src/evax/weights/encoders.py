"""Encoders with weights, strictly: ours, timm's, the authors' MIM and fine-tuned layouts (facts 1.4-1.5)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from evax.errors import WeightsError
from evax.models.encoders import CNNS, Encoder, EvaX, build_encoder
from evax.weights.files import read_state_dict
from evax.weights.packaged import imagenet_state

# official part of a name -> timm's; applied in this order to every key
OFFICIAL_TO_TIMM = (
    ("mlp.ffn_ln.", "mlp.norm."),
    ("mlp.w12.", "mlp.fc1."),
    ("mlp.w1.", "mlp.fc1_g."),
    ("mlp.w2.", "mlp.fc1_x."),
    ("mlp.w3.", "mlp.fc2."),
)
# Parts of a file that an encoder does not have: the MIM projection and mask token, a classifier's head.
NOT_ENCODER = ("mask_token", "lm_head.", "head.")
IMAGENET = "imagenet"  # stands in place of a path for the published weights of a CNN
ROPE_TOLERANCE = 2e-3  # the released buffers are float16; 14 against 16 differs by 0.1


def create_encoder(name: str, weights: str | os.PathLike[str] | None = None, **options: Any) -> Encoder:
    """An encoder by name, with `encode(images) -> Encoded(patches, grid, cls)`.

    name: one of evax.models.encoders.ENCODERS. weights: None for random weights, "imagenet" for a CNN's
    published ones, or a path: a bundle folder, a .safetensors file, or a file in the authors' layout.
    options: timm's (img_size, drop_path_rate, ...).
    A position table of another resolution is resampled; anything else that does not fit is refused.
    Raises ConfigError for an unknown name, WeightsError for a file that cannot be read or does not fit.
    """
    encoder = build_encoder(name, **options)
    if is_imagenet(name, weights):
        state = {f"network.{key}": tensor for key, tensor in imagenet_state(name).items()}
        encoder.load_state_dict({key: state[key] for key in encoder.state_dict()}, strict=True)
    elif weights is not None:
        load_encoder_weights(encoder, name, Path(weights))
    return encoder


def is_imagenet(name: str, weights: str | os.PathLike[str] | None) -> bool:
    """Whether these weights are the published ones of a CNN, which bring their own normalisation."""
    return name in CNNS and weights is not None and os.fspath(weights) == IMAGENET


def load_encoder_weights(encoder: Encoder, name: str, path: Path) -> None:
    """Copies the weights of a file into an encoder; every tensor of the encoder must be given, none may be
    left over.
    """
    given, wanted = _encoder_part(read_state_dict(path)), encoder.state_dict()
    if isinstance(encoder, EvaX):
        given = _to_timm_names(given, encoder, path)
        if "pos_embed" in given and given["pos_embed"].shape[-1] == wanted["pos_embed"].shape[-1]:
            given["pos_embed"] = _resample_positions(given["pos_embed"], encoder)
    missing, unused = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    other_shape = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    if missing or unused or other_shape:
        raise WeightsError(
            f"{path} does not fit {name}: {len(missing)} missing {missing[:3]}, "
            f"{len(unused)} unused {unused[:3]}, {len(other_shape)} of another size {other_shape[:3]}. "
            "Was it made for another encoder?"
        )
    encoder.load_state_dict({key: value.to(wanted[key].dtype) for key, value in given.items()}, strict=True)


def _encoder_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # "encoder.": one of our classifiers or pre-training checkpoints
    names = {key: key.removeprefix("encoder.") for key in state}
    return {name: state[key] for key, name in names.items() if not name.startswith(NOT_ENCODER)}


def _to_timm_names(state: dict[str, Tensor], encoder: EvaX, path: Path) -> dict[str, Tensor]:
    split = "blocks.0.attn.q_proj.weight" in state
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if "rope.freqs" in key:
            _check_rope(key, value, encoder, path)
            continue
        for official, ours in OFFICIAL_TO_TIMM:
            key = key.replace(official, ours)
        if split:
            key = key.replace("attn.q_bias", "attn.q_proj.bias").replace("attn.v_bias", "attn.v_proj.bias")
        if key.startswith(
            "norm."
        ):  # MIM: the norm before lm_head serves as the norm after pooling (paper-map)
            key = f"fc_{key}"
        renamed[key] = value
    return renamed


def _check_rope(key: str, buffer: Tensor, encoder: EvaX, path: Path) -> None:
    """Rotary tables are rebuilt, not loaded; a file trained with other positions must not pass unnoticed
    (facts 1.3).
    """
    sine, cosine = encoder.rope.get_embed().chunk(2, dim=-1)  # (N, 64) each
    ours = cosine if key.endswith("cos") else sine
    if buffer.shape == ours.shape and not torch.allclose(buffer.float(), ours, atol=ROPE_TOLERANCE):
        raise WeightsError(
            f"{path} was trained with other rotary positions: {key} differs by "
            f"{(buffer.float() - ours).abs().max():.2f} from positions 0 to 13. Create the encoder with the "
            "ref_feat_shape of that training, for example ref_feat_shape=(16, 16)."
        )


def _resample_positions(table: Tensor, encoder: EvaX) -> Tensor:
    height, width = encoder.patch_embed.grid_size
    if table.shape[1] == height * width + 1:
        return table
    return resample_abs_pos_embed(
        table.float(), new_size=[height, width], num_prefix_tokens=1
    )  # bicubic, antialias

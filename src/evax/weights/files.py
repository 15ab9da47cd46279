"""The only place that opens foreign weight files: unpickles tensors and a short list of harmless classes, no
more.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from evax.errors import WeightsError
from evax.files import read_json
from evax.weights.official import LARGEST_GRID

# Found in the authors' files; only values (paper-facts.md 1.4): the options of a run, and numbers of numpy,
# whose maker has another address since numpy 2.
_NUMPY_SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
HARMLESS_CLASSES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "float16", "int64", "int32", "bool")),
]
# Added to the reason when a file holds a whole network.
WHOLE_NETWORK = " It is a pickled network: save its state_dict where you trust the file, and give that file."
LARGEST_INPUT = 4096  # pixels on a side, as in Preprocess
# Where the released files keep the weights: fine-tuned files under `model`, DeepSpeed bundles under `module`.
STATE_DICT_KEYS = ("model", "module", "state_dict")


def read_state_dict(path: Path, full_precision: bool = False) -> dict[str, Tensor]:
    """All tensors of a weight file by name.

    path: a .safetensors file, a folder that holds model.safetensors (a bundle), or a PyTorch file.
    full_precision: the float32 weights that a DeepSpeed bundle keeps for its optimizer, instead of their
    float16 copies.
    Raises WeightsError when the file is missing, damaged, would need code to be run, or has no float32
    weights when they are asked for.
    """
    path = _weight_file(path)
    if path.suffix != ".safetensors":
        content = _read_pickle(path)
        state = _tensors(path, _unwrap(content))
        return state | _float32_parameters(path, state, content) if full_precision else state
    if full_precision:
        raise _no_float32(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def read_input_size(path: Path) -> int | None:
    """Side in pixels of the images that a bundle's network was made for; None for weights without a card."""
    weights = _weight_file(path)
    card = weights.with_name("card.json")
    if weights.name != "model.safetensors" or not card.is_file():
        return None
    try:
        size = read_json(card)["preprocess"]["input_size"]
    except (KeyError, TypeError, IndexError) as error:
        raise WeightsError(
            f"{card} does not say at which size its network sees images: {error!r}."
        ) from error
    if not isinstance(size, int) or not 0 < size <= LARGEST_INPUT:
        raise WeightsError(f"{card} has the input size {size!r}, expected 1 to {LARGEST_INPUT} pixels.")
    return size


def read_rotary_grid(path: Path) -> int | None:
    """The rotary grid that a bundle's model.safetensors notes; None for other files."""
    path = _weight_file(path)
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            note = (file.metadata() or {}).get("rotary_grid")
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    if note is not None and not (note.isdecimal() and 0 < int(note) <= LARGEST_GRID):
        raise WeightsError(f"{path} notes the rotary grid {note!r}, expected a whole number. Copy it again.")
    return None if note is None else int(note)


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises WeightsError naming the tensors that hold NaN or infinite values.

    path: where they were read from.
    """
    if broken := [key for key, value in tensors.items() if not torch.isfinite(value).all()]:
        raise WeightsError(
            f"{path} holds values that are no numbers, in {len(broken)} tensors {broken[:3]}. Copy it again; "
            "if it is the same then, its training had failed."
        )


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path} is not a readable safetensors file: {error}. Copy it again.")


def _weight_file(path: Path) -> Path:
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise WeightsError(
            f"There is no weight file at {path}. Give a .safetensors, .pt or .pth file or a bundle folder."
        )
    return path


def _read_pickle(path: Path) -> Any:
    try:
        mapped = zipfile.is_zipfile(path)  # the layout since torch 1.6
        if mapped:
            _check_archive(path)
        else:
            _check_beginning(path)
        with torch.serialization.safe_globals(HARMLESS_CLASSES):
            # mapped, so that the optimizer's share of a file (12 of 14 bytes) takes no memory
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        # torchxrayvision's own files are networks; the old ones are refused before a class is named
        is_network = "torchxrayvision" in str(error) or "persistent_load of storage" in str(error)
        raise WeightsError(
            f"{path} holds more than weights, and evax runs no code from weight files: {reason}"
            f"{WHOLE_NETWORK if is_network else ''}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} cannot be read as a PyTorch file: {error}. Copy it again.") from error


def _check_beginning(path: Path) -> None:
    """Of a page saved in place of the file torch says that it may hold code, and how to run that."""
    with path.open("rb") as file:
        if (start := file.read(16))[:1] != b"\x80":  # with which every pickle of torch begins
            raise WeightsError(
                f"{path} cannot be read as a PyTorch file: it begins with {start!r}. Is it cut off, or a "
                "page that was saved in its place? Copy it again."
            )


def _check_archive(path: Path) -> None:
    """torch.load compares no checksum, so a damaged copy would give other weights without a word."""
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise WeightsError(f"{path} is packed; torch writes weight files that are not. Unpack it first.")
        try:
            damaged = archive.testzip()
        except zipfile.BadZipFile as error:
            raise WeightsError(f"{path} is damaged: {error}. Copy it again.") from error
    if damaged:
        raise WeightsError(f"{path} is damaged: {damaged} does not match its checksum. Copy it again.")


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


def _float32_parameters(path: Path, state: Mapping[str, Tensor], content: Any) -> dict[str, Tensor]:
    """The parameters of a DeepSpeed bundle in float32, cut out of `optimizer.fp32_groups_flat`.

    Each group is one long vector of the parameters that share a weight decay, in the network's order. Which
    parameter is in which group is not in the file, so it is found by value: a parameter belongs to the group
    whose next values round to its float16 copy. Anything else than exactly one such group, and values left
    over, are refused; so every float32 weight is checked against its copy.
    """
    optimizer = content.get("optimizer") if isinstance(content, Mapping) else None
    groups = optimizer.get("fp32_groups_flat") if isinstance(optimizer, Mapping) else None
    if not isinstance(groups, list | tuple) or not all(isinstance(group, Tensor) for group in groups):
        raise _no_float32(path)
    buffers = {str(name) for name in content.get("buffer_names") or ()}
    parameters = [name for name in state if name not in buffers and "rope.freqs" not in name]
    flat, next_value = [group.detach().flatten() for group in groups], [0] * len(groups)
    exact: dict[str, Tensor] = {}
    for name in parameters:
        rounded, count = state[name].flatten(), state[name].numel()
        candidates = [group[start : start + count] for group, start in zip(flat, next_value, strict=True)]
        fitting = [i for i, values in enumerate(candidates) if torch.equal(values.to(rounded.dtype), rounded)]
        if len(fitting) != 1:
            raise WeightsError(
                f"The float32 weights of {path} do not belong to its float16 weights: {len(fitting)} of "
                f"{len(groups)} groups go on with {name}, expected exactly one. Use the float16 weights."
            )
        exact[name] = candidates[fitting[0]].view(state[name].shape)
        next_value[fitting[0]] += count
    if left := sum(map(len, flat)) - sum(next_value):
        raise WeightsError(
            f"The float32 weights of {path} do not belong to its float16 weights: {left} values are left "
            "over. Use the float16 weights."
        )
    return exact


def _no_float32(path: Path) -> WeightsError:
    return WeightsError(
        f"{path} keeps no second set of float32 weights (optimizer.fp32_groups_flat of a DeepSpeed bundle). "
        "Read it without full_precision."
    )

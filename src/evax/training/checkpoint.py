"""Checkpoints: one safetensors file with weights and optimizer state, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from evax.errors import WeightsError
from evax.files import save_tensors

KEPT = 2  # the newest and the one before it


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any]
) -> Path:
    """Saves after `step` finished steps and removes all but the newest KEPT."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"optimizer.{names[id(parameter)]}.{key}"] = torch.as_tensor(value)
    path = folder / f"step-{step:07d}.safetensors"
    metadata = {"step": str(step), "facts": json.dumps(facts, sort_keys=True)}
    save_tensors(tensors, path, metadata)
    for old in checkpoint_paths(folder)[:-KEPT]:
        old.unlink()
    return path


def checkpoint_paths(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def load_newest_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any]
) -> int:
    """Restores model and optimizer in place; returns the steps that are done, 0 when there is no checkpoint
    yet.

    facts: what the run is; they must equal those it was saved with.
    Raises WeightsError when the newest file cannot be read, or was written by a run with other options.
    """
    paths = checkpoint_paths(folder)
    if not paths:
        return 0
    path = paths[-1]
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"The checkpoint {path} cannot be read: {error}. Delete it to go on from an older one."
        ) from error
    before = json.loads(metadata["facts"])
    if changed := [key for key in sorted(before.keys() | facts.keys()) if before.get(key) != facts.get(key)]:
        detail = ", ".join(f"{key} was {before.get(key)!r}, is {facts.get(key)!r}" for key in changed)
        raise WeightsError(
            f"{path} belongs to another run ({detail}). Resume with the same options or start anew."
        )
    model.load_state_dict(
        {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    )
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if state:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }
    return int(metadata["step"])

"""Checkpoints: one safetensors file with weights and optimizer state, written whole or not at all."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import Precision
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from evax.config import flat_options, shown_option
from evax.errors import WeightsError
from evax.files import digest_of, save_tensors

logger = logging.getLogger("evax")

KEPT = 2  # the newest and the one before it


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
    precision: Precision | None = None,
) -> Path:
    """Saves after `step` finished steps and removes all but the newest KEPT.

    facts: what the run is. precision: Fabric's; the scale of the loss in fp16 is part of the state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"optimizer.{names[id(parameter)]}.{key}"] = torch.as_tensor(value)
    path = folder / f"step-{step:07d}.safetensors"
    metadata = {
        "step": str(step),
        "facts": json.dumps(facts, sort_keys=True),
        "precision": json.dumps(precision.state_dict() if precision else {}),
        "digest": digest_of(tensors),
    }
    save_tensors(tensors, path, metadata)
    for old in checkpoint_paths(folder)[:-KEPT]:
        old.unlink()
    return path


def checkpoint_paths(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def all_done(folder: Path, facts: dict[str, Any]) -> bool:
    """Whether the newest checkpoint is that of a run's last step; its tensors are not read.

    facts: as for load_newest_checkpoint. Raises WeightsError for a checkpoint of a run with other options.
    """
    if not (paths := checkpoint_paths(folder)):
        return False
    try:
        with safe_open(paths[-1], framework="pt") as file:
            metadata = file.metadata()
    except (SafetensorError, OSError):
        metadata = None
    if not metadata:
        return False  # load_newest_checkpoint passes over it, too
    _check_no_other_runs(paths[-1], json.loads(metadata["facts"]), facts)
    return int(metadata["step"]) == facts["steps"]


def last_good(folder: Path) -> str:
    """Where a run that diverged can go on."""
    if not (paths := checkpoint_paths(folder)):
        return "No checkpoint had been written before."
    return f"The last good checkpoint is {paths[-1]}; --resume goes on from it."


def load_newest_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
    precision: Precision | None = None,
) -> int:
    """Restores model, optimizer and scale in place; returns the steps that are done, 0 when there is no
    checkpoint yet. A damaged file is passed over for the one before it, and said so.

    facts: what the run is; they must equal those it was saved with.
    Raises WeightsError when no file can be read, or the newest was written by a run with other options.
    """
    paths = checkpoint_paths(folder)
    for path in reversed(paths):
        try:
            metadata, tensors = _read(path)
        except WeightsError as error:
            logger.warning("%s Going on from the one before it.", error)
            continue
        _check_no_other_runs(path, json.loads(metadata["facts"]), facts)
        _restore(tensors, model, optimizer)
        if precision and (state := json.loads(metadata["precision"])):
            precision.load_state_dict(state)
        return int(metadata["step"])
    if paths:
        raise WeightsError(
            f"No checkpoint in {folder} can be read ({', '.join(path.name for path in paths)} are damaged). "
            "Copy the run again, or delete its folder and start anew."
        )
    return 0


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"The checkpoint {path} cannot be read: {error}.") from error
    if not metadata or metadata.get("digest") != digest_of(tensors):
        raise WeightsError(f"The checkpoint {path} is damaged: its content is not what was written.")
    return metadata, tensors


def _check_no_other_runs(path: Path, before: dict[str, Any], facts: dict[str, Any]) -> None:
    was, now = flat_options(before), flat_options(facts)
    if changed := [name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]:
        detail = "; ".join(
            f"{name} was {shown_option(was.get(name))}, is {shown_option(now.get(name))}" for name in changed
        )
        raise WeightsError(
            f"{path} belongs to another run ({detail}). Resume with the same options or start anew."
        )


def _restore(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
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

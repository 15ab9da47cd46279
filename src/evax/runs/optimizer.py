"""AdamW with per-layer learning rates, and the learning rate of every step."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from evax.errors import DataError
from evax.options.training import OptimizerConfig

NOT_DECAYED = (
    "pos_embed",
    "cls_token",
)  # besides every 1-D parameter; mask_token is decayed (paper-facts.md 2.1)


def lr_at_step(step: int, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up from 0, then cosine or linear to final_lr at the last step, or constant.

    step: 0 for the first. Returns the learning rate before layer scaling.
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    left = (1 + math.cos(math.pi * min(1.0, progress))) / 2 if config.schedule == "cosine" else 1 - progress
    return config.final_lr + (config.lr - config.final_lr) * left


def layer_of(name: str, depth: int) -> int:
    """0 for the embeddings, i + 1 for block i, depth + 1 for final norm, decoder and head.

    depth: blocks of the encoder; 0 for a CNN, all of whose layers learn at the head's rate.
    Source: paper-facts.md 4.1, 5.4.
    """
    if depth == 0:
        return 1
    if block := re.search(r"^(?:encoder\.)?blocks\.(\d+)\.", name):  # decoders have blocks, too
        return int(block[1]) + 1
    is_embedding = any(part in name for part in ("cls_token", "pos_embed", "patch_embed", "mask_token"))
    return 0 if is_embedding else depth + 1


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float, depth: int
) -> list[dict[str, Any]]:
    """Groups with `lr_scale` = layer_decay ** (depth + 1 - layer), split by whether they are decayed.

    layer_decay: 1 gives every layer the same rate; 0.55 gives the embeddings of 12 blocks 0.55^13.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = parameter.ndim > 1 and not name.endswith(NOT_DECAYED)
        layer = layer_of(name, depth)
        group = groups.setdefault(
            (layer, decayed),
            {
                "params": [],
                "lr_scale": layer_decay ** (depth + 1 - layer),
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def create_optimizer(
    model: nn.Module, config: OptimizerConfig, depth: int, layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """AdamW over parameter_groups."""
    groups = parameter_groups(model, config.weight_decay, layer_decay, depth)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets every group to lr times its layer's scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


class Diverged(DataError):
    """The loss or its gradient is NaN or infinite; the step was not taken."""


def finite_value(loss: Tensor, step: int, what: str = "loss") -> float:
    """The value of a scalar tensor. Raises Diverged unless it is finite."""
    value = loss.item()
    if not math.isfinite(value):
        raise Diverged(
            f"The {what} of step {step} is {value}; the step was not taken. Start again with a lower "
            "--optimizer.lr or --precision fp32."
        )
    return value


def backward_and_step(
    loss: Tensor,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    lr: float,
    clip_norm: float,
    step: int,
) -> dict[str, float]:
    """One backward pass and optimizer step; returns loss, lr and grad_norm. Raises Diverged."""
    value = finite_value(loss, step)
    optimizer.zero_grad()
    fabric.backward(loss)
    return {
        "loss": value,
        "lr": lr,
        "grad_norm": clip_and_step(model, optimizer, fabric, lr, clip_norm, step),
    }


def clip_and_step(
    model: Any, optimizer: torch.optim.Optimizer, fabric: Fabric, lr: float, clip_norm: float, step: int
) -> float:
    """Clip and step; returns the gradient's norm before clipping, NaN where fp16 overflowed.

    In fp16 a gradient that is too large for the scale is expected: the step is skipped and the scale halved.
    """
    norm = fabric.clip_gradients(
        model, optimizer, max_norm=clip_norm or float("inf"), error_if_nonfinite=False
    )
    if getattr(fabric.strategy.precision, "scaler", None) is None:
        finite_value(norm, step, what="gradient")
    set_lr(optimizer, lr)
    optimizer.step()
    value = norm.item()
    return value if math.isfinite(value) else math.nan

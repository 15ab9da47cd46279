"""One optimizer step of pre-training, fine-tuning and segmentation: the order of things stays visible."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn

from evax.data.loader import Batch
from evax.data.preprocess import Preprocess
from evax.errors import DataError
from evax.models.classifier import Classifier
from evax.models.masked import MaskedImageModel
from evax.models.segmenter import Segmenter
from evax.models.tokenizers import Tokenizer, resized
from evax.training.masking import hidden_positions
from evax.training.objective import (
    at_positions,
    classification_loss,
    masked_cosine_loss,
    relative_spread,
    segmentation_loss,
)
from evax.training.optim import set_lr
from evax.training.options import MaskPattern


class Diverged(DataError):
    """The loss or its gradient is no number any more; nothing was learned from it."""


def masked_image_step(
    student: MaskedImageModel,
    teacher: Tokenizer,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    batch: Batch,
    *,
    preprocess: Preprocess,
    mask_ratio: float,
    seed: int,
    lr: float,
    clip_norm: float,
    mask: MaskPattern = "uniform",
    accumulate: int = 1,
) -> dict[str, float]:
    """Hide patches, predict the teacher's features of the clean crop at the hidden places, learn from the
    cosine.

    batch: of this process, in crops as large as the teacher wants them; the student sees them at
    preprocess.input_size. The gradient is the mean over all processes. accumulate: parts into which the
    batch is cut to need less memory, a divisor of its size; the gradient is that of the whole batch.
    Returns loss, cosine, spread (see evax.training.objective), lr, grad_norm and images_per_s of this step of
    all processes.
    Raises Diverged, on all processes, when loss or gradient is no number.
    """
    start = time.perf_counter()
    patches = (preprocess.input_size // 16) ** 2
    hidden = hidden_positions(
        batch.films, batch.epochs, patches=patches, ratio=mask_ratio, seed=seed, pattern=mask
    )
    size = len(batch.films) // accumulate
    measured = torch.zeros(2, device=fabric.device)
    optimizer.zero_grad()
    for first in range(0, len(batch.films), size):
        part = slice(first, first + size)
        films = fabric.to_device(torch.from_numpy(batch.images[part])).float() / 255  # (b, 1, s, s)
        positions = fabric.to_device(torch.from_numpy(hidden[part]))  # (b, M)
        with fabric.autocast():
            targets = teacher(films)
        # the processes average their gradients once a step, after the last part
        with fabric.no_backward_sync(student, enabled=part.stop < len(batch.films)):
            seen = resized(films, preprocess.input_size)
            predicted = student(preprocess.normalise(seen), positions)
            loss = masked_cosine_loss(predicted, targets, positions) / accumulate
            fabric.backward(loss)
        spread = relative_spread(predicted.detach(), at_positions(targets, positions)) / accumulate
        measured += torch.stack([loss.detach(), spread])
    measured = fabric.all_reduce(measured)
    value = _finite(measured[0], batch.step)
    grad_norm = _learn(student, optimizer, fabric, lr, clip_norm, batch.step)
    images = len(batch.films) * fabric.world_size
    return {
        "loss": value,
        "cosine": -value,
        "spread": measured[1].item(),
        "lr": lr,
        "grad_norm": grad_norm,
        "images_per_s": images / (time.perf_counter() - start),
    }


def classification_step(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    batch: Batch,
    labels: Float[Tensor, "B K"],
    *,
    preprocess: Preprocess,
    exclusive: bool,
    lr: float,
    clip_norm: float,
) -> dict[str, float]:
    """Returns loss, lr, grad_norm and images_per_s of this step."""
    start = time.perf_counter()
    films = fabric.to_device(torch.from_numpy(batch.images)).float() / 255
    logits = classifier(preprocess.normalise(films))
    loss = classification_loss(logits, fabric.to_device(labels), exclusive)
    return _learned_from(loss, classifier, optimizer, fabric, lr, clip_norm, batch.step) | {
        "images_per_s": len(films) / (time.perf_counter() - start)
    }


def segmentation_step(
    segmenter: Segmenter,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    batch: Batch,
    *,
    preprocess: Preprocess,
    lr: float,
    clip_norm: float,
) -> dict[str, float]:
    """batch: films with their masks behind them. Returns loss, lr, grad_norm and images_per_s."""
    start = time.perf_counter()
    images = fabric.to_device(torch.from_numpy(batch.images))
    films, truth = images[:, :1].float() / 255, images[:, 1:]
    loss = segmentation_loss(segmenter(preprocess.normalise(films)), truth)
    return _learned_from(loss, segmenter, optimizer, fabric, lr, clip_norm, batch.step) | {
        "images_per_s": len(films) / (time.perf_counter() - start)
    }


def _finite(loss: Tensor, step: int, what: str = "loss") -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise Diverged(
            f"The {what} of step {step} is {value}; nothing was learned from it. Start again with a lower "
            "--optimizer.lr or --precision fp32."
        )
    return value


def _learned_from(
    loss: Tensor,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    lr: float,
    clip_norm: float,
    step: int,
) -> dict[str, float]:
    """One backward pass and step; returns loss, lr and grad_norm."""
    value = _finite(loss, step)
    optimizer.zero_grad()
    fabric.backward(loss)
    return {"loss": value, "lr": lr, "grad_norm": _learn(model, optimizer, fabric, lr, clip_norm, step)}


def _learn(
    model: Any, optimizer: torch.optim.Optimizer, fabric: Fabric, lr: float, clip_norm: float, step: int
) -> float:
    """Clip and step; returns the gradient's norm before clipping, NaN where fp16 overflowed.

    In fp16 a gradient that is too large for the scale is no fault: the step is left out and the scale halved.
    """
    norm = fabric.clip_gradients(
        model, optimizer, max_norm=clip_norm or float("inf"), error_if_nonfinite=False
    )
    if getattr(fabric.strategy.precision, "scaler", None) is None:
        _finite(norm, step, what="gradient")
    set_lr(optimizer, lr)
    optimizer.step()
    value = norm.item()
    return value if math.isfinite(value) else math.nan

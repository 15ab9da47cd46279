"""One optimizer step of pre-training and one of fine-tuning: the order of things stays visible."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from evax.data.loader import Batch
from evax.data.preprocess import Preprocess
from evax.errors import DataError
from evax.models.classifier import Classifier
from evax.models.masked import MaskedImageModel
from evax.models.tokenizers import Tokenizer
from evax.training.masking import hidden_positions
from evax.training.objective import classification_loss, masked_cosine_loss
from evax.training.optim import set_lr


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
) -> dict[str, float]:
    """Hide patches, predict the teacher's features of the clean crop at the hidden places, learn from the
    cosine.

    Returns loss, cosine, lr, grad_norm and images_per_s of this step.
    """
    start = time.perf_counter()
    films = fabric.to_device(torch.from_numpy(batch.images)).float() / 255  # (B, 1, s, s)
    patches = (preprocess.input_size // 16) ** 2
    hidden = hidden_positions(batch.films, batch.epochs, patches=patches, ratio=mask_ratio, seed=seed)
    positions = fabric.to_device(torch.from_numpy(hidden))  # (B, M)
    with fabric.autocast():
        targets = teacher(films)
    predicted = student(preprocess.normalise(films), positions)
    loss = masked_cosine_loss(predicted, targets, positions)
    value = _finite(loss, batch.step)
    grad_norm = _learn(student, optimizer, fabric, loss, lr, clip_norm)
    return {
        "loss": value,
        "cosine": -value,
        "lr": lr,
        "grad_norm": grad_norm,
        "images_per_s": len(films) / (time.perf_counter() - start),
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
    value = _finite(loss, batch.step)
    grad_norm = _learn(classifier, optimizer, fabric, loss, lr, clip_norm)
    return {
        "loss": value,
        "lr": lr,
        "grad_norm": grad_norm,
        "images_per_s": len(films) / (time.perf_counter() - start),
    }


def _finite(loss: Tensor, step: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise DataError(
            f"The loss of step {step} is {value}; nothing was learned from it, and the newest checkpoint is "
            "from before. Start again with a lower --optimizer.lr or --precision fp32."
        )
    return value


def _learn(
    model: Any, optimizer: torch.optim.Optimizer, fabric: Fabric, loss: Tensor, lr: float, clip_norm: float
) -> float:
    """Backward, clip, step; returns the gradient's norm before clipping."""
    optimizer.zero_grad()
    fabric.backward(loss)
    # Fabric first takes back the loss scaling of fp16, where a step whose gradient overflowed is skipped
    norm: Tensor = fabric.clip_gradients(
        model, optimizer, max_norm=clip_norm or math.inf, error_if_nonfinite=False
    )
    set_lr(optimizer, lr)
    optimizer.step()
    return norm.item()

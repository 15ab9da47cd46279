"""One optimizer step of pre-training, fine-tuning and segmentation: the order of things stays visible."""

from __future__ import annotations

import time

import torch
from lightning_fabric import Fabric

from evax.data.loader import Batch
from evax.data.preprocess import Preprocess
from evax.models.masked import MaskedImageModel
from evax.models.tokenizers import Tokenizer, resized
from evax.options.training import MaskPattern
from evax.pretraining.hidden_patches import hidden_positions
from evax.pretraining.objective import at_positions, masked_cosine_loss, relative_spread
from evax.runs.optimizer import clip_and_step, finite_value


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
    Returns loss, cosine, spread (see evax.pretraining.objective), lr, grad_norm and images_per_s of this step
    of all processes.
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
    value = finite_value(measured[0], batch.step)
    grad_norm = clip_and_step(student, optimizer, fabric, lr, clip_norm, batch.step)
    images = len(batch.films) * fabric.world_size
    return {
        "loss": value,
        "cosine": -value,
        "spread": measured[1].item(),
        "lr": lr,
        "grad_norm": grad_norm,
        "images_per_s": images / (time.perf_counter() - start),
    }

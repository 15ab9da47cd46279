"""One optimizer step of pre-training."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric

from evax.data.loader import Batch
from evax.data.preprocess import Preprocess
from evax.models.masked import MaskedImageModel
from evax.models.tokenizers import Tokenizer, resized
from evax.options.pretraining import MaskedImageConfig
from evax.pretraining.hidden_patches import hidden_positions
from evax.pretraining.objective import at_positions, masked_cosine_loss, relative_spread
from evax.runs.optimizer import clip_and_step, finite_value


@dataclass(frozen=True, eq=False)
class MaskedImageLearner:
    """The network that learns and what it learns from, on their device."""

    student: MaskedImageModel
    tokenizer: Tokenizer
    optimizer: torch.optim.Optimizer
    fabric: Fabric
    preprocess: Preprocess


def masked_image_step(
    learner: MaskedImageLearner, batch: Batch, options: MaskedImageConfig, lr: float
) -> dict[str, float]:
    """Hide patches, predict the tokenizer's features of the clean crop at the hidden places, and learn from
    their cosine (paper, Eq. 6-7).

    batch: of this process, in crops as large as the tokenizer needs; the student sees them at
    options.image_size. options.accumulate: parts into which the batch is cut to need less memory, a divisor
    of its size. The gradient is the mean over the parts and over all processes.
    Returns loss, cosine, spread (see relative_spread), lr, grad_norm and images_per_s of this step of all
    processes.
    Raises Diverged, on all processes, if loss or gradient is NaN or infinite.
    """
    start = time.perf_counter()
    student, fabric = learner.student, learner.fabric
    hidden = hidden_positions(
        batch.films, batch.epochs,
        patches=options.patches, ratio=options.mask_ratio, seed=options.seed, pattern=options.mask,
    )  # fmt: skip
    size = len(batch.films) // options.accumulate
    measured = torch.zeros(2, device=fabric.device)
    learner.optimizer.zero_grad()
    for first in range(0, len(batch.films), size):
        part = slice(first, first + size)
        images = fabric.to_device(torch.from_numpy(batch.images[part])).float() / 255  # (b, 1, s, s)
        positions = fabric.to_device(torch.from_numpy(hidden[part]))  # (b, M)
        with fabric.autocast():
            targets = learner.tokenizer(images)
        # the processes average their gradients once a step, after the last part
        with fabric.no_backward_sync(student, enabled=part.stop < len(batch.films)):
            seen = learner.preprocess.normalise(resized(images, options.image_size))
            predicted = student(seen, positions)
            loss = masked_cosine_loss(predicted, targets, positions) / options.accumulate
            fabric.backward(loss)
        spread = relative_spread(predicted.detach(), at_positions(targets, positions)) / options.accumulate
        measured += torch.stack([loss.detach(), spread])
    measured = fabric.all_reduce(measured)
    value = finite_value(measured[0], batch.step)
    grad_norm = clip_and_step(student, learner.optimizer, fabric, lr, options.optimizer.clip_norm, batch.step)
    return {
        "loss": value,
        "cosine": -value,
        "spread": measured[1].item(),
        "lr": lr,
        "grad_norm": grad_norm,
        "images_per_s": len(batch.films) * fabric.world_size / (time.perf_counter() - start),
    }

"""One optimizer step of fine-tuning and segmentation, and their losses."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from lightning_fabric import Fabric
from torch import Tensor

from evax.data.loader import Batch
from evax.data.preprocess import Preprocess
from evax.models.classifier import Classifier
from evax.models.segmenter import Segmenter
from evax.runs.optimizer import _learned_from


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


def classification_loss(
    logits: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], exclusive: bool
) -> Float[Tensor, ""]:
    """Cross entropy when exactly one finding is true per film, else binary cross entropy over the known
    labels.

    labels: 1 present, 0 absent, NaN unknown (left out; not allowed when exclusive).
    """
    if exclusive:
        return F.cross_entropy(logits.float(), labels)
    return _known_cross_entropy(logits, labels, ~labels.isnan())


def segmentation_loss(logits: Float[Tensor, "B K h w"], truth: UInt8[Tensor, "B K h w"]) -> Float[Tensor, ""]:
    """Binary cross entropy, the mean over all known pixels of all findings (facts 5.3).

    truth: 1 inside, 0 outside, anything else unknown (left out).
    """
    return _known_cross_entropy(logits, (truth == 1).float(), truth <= 1)


def _known_cross_entropy(
    logits: Float[Tensor, "B K *n"], labels: Float[Tensor, "B K *n"], known: Bool[Tensor, "B K *n"]
) -> Float[Tensor, ""]:
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)

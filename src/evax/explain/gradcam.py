"""Grad-CAM for EVA-X classifiers: which places of the film speak for a finding."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from evax.data.radiograph import Radiograph
from evax.errors import ConfigError, unknown_name
from evax.models.classifier import Classifier

At = Literal["norm1", "output"]


@runtime_checkable
class Explainable(Protocol):
    """What a map needs of a predictor."""

    card: Any
    """Has `findings` in the order of the outputs."""
    network: Any
    """An evax Classifier."""

    def network_input(self, film: Radiograph) -> Float[np.ndarray, "1 H W"]:
        """The film as the network sees it."""
        ...


def grad_cam(
    predictor: Explainable, radiograph: Radiograph, finding: str, at: At = "norm1"
) -> Float[np.ndarray, "H W"]:
    """Map of one finding on the original pixels, in [0, 1]; all zero where nothing speaks for the finding.

    at: "norm1", the normed input of the last block, as the paper; "output", the last block's output. They are
    different maps and must not be compared with each other.
    Raises ConfigError for a finding the bundle does not know, or a bundle that is no classifier.
    """
    findings = tuple(predictor.card.findings)
    if not isinstance(predictor.network, Classifier):
        raise ConfigError(
            "Grad-CAM needs a classifier bundle; this one holds an encoder. Fine-tune it first."
        )
    if finding not in findings:
        raise unknown_name("finding", finding, findings)
    images = torch.from_numpy(predictor.network_input(radiograph)[None])
    maps = grad_cam_maps(predictor.network, images, at)[0, findings.index(finding)]  # (h, w)
    return spread(maps.numpy(), radiograph.pixels.shape)


def grad_cam_maps(
    network: Classifier, images: Float[Tensor, "B C H W"], at: At = "norm1"
) -> Float[Tensor, "B K h w"]:
    """ReLU(sum_c mean(gradient_c) * activation_c) on the patch grid for every finding at once, not yet
    normalised.

    One forward pass up to the last block without gradients; then K vector-Jacobian products through what
    follows
    the activations. Nothing stays on the network. Source: Selvaraju 2017, layer and pooling of facts section
    6.
    """
    block = network.encoder.blocks[-1]
    layer = block.norm1 if at == "norm1" else block
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = network(images)  # (B, K)
            one_each = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
            (gradients,) = torch.autograd.grad(
                logits,
                kept[0],
                one_each[:, None, :].expand(-1, len(images), -1),  # (K, B, K): films do not mix
                is_grads_batched=True,
            )  # (K, B, T, D)
    finally:
        handle.remove()
    activations = kept[0].detach()[:, 1:]  # (B, N, D) without the class token
    weights = gradients[:, :, 1:].mean(dim=2)  # (K, B, D)
    height, width = network.encoder.patch_embed.grid_size
    maps = torch.einsum("kbd,bnd->bkn", weights, activations).relu()
    return maps.reshape(*maps.shape[:2], height, width)


def spread(grid: Float[np.ndarray, "h w"], shape: tuple[int, ...]) -> Float[np.ndarray, "H W"]:
    """A patch map on the film's own pixels: bilinear, then scaled so that its largest value is 1 (all zero
    stays zero).
    """
    height, width = shape
    large = np.asarray(
        Image.fromarray(grid.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    )
    low, high = large.min(), large.max()
    return (large - low) / (high - low) if high > low else np.zeros_like(large)

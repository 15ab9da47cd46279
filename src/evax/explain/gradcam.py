"""Grad-CAM: which places of the film speak for a finding."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from evax.data.preprocess import Preprocess
from evax.data.radiograph import Radiograph
from evax.errors import ConfigError, unknown_name
from evax.models.classifier import Classifier
from evax.models.encoders import EvaX, PlainVit

At = Literal["norm1", "output"]


@runtime_checkable
class Explainable(Protocol):
    """What a map needs of a predictor."""

    card: Any
    """Has `findings` in the order of the outputs, and the `preprocess` of the films."""
    network: Any
    """An evax Classifier."""

    def network_input(self, film: Radiograph) -> Float[np.ndarray, "C H W"]:
        """The film as the network sees it."""
        ...


def usual_layer(predictor: Explainable) -> At:
    """The paper's layer of a transformer; the last map of a CNN, which has no norm1."""
    return "norm1" if isinstance(predictor.network.encoder, EvaX | PlainVit) else "output"


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
    return spread(maps.numpy(), radiograph.pixels.shape, predictor.card.preprocess)


def grad_cam_maps(
    network: Classifier, images: Float[Tensor, "B C H W"], at: At = "norm1"
) -> Float[Tensor, "B K h w"]:
    """ReLU(sum_c mean(gradient_c) * activation_c) on the patch grid for every finding at once, not yet
    normalised.

    One forward pass up to the last block without gradients; then K vector-Jacobian products through what
    follows the activations. Nothing stays on the network. Source: Selvaraju 2017, layer and pooling of facts
    section 6. Raises ConfigError for norm1 of a CNN.
    """
    if at == "output":
        with torch.no_grad():
            activations, grid, _ = network.encoder.encode(images)
        activations.requires_grad_()
        with torch.enable_grad():
            weights = _gradients(network.read(activations), activations)  # (K, B, N, D)
    else:
        activations, logits, grid = _norm1(network, images)
        weights = _gradients(logits, activations)[:, :, 1:]  # without the class token
        activations = activations[:, 1:]
    maps = torch.einsum("kbd,bnd->bkn", weights.mean(dim=2), activations.detach()).relu()
    return maps.reshape(*maps.shape[:2], *grid)


def _norm1(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """The normed input (B, T, D) of the last block, the logits that follow from it, and the patch grid."""
    encoder = network.encoder
    if not isinstance(encoder, EvaX | PlainVit):
        raise ConfigError("A CNN has no norm1 in a last block: ask for the map at its output (--at output).")
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = encoder.blocks[-1].norm1.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = network(images)  # (B, K)
    finally:
        handle.remove()
    return kept[0], logits, encoder.patch_embed.grid_size


def _gradients(logits: Tensor, activations: Tensor) -> Tensor:
    """Of every logit by the activations of its own film, (K, B, T, D): films do not mix."""
    one_each = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    outputs = one_each[:, None, :].expand(-1, len(logits), -1)  # (K, B, K)
    (gradients,) = torch.autograd.grad(logits, activations, outputs, is_grads_batched=True)
    return gradients


def spread(
    grid: Float[np.ndarray, "h w"], shape: tuple[int, ...], preprocess: Preprocess
) -> Float[np.ndarray, "H W"]:
    """A patch map on the film's own pixels: bilinear, then scaled so that its largest value is 1 (all zero
    stays zero).

    preprocess: the film's way to the network. What a central crop left out was not seen and is zero.
    """
    (top, bottom), (left, right) = ([round(end * side) for end in preprocess.seen] for side in shape)
    large = np.asarray(
        Image.fromarray(grid.astype(np.float32)).resize(
            (right - left, bottom - top), Image.Resampling.BILINEAR
        )
    )
    low, high = large.min(), large.max()
    film = np.zeros(shape, np.float32)
    if high > low:
        film[top:bottom, left:right] = (large - low) / (high - low)
    return film

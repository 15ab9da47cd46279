"""Grad-CAM: which places of the image speak for each finding, on the patch grid."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evax.errors import ConfigError
from evax.explain.heatmap import At
from evax.models.classifier import Classifier
from evax.models.encoders import Encoder, EvaX, PlainVit


def grad_cam_maps(
    network: Classifier, images: Float[Tensor, "B C H W"], at: At = "norm1"
) -> Float[Tensor, "B K h w"]:
    """ReLU(sum_c mean(gradient_c) * activation_c) on the patch grid for every finding at once, not yet
    normalised.

    One forward pass up to the last block without gradients; then, at norm1, K vector-Jacobian products
    through what follows. Nothing stays on the network. Source: Selvaraju 2017, layer and pooling of facts
    section 6. Raises ConfigError for norm1 of a CNN.
    """
    if at == "output":
        with torch.no_grad():
            activations, grid, _ = network.encoder.encode(images)
            return output_maps(network, activations, grid)
    activations, logits, grid = _norm1(network, images)
    weights = _gradients(logits, activations)[:, :, 1:]  # without the class token
    maps = torch.einsum("kbd,bnd->bkn", weights.mean(dim=2), activations[:, 1:].detach()).relu()
    return maps.reshape(*maps.shape[:2], *grid)


def output_maps(
    network: Classifier, patches: Float[Tensor, "B N D"], grid: tuple[int, int]
) -> Float[Tensor, "B K h w"]:
    """Grad-CAM at the output in closed form, so that it can be exported: no gradients are taken.

    patches: of the network's encoder, on a grid of h x w. The logits are linear(LayerNorm(mean of the
    patches)), or linear(mean) for a CNN, so the gradient is the same at every patch.
    """
    norm, weights = network.encoder.fc_norm, network.head.weight.expand(len(patches), -1, -1)  # (B, K, D)
    if isinstance(norm, nn.LayerNorm):
        # y = gamma (m - mu) / sigma + beta; with u = gamma w: dl/dm = (u - mean(u) - z mean(u z)) / sigma
        mean = patches.mean(dim=1, keepdim=True)  # (B, 1, D)
        variance, middle = torch.var_mean(mean, dim=-1, correction=0, keepdim=True)
        scale = (variance + norm.eps).rsqrt()
        standard = (mean - middle) * scale
        weights = weights * norm.weight
        along = (weights * standard).mean(dim=-1, keepdim=True)
        weights = (weights - weights.mean(dim=-1, keepdim=True) - standard * along) * scale
    maps = torch.einsum("bkd,bnd->bkn", weights / patches.shape[1], patches).relu()
    return maps.reshape(maps.shape[0], maps.shape[1], *grid)


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
    """Of every logit by the activations of its own image, (K, B, T, D): images do not mix."""
    one_each = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    outputs = one_each[:, None, :].expand(-1, len(logits), -1)  # (K, B, K)
    (gradients,) = torch.autograd.grad(logits, activations, outputs, is_grads_batched=True)
    return gradients


def layers_of(encoder: Encoder) -> tuple[At, ...]:
    """Where maps can be made: the paper's layer of a transformer first; a CNN has no norm1."""
    return ("norm1", "output") if isinstance(encoder, EvaX | PlainVit) else ("output",)

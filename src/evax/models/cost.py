"""What a classifier costs: parameters, multiply-adds and time on this processor, whatever its weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evax.models.classifier import Classifier
from evax.models.encoders import Encoder, build_encoder

Head = Literal["norm, linear", "linear", "none"]
WARM_UP = 3  # images before the clock counts: the first ones set up kernels and memory


class Kind(NamedTuple):
    """Everything that the cost of a classifier depends on."""

    encoder: str
    """One of ENCODERS."""
    image_size: int
    """Side of the input in pixels."""
    findings: int
    """Outputs, K."""
    head: Head = "norm, linear"
    """What acts on the mean of the patches: of a fine-tuned classifier, of a linear probe, or nothing."""

    def build(self) -> nn.Module:
        """The network, with random weights."""
        encoder = build_encoder(self.encoder, img_size=self.image_size)
        if self.head != "norm, linear":
            encoder.fc_norm = nn.Identity()
        return PooledEncoder(encoder) if self.head == "none" else Classifier(encoder, self.findings)


class PooledEncoder(nn.Module):
    """The mean of an encoder's patches."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """images: normalised."""
        return self.encoder.encode(images).patches.mean(dim=1)


class Size(NamedTuple):
    """Of a whole network, for one image."""

    parameters: int
    multiply_adds: int
    """What the paper calls FLOPs; two operations each."""


def size_of(kind: Kind) -> Size:
    """Counted on shapes alone, without any memory for weights.

    Source: the paper's "GFLOPs" are multiply-adds (paper-facts.md 1.1).
    """
    with torch.device("meta"):
        network = kind.build().eval()
        for part in network.modules():
            if hasattr(part, "fused_attn"):  # so that attention is counted as the matrix products it is
                setattr(part, "fused_attn", False)  # noqa: B010  # Module types its attributes
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 1, kind.image_size, kind.image_size))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Size(parameters, counter.get_total_flops() // 2)


def milliseconds_per_film(kinds: Sequence[Kind], repeats: int, threads: int) -> dict[Kind, float]:
    """Median time of one image in float32 on the CPU, from normalised pixels to what `Kind.build` gives.

    repeats: timed images, at least 1. threads: torch's, while this runs. The kinds are timed in turn, image by
    image, so that a busy minute of the machine falls on all of them.
    """
    networks = {kind: kind.build().eval() for kind in kinds}
    films = {kind: torch.rand(1, 1, kind.image_size, kind.image_size) for kind in networks}
    before, spent = torch.get_num_threads(), {kind: list[float]() for kind in networks}
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for turn in range(WARM_UP + repeats):
                for kind, network in networks.items():
                    start = time.perf_counter()
                    network(films[kind])
                    if turn >= WARM_UP:
                        spent[kind].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return {kind: 1000 * statistics.median(seconds) for kind, seconds in spent.items()}

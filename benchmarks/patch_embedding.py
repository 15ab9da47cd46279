"""Question: is a convolution the fastest way to embed patches when training on a CPU?

The patch embedding of EVA-X-Ti, forward and weight gradient, 128 grey crops of 128 pixels shown to three
channels, bfloat16, one core, eager: timm's convolution, and the same numbers as cut patches times a matrix.
Timed in turn, in processor time. Start it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import statistics
import time

import torch

from circumstances import keep

BATCH, SIZE, PATCH, WIDTH, ROUNDS = 128, 128, 16, 192, 7


def convolved(films, weight, bias):
    return torch.nn.functional.conv2d(films, weight, bias, stride=PATCH).flatten(2).transpose(1, 2)


def multiplied(films, weight, bias):
    side = SIZE // PATCH
    cut = films.reshape(BATCH, 3, side, PATCH, side, PATCH).permute(0, 2, 4, 1, 3, 5)
    return torch.nn.functional.linear(cut.reshape(BATCH, side * side, -1), weight.flatten(1), bias)


def main() -> None:
    torch.manual_seed(0)
    films = torch.randn(BATCH, 1, SIZE, SIZE).expand(-1, 3, -1, -1)
    weight = torch.randn(WIDTH, 3, PATCH, PATCH, requires_grad=True)
    bias = torch.zeros(WIDTH, requires_grad=True)
    cases = {"convolution": convolved, "patches times a matrix": multiplied}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round_ in range(ROUNDS + 2):
        for name, embed in cases.items():
            weight.grad = bias.grad = None
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16):
                tokens = embed(films, weight, bias)
            tokens.float().sum().backward()
            if round_ >= 2:
                seconds[name].append(time.process_time() - start)
    keep(
        "patch_embedding",
        __doc__.split("\n")[0].removeprefix("Question: "),
        {
            "seconds": {name: round(statistics.median(times), 4) for name, times in seconds.items()},
            "convolution_over_matrix_per_round": [
                round(a / b, 2) for a, b in zip(*seconds.values(), strict=True)
            ],
        },
    )


if __name__ == "__main__":
    main()

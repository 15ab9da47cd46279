"""Question: how much of a student's forward and backward pass are matrix products?

Every product of one EVA-X-Ti block at 128 pixels, batch 128, bfloat16, one core, alone and in processor time:
the four linear layers with their two gradients, and attention's two products with their four. What
`pretrain_profile.py` measures beyond them are the loops between them. Start it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import json
import time

import torch

from circumstances import RESULTS, keep

TOKENS, HEADS = 128 * 65, 128 * 3
LINEAR = {"qkv": (192, 576), "proj": (192, 192), "fc1": (192, 1024), "fc2": (512, 192)}


def seconds_of(left: tuple[int, ...], right: tuple[int, ...], transposed: bool = False) -> float:
    """The best of five; transposed: the left factor lies the other way round in memory, as in a gradient."""
    first = torch.randn(*left, dtype=torch.bfloat16)
    second = torch.randn(*right, dtype=torch.bfloat16)
    if transposed:
        first = first.transpose(-1, -2).contiguous().transpose(-1, -2)
    times = []
    for _ in range(6):
        start = time.process_time()
        _ = first @ second
        times.append(time.process_time() - start)
    return min(times[1:])


def main() -> None:
    seconds = {}
    for name, (inputs, outputs) in LINEAR.items():
        seconds[f"{name} forward"] = seconds_of((TOKENS, inputs), (inputs, outputs))
        seconds[f"{name} gradient of inputs"] = seconds_of((TOKENS, outputs), (outputs, inputs))
        seconds[f"{name} gradient of weights"] = seconds_of((outputs, TOKENS), (TOKENS, inputs), True)
    scores = seconds_of((HEADS, 65, 64), (HEADS, 64, 65))
    values = seconds_of((HEADS, 65, 65), (HEADS, 65, 64))
    seconds |= {"attention scores, 2 of them": 2 * scores, "attention values, 4 of them": 4 * values}
    profile = json.loads((RESULTS / "pretrain_profile.json").read_text())
    embedding = json.loads((RESULTS / "patch_embedding.json").read_text())["seconds"]["convolution"]
    whole, blocks = profile["seconds"]["whole batch"], profile["blocks"]
    products = sum(seconds.values())
    keep(
        "student_products",
        __doc__.split("\n")[0].removeprefix("Question: "),
        {
            "seconds_per_block": {name: round(time_, 5) for name, time_ in seconds.items()},
            "products_per_block_s": round(products, 4),
            "share_of_pass": {
                "products of the blocks": round(blocks * products / whole, 2),
                "patch embedding": round(embedding / whole, 2),
                "loops and the rest": round(1 - (blocks * products + embedding) / whole, 2),
            },
        },
    )


if __name__ == "__main__":
    main()

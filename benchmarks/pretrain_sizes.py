"""Question: what share of a plain matrix product's speed does a pre-training step reach, in three sizes?

EVA-X-Ti, S and B, each alone in its process: the compiled step of `evax pretrain` at 224 pixels, a batch that
fits beside other work, and the product timed again after every step, so that a busy machine slows both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import torch

from circumstances import keep
from evax.models.encoders import EVA_X
from evax.training.runtime import forward_operations, matmul_rate
from pretrain_step import crops, networks, our_step, peak_memory_mib

SIZE, STEPS = 224, 5
BATCHES = {"eva_x_tiny_patch16_224": 64, "eva_x_small_patch16_224": 32, "eva_x_base_patch16_224": 16}


def measure(name: str) -> dict[str, float]:
    batch_size = BATCHES[name]
    model, tokenizer, _ = networks(name)
    film, hidden = torch.zeros(1, 1, SIZE, SIZE), torch.arange(59)[None]
    student = 3 * forward_operations(model, film, hidden)  # backward: twice the forward pass
    teacher = forward_operations(tokenizer, film)
    del model, tokenizer
    step = our_step(encoder=name)
    seconds, rates = [], []
    for index in range(STEPS + 2):  # two steps to compile and warm up
        batch = crops(index, batch_size)
        start = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - start)
        rates.append(matmul_rate("bf16", torch.device("cpu")))
    pairs = [(batch_size / time_, rate) for time_, rate in zip(seconds[2:], rates[2:], strict=True)]
    return {
        "batch": batch_size,
        "crops_per_s": round(statistics.median(crops_ for crops_, _ in pairs), 2),
        "student_gflop_per_crop": round(student / 1e9, 2),
        "tokenizer_gflop_per_crop": round(teacher / 1e9, 2),
        "bf16_matmul_gflops": round(statistics.median(rates[2:]) / 1e9),
        "student_share_of_matmul_rate": round(statistics.median(c * student / r for c, r in pairs), 3),
        "share_per_step": [round(c * student / r, 3) for c, r in pairs],
        "peak_memory_mib": peak_memory_mib(),
    }


def main() -> None:
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measure(sys.argv[1])))
        return
    sizes = {}
    for name in EVA_X:
        run = subprocess.run([sys.executable, __file__, name], stdout=subprocess.PIPE, text=True, check=True)
        sizes[name] = json.loads(run.stdout)
    keep("pretrain_sizes", __doc__.split("\n")[0].removeprefix("Question: "), {"sizes": sizes})


if __name__ == "__main__":
    main()

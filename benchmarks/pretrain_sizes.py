"""Question: what share of a plain matrix product's speed does a pre-training step reach, in three sizes?

EVA-X-Ti, S and B, each alone in its process on one core: the compiled step of `evax pretrain` at 224 pixels,
in small batches, and a bfloat16 product after every step. Both in processor time: other work may run beside.
Start it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from circumstances import keep
from evax.models.encoders import EVA_X
from evax.runs.device import forward_operations
from pretrain_step import crops, networks, our_step, peak_memory_mib

SIZE, STEPS = 224, 3
BATCHES = {"eva_x_tiny_patch16_224": 64, "eva_x_small_patch16_224": 32, "eva_x_base_patch16_224": 8}


def seconds_of(work: Callable[[], object]) -> float:
    """Of processor time; the best of five."""
    seconds = []
    for _ in range(5):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def product_rate() -> float:
    """Floating-point operations per second of processor time in a square product."""
    left = torch.ones(1024, 1024, dtype=torch.bfloat16)
    return 2 * 1024**3 / seconds_of(lambda: left @ left)


def learning_state_mib(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Weights, gradients and AdamW's moments after a step with gradients of 0: what FSDP would share out."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    tensors = [tensor for p in model.parameters() for tensor in (p, p.grad, *optimizer.state[p].values())]
    return round(sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20)


def measure(name: str) -> dict[str, object]:
    if torch.get_num_threads() != 1:
        raise SystemExit("OMP_NUM_THREADS=1 is needed: processor time of several threads is no duration.")
    batch_size = BATCHES[name]
    model, tokenizer, optimizer = networks(name)
    film, hidden = torch.zeros(1, 1, SIZE, SIZE), torch.arange(59)[None]
    student = 3 * forward_operations(model, film, hidden)  # backward: twice the forward pass
    teacher = forward_operations(tokenizer, film)
    state = learning_state_mib(model, optimizer)
    del model, tokenizer, optimizer
    step = our_step(name)
    step(crops(0, batch_size))  # compiles
    step(crops(1, batch_size))
    rates, shares, speeds = [], [], []
    for index in range(STEPS):
        batch = crops(2 + index, batch_size)
        start = time.process_time()
        step(batch)
        speeds.append(batch_size / (time.process_time() - start))
        rates.append(product_rate())
        shares.append(speeds[-1] * student / rates[-1])
    return {
        "batch": batch_size,
        "crops_per_s": round(statistics.median(speeds), 2),
        "student_gflop_per_crop": round(student / 1e9, 2),
        "tokenizer_gflop_per_crop": round(teacher / 1e9, 2),
        "bf16_matmul_gflops": round(statistics.median(rates) / 1e9),
        "student_share_of_matmul_rate": round(statistics.median(shares), 3),
        "share_per_step": [round(share, 3) for share in shares],
        "weights_gradients_moments_mib": state,
        "peak_memory_mib": peak_memory_mib(),
    }


def main() -> None:
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measure(sys.argv[1])))
        return
    sizes = {}
    for name in EVA_X:
        run = subprocess.run(
            [sys.executable, __file__, name], stdout=subprocess.PIPE, encoding="utf-8", check=True
        )
        sizes[name] = json.loads(run.stdout)
    keep("pretrain_sizes", __doc__.split("\n")[0].removeprefix("Question: "), {"sizes": sizes})


if __name__ == "__main__":
    main()

"""Question: how much does a view cost at 128 pixels of what it costs at 224?

EVA-X-Ti, the compiled step of `evax pretrain` with its tokenizer, batches of 64 on one core, the two sizes
in turn, in processor time: other work may run beside. Start it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import statistics
import time

import torch

from circumstances import keep
from pretrain_step import crops, our_step

BATCH, SIZES, ROUNDS = 64, (128, 224), 7


def main() -> None:
    if torch.get_num_threads() != 1:
        raise SystemExit("OMP_NUM_THREADS=1 is needed: processor time of several threads is no duration.")
    steps = {size: our_step(size=size) for size in SIZES}
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    for round_ in range(ROUNDS + 2):  # two rounds to compile and warm up
        for size, step in steps.items():
            batch = crops(round_, BATCH, size)
            start = time.process_time()
            step(batch)
            if round_ >= 2:
                seconds[size].append(time.process_time() - start)
    small, large = seconds.values()
    rates = {size: round(BATCH / statistics.median(each), 1) for size, each in seconds.items()}
    keep(
        "pretrain_resolution",
        __doc__.split("\n")[0].removeprefix("Question: "),
        {
            "crops_per_s": rates,
            "small_over_large_per_round": [round(a / b, 3) for a, b in zip(small, large, strict=True)],
        },
    )


if __name__ == "__main__":
    main()

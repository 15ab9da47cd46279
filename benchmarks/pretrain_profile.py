"""Question: where does a student's forward and backward pass spend its time, and do two ideas help?

EVA-X-Ti at 128 pixels, batch 128, bfloat16, compiled as `evax pretrain` does, on one core; two of its twelve
blocks, which are all alike, so that compiling several variants takes minutes and not hours. torch's profiler
gives one pass's matrix products by shape, on the clock of the wall: on a busy machine they mean nothing.
The ideas, timed in turn with the whole batch, in processor time: the batch in four parts, whose activations
fit the cache better; and rotary positions that pair the two halves of a head instead of neighbours, whose
loop a compiler can vectorise (the same function if the rows of the q and k weights are permuted).
Start it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from circumstances import keep
from evax.models.encoders import build_encoder
from evax.models.masked import MaskedImageModel
from evax.runs.device import forward_operations, maybe_compile
from pretrain_sizes import product_rate

BATCH, SIZE, HIDDEN, WIDTH, BLOCKS, ROUNDS = 128, 128, 19, 112, 2, 5
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
CONVOLUTIONS = ("aten::mkldnn_convolution", "aten::convolution", "aten::convolution_backward")


def student(*, halves: bool = False):
    torch.manual_seed(0)
    encoder = build_encoder("eva_x_tiny_patch16_224", img_size=SIZE, depth=BLOCKS)
    for block in encoder.blocks:
        block.attn.rotate_half = halves
    return MaskedImageModel(encoder, WIDTH)


def passes(model, parts: int):
    """A function that runs forward and backward over the batch in so many parts."""
    compiled = maybe_compile(model, "on", 0, torch.device("cpu"))
    films, targets = torch.randn(BATCH, 1, SIZE, SIZE), torch.randn(BATCH, HIDDEN, WIDTH)
    chance = np.random.default_rng(0)
    places = torch.from_numpy(
        np.stack([chance.permutation((SIZE // 16) ** 2)[:HIDDEN] for _ in range(BATCH)])
    )

    def run() -> None:
        model.zero_grad()
        chunks = (films.chunk(parts), places.chunk(parts), targets.chunk(parts))
        for film, place, target in zip(*chunks, strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                predicted = compiled(film, place)
            similar = torch.nn.functional.cosine_similarity(predicted.float(), target, dim=-1)
            (-similar.mean() / parts).backward()

    return run


def profiled(run) -> dict[str, float]:
    """Seconds of processor time of one pass, and by the wall's clock of every kind of product in it."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        start = time.process_time()
        run()
        seconds = {"whole pass": time.process_time() - start}
    for event in profiler.key_averages(group_by_input_shape=True):
        if event.key in PRODUCTS + CONVOLUTIONS:
            shapes = " x ".join(str(tuple(shape)) for shape in event.input_shapes[:3] if shape)
            seconds[f"{event.key.removeprefix('aten::')} {shapes}"] = event.self_cpu_time_total / 1e6
    return seconds


def main() -> None:
    if torch.get_num_threads() != 1:
        raise SystemExit("OMP_NUM_THREADS=1 is needed: processor time of several threads is no duration.")
    torch._dynamo.config.automatic_dynamic_shapes = False  # two sizes: each compiled as if it were alone
    model = student()
    operations = 3 * forward_operations(model, torch.zeros(1, 1, SIZE, SIZE), torch.arange(HIDDEN)[None])
    cases = {
        "whole batch": passes(model, 1),
        "four parts": passes(model, 4),
        "rotary pairs of halves": passes(student(halves=True), 1),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    rates = []
    for round_ in range(ROUNDS + 2):  # two rounds to compile and warm up
        for name, run in cases.items():
            start = time.process_time()
            run()
            if round_ >= 2:
                times[name].append(time.process_time() - start)
        rates.append(product_rate())
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    whole = times["whole batch"]
    shares = profiled(cases["whole batch"])
    keep(
        "pretrain_profile",
        __doc__.split("\n")[0].removeprefix("Question: "),
        {
            "batch": BATCH,
            "blocks": BLOCKS,
            "seconds": {name: round(seconds, 4) for name, seconds in median.items()},
            "whole_batch_over_it_per_round": {
                name: [round(a / b, 3) for a, b in zip(whole, seconds, strict=True)]
                for name, seconds in times.items()
            },
            "bf16_matmul_gflops": round(statistics.median(rates) / 1e9),
            "share_of_matmul_rate": round(
                operations * BATCH / median["whole batch"] / statistics.median(rates), 3
            ),
            "profile_seconds": {
                name: round(seconds, 4) for name, seconds in sorted(shares.items(), key=lambda item: -item[1])
            },
        },
    )


if __name__ == "__main__":
    main()

"""Question: is a student compiled block by block as fast as one compiled whole, and how long does each take?

EVA-X-Ti at 224 pixels, batch 32, bfloat16, forward and backward on one core. Compiling is timed up to the end
of the second pass, with torch's caches off; then both and the student as it is run in turn. All in processor
time, that of the compiler's own processes included: other work may run beside.
Start it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # torch reads them when it is imported
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()

import torch

from circumstances import keep
from evax.models.encoders import build_encoder
from evax.models.masked import MaskedImageModel
from evax.runs.device import forward_operations, maybe_compile
from pretrain_sizes import product_rate

BATCH, SIZE, HIDDEN, WIDTH, ROUNDS = 32, 224, 59, 112, 7


def student() -> MaskedImageModel:
    torch.manual_seed(0)
    return MaskedImageModel(build_encoder("eva_x_tiny_patch16_224", img_size=SIZE), WIDTH)


def whole():
    model = student()
    for block in model.encoder.blocks:
        block.attn.fused_attn = False  # as maybe_compile does
    return torch.compile(model)


def seconds_with_compiler() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    if torch.get_num_threads() != 1:
        raise SystemExit("OMP_NUM_THREADS=1 is needed: processor time of several threads is no duration.")
    films, targets = torch.randn(BATCH, 1, SIZE, SIZE), torch.randn(BATCH, HIDDEN, WIDTH)
    places = torch.stack([torch.randperm((SIZE // 16) ** 2)[:HIDDEN] for _ in range(BATCH)])
    operations = 3 * forward_operations(student(), films, places)

    def run(model) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(films, places)
        (-torch.nn.functional.cosine_similarity(predicted.float(), targets, dim=-1).mean()).backward()

    models = {
        "not compiled": student(),
        "block by block": maybe_compile(student(), "on", 0, torch.device("cpu")),
        "whole": whole(),
    }
    torch.compile(torch.nn.Linear(8, 8))(torch.randn(8, 8)).sum().backward()  # loads the compiler
    compiling, clock = {}, {}
    for name, model in models.items():
        start, wall = seconds_with_compiler(), time.perf_counter()
        run(model)
        run(model)
        compiling[name] = round(seconds_with_compiler() - start, 1)
        clock[name] = round(time.perf_counter() - wall, 1)
    times: dict[str, list[float]] = {name: [] for name in models}
    rates = []
    for _ in range(ROUNDS):
        for name, model in models.items():
            start = time.process_time()
            run(model)
            times[name].append(time.process_time() - start)
        rates.append(product_rate())
    median = {name: statistics.median(each) for name, each in times.items()}
    pairs = zip(times["whole"], times["block by block"], strict=True)
    saved = (median["not compiled"] - median["block by block"]) / (BATCH * (SIZE // 16) ** 2)  # per token
    keep(
        "compilation",
        __doc__.split("\n")[0].removeprefix("Question: "),
        {
            "seconds_until_the_second_pass_is_done": compiling,
            "the_same_on_the_clock": clock,
            "seconds_per_pass": {name: round(seconds, 3) for name, seconds in median.items()},
            "whole_over_block_by_block_per_round": [round(a / b, 3) for a, b in pairs],
            "share_of_matmul_rate": {
                name: round(operations / seconds / statistics.median(rates), 3)
                for name, seconds in median.items()
            },
            "million_tokens_that_pay_for_compiling": {
                name: round((compiling[name] - compiling["not compiled"]) / saved / 1e6, 2)
                for name in ("block by block", "whole")
            },
        },
    )


if __name__ == "__main__":
    main()

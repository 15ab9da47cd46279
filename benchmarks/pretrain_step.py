"""Question: how many crops per second does a pre-training step learn from, against a plain float32 loop?

All run the same networks (EVA-X-Ti student, efficientnet-lite0 tokenizer with random weights) on the same
crops at batch 128, and are timed in turn, round by round, so that a drifting machine hits all of them.
Between the plain loop and ours stand the steps that lead there, one at a time.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from circumstances import keep
from evax.data.loader import Batch
from evax.data.preprocess import Preprocess
from evax.models.encoders import build_encoder
from evax.models.masked import MaskedImageModel
from evax.models.tokenizers import build_tokenizer
from evax.options.pretraining import MaskedImageConfig
from evax.options.training import OptimizerConfig
from evax.pretraining.hidden_patches import hidden_positions
from evax.pretraining.step import MaskedImageLearner, masked_image_step
from evax.runs.device import matmul_seconds, maybe_compile, start_fabric
from evax.runs.optimizer import create_optimizer

BATCH, SIZE, ROUNDS = 128, 224, 5
PREPROCESS = Preprocess()
MULTIPLY_ADDS_PER_CROP = 1.2535e9


def crops(step: int, count: int = BATCH, size: int = SIZE) -> Batch:
    images = np.random.default_rng(step).integers(0, 256, (count, 1, size, size), dtype=np.uint8)
    return Batch(step=step, epochs=np.zeros(count, np.int64), films=np.arange(count), images=images)


def networks(encoder: str = "eva_x_tiny_patch16_224", size: int = SIZE):
    torch.manual_seed(0)
    tokenizer = build_tokenizer("efficientnet_lite0", image_size=size)
    model = MaskedImageModel(build_encoder(encoder, img_size=size), tokenizer.width)
    return model, tokenizer, create_optimizer(model, OptimizerConfig(), depth=12)


def our_step(
    encoder: str = "eva_x_tiny_patch16_224",
    *,
    size: int = SIZE,
    compiled: bool = True,
    fused_attention: bool = False,
):
    """The step of `evax pretrain`; compiled and fused_attention undo what it does."""
    model, tokenizer, optimizer = networks(encoder, size)
    fabric = start_fabric("auto")
    choice = "on" if compiled else "off"
    student, optimizer = fabric.setup(maybe_compile(model, choice, 0, fabric.device), optimizer)
    teacher = maybe_compile(tokenizer, choice, 0, fabric.device)
    for block in model.encoder.blocks:
        block.attn.fused_attn = fused_attention
    learner = MaskedImageLearner(student, teacher, optimizer, fabric, PREPROCESS.at(size))
    return lambda batch: masked_image_step(learner, batch, MaskedImageConfig(image_size=size), lr=1e-3)


def plain_step():
    """What one would write first: float32, eager, default memory layout."""
    model, tokenizer, optimizer = networks()
    tokenizer.features.network.to(memory_format=torch.contiguous_format)

    def step(batch: Batch) -> None:
        films = torch.from_numpy(batch.images).float() / 255
        positions = torch.from_numpy(
            hidden_positions(batch.films, batch.epochs, patches=196, ratio=0.3, seed=0)
        )
        targets = tokenizer(films).gather(1, positions[..., None].expand(-1, -1, tokenizer.width))
        predicted = model((films - PREPROCESS.mean) / PREPROCESS.std, positions)
        loss = -torch.nn.functional.cosine_similarity(predicted, targets, dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()

    return step


CASES = {
    "plain eager float32 loop": plain_step,
    "precision auto": lambda: our_step(compiled=False, fused_attention=True),
    "precision auto, compiled": lambda: our_step(fused_attention=True),
    "precision auto, compiled, attention as plain products (ours)": our_step,
}
PLAIN, *_, OURS = CASES


def peak_memory_mib() -> int:
    """Largest resident memory of this process so far; unlike getrusage's, a child does not inherit it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    if "--peak" in sys.argv:  # memory of one kind of step, alone in its process
        step = CASES[sys.argv[-1]]()
        for index in range(3):
            step(crops(index))
        sys.stdout.write(str(peak_memory_mib()))
        return
    steps = {name: make() for name, make in CASES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(ROUNDS + 2):  # two rounds to compile and warm up
        for name, step in steps.items():
            batch = crops(round_)
            start = time.perf_counter()
            step(batch)
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - start)
    peak = {
        name: int(
            subprocess.run(
                [sys.executable, __file__, "--peak", name], capture_output=True, encoding="utf-8", check=True
            ).stdout
        )
        for name in (PLAIN, OURS)
    }
    median = {name: statistics.median(times) for name, times in seconds.items()}
    bf16 = 2 * 1024**3 / matmul_seconds(torch.bfloat16)
    keep(
        "pretrain_step",
        __doc__.split("\n")[0].removeprefix("Question: "),
        {
            "batch": BATCH,
            "rounds": ROUNDS,
            "images_per_s": {name: round(BATCH / time_, 1) for name, time_ in median.items()},
            "times_the_plain_loop": {name: round(median[PLAIN] / time_, 2) for name, time_ in median.items()},
            "ours_over_plain_per_round": [
                round(p / o, 2) for o, p in zip(seconds[OURS], seconds[PLAIN], strict=True)
            ],
            "peak_memory_mib": peak,
            "fp32_matmul_gflops": round(2 * 1024**3 / matmul_seconds(torch.float32) / 1e9),
            "bf16_matmul_gflops": round(bf16 / 1e9),
            "student_share_of_bf16_matmul_rate_tokenizer_included": round(
                3 * 2 * MULTIPLY_ADDS_PER_CROP * BATCH / median[OURS] / bf16, 3
            ),
        },
    )


if __name__ == "__main__":
    main()

"""Question: how much faster is a pre-training step when the tokenizer's features come from disk?

The step of `evax pretrain` (EVA-X-Ti student) with its tokenizer at work, against the same step with the
features of fixed crops read from a memory-mapped float16 file, as a cache would. Both are timed in turn,
round by round, so that a drifting machine hits both, in processor time (run it with OMP_NUM_THREADS=1), not
compiled. Random weights and crops: the time does not depend on them.
"""

from __future__ import annotations

import statistics
import tempfile
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
from evax.pretraining.step import MaskedImageLearner, masked_image_step
from evax.runs.device import start_fabric
from evax.runs.optimizer import create_optimizer

ROUNDS, WARM_UP = 4, 1
FILMS = 2048  # in the file: larger than a processor's cache, so that rows come from memory or disk
WIDTHS = {"efficientnet_lite0": 112, "mgca_vit_base_patch16": 768}
CASES = {  # tokenizer, side of a crop, batch
    "efficientnet_lite0, 128 px": ("efficientnet_lite0", 128, 32),
    "efficientnet_lite0, 224 px": ("efficientnet_lite0", 224, 16),
    "mgca_vit_base_patch16, 224 px": ("mgca_vit_base_patch16", 224, 8),
}


def crops(step: int, size: int, batch: int) -> Batch:
    chance = np.random.default_rng(step)
    images = chance.integers(0, 256, (batch, 1, size, size), dtype=np.uint8)
    films = chance.integers(0, FILMS, batch)
    return Batch(step=step, epochs=np.zeros(batch, np.int64), films=films, images=images)


def steps_of(name: str, size: int, folder: Path):
    """One step with the tokenizer at work, one with its features from a file; both learn the same network."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(name, image_size=size)
    model = MaskedImageModel(build_encoder("eva_x_tiny_patch16_224", img_size=size), tokenizer.width)
    optimizer = create_optimizer(model, OptimizerConfig(), depth=12)
    fabric = start_fabric("auto")
    student, optimizer = fabric.setup(model, optimizer)
    shape = (FILMS, (size // 16) ** 2, tokenizer.width)
    features = np.memmap(folder / f"{name}-{size}.f16", np.float16, "w+", shape=shape)
    for film in range(FILMS):
        features[film] = 1.0

    def step(batch: Batch, source) -> None:
        learner = MaskedImageLearner(student, source, optimizer, fabric, Preprocess(input_size=size))
        masked_image_step(learner, batch, MaskedImageConfig(image_size=size), lr=1e-3)

    return {
        "tokenizer": lambda batch: step(batch, tokenizer),
        "file": lambda batch: step(batch, lambda _: torch.from_numpy(features[batch.films])),
    }


def main() -> None:
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for case, (name, size, batch_size) in CASES.items():
            seconds: dict[str, list[float]] = {"tokenizer": [], "file": []}
            steps = steps_of(name, size, Path(folder))
            for round_ in range(ROUNDS + WARM_UP):
                for source, step in steps.items():
                    batch = crops(round_, size, batch_size)
                    start = time.process_time()
                    step(batch)
                    if round_ >= WARM_UP:
                        seconds[source].append(time.process_time() - start)
            pairs = list(zip(seconds["tokenizer"], seconds["file"], strict=True))
            rates = {key: round(batch_size / statistics.median(each), 1) for key, each in seconds.items()}
            measured[case] = {
                "batch": batch_size,
                "films_per_s_of_processor_time": rates,
                "times_as_fast_with_the_file_per_round": [round(a / b, 2) for a, b in pairs],
                "times_as_fast_with_the_file": round(statistics.median(a / b for a, b in pairs), 2),
                "kilobytes_per_crop": round((size // 16) ** 2 * WIDTHS[name] * 2 / 1e3, 1),
            }
            question = __doc__.split("\n")[0].removeprefix("Question: ")
            keep("tokenizer_cache", question, {"rounds": ROUNDS, **measured})  # what is measured is kept


if __name__ == "__main__":
    main()

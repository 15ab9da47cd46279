"""Question: how many random 224-pixel crops per second and core come from a store, against PNG files?

Store: memory-mapped 8-bit image of 336 x 336 -> crop of random area and aspect, bicubic with antialias to
224 x 224 (Pillow) -> maybe mirrored -> stacked into a batch of 8-bit arrays. PNG: the same images as files,
read with Pillow, then torchvision's RandomResizedCrop (bicubic, antialias) and RandomHorizontalFlip. One
thread each, timed in turn.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.transforms import v2

from circumstances import keep
from evax.data.augment import CropConfig
from evax.data.building import build_store
from evax.data.loader import Films, training_batches
from evax.data.manifest import Manifest
from evax.data.phantom import make_phantom

FILMS, CROPS, ROUNDS = 200, 2000, 5


def films_in(folder: Path) -> Manifest:
    names = []
    for patient in range(FILMS):
        pixels = make_phantom(0, patient).pixels
        picture = Image.fromarray((pixels * 255).astype(np.uint8)).resize((336, 336))
        names.append(f"{patient}.png")
        picture.save(folder / names[-1])
    table = pd.DataFrame(
        {
            "image": names,
            "patient": names,
            "study": "",
            "view": "",
            "sex": "",
            "age": np.nan,
            "split": "train",
        }
    )
    return Manifest(table=table, findings=(), exclusive=False, source="benchmark", root=folder)


def from_store(store) -> float:
    batches = training_batches(
        Films([(store, store.rows("train"))]),
        batch_size=100, size=224, crop=CropConfig(), seed=0, steps=range(CROPS // 100), workers=1,
    )  # fmt: skip
    start = time.perf_counter()
    count = sum(len(batch.images) for batch in batches)
    return count / (time.perf_counter() - start)


def from_png(folder: Path) -> float:
    crop = v2.Compose(
        [
            v2.RandomResizedCrop(224, (0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
        ]
    )
    start = time.perf_counter()
    crops = []
    for index in range(CROPS // 10):
        picture = Image.open(folder / f"{index % FILMS}.png").convert("L")
        crops.append(np.asarray(crop(picture)))
    return len(crops) / (time.perf_counter() - start)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = build_store(films_in(folder), folder / "store")
        rates = [(from_store(store), from_png(folder)) for _ in range(ROUNDS + 1)][1:]
    ours, png = (statistics.median(column) for column in zip(*rates, strict=True))
    keep(
        "loader",
        __doc__.split("\n")[0].removeprefix("Question: "),
        {
            "store_crops_per_s_per_core": round(ours),
            "png_crops_per_s_per_core": round(png),
            "ratio": round(ours / png, 1),
            "rounds": [[round(a), round(b)] for a, b in rates],
        },
    )


if __name__ == "__main__":
    main()

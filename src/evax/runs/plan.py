"""What a training step costs on this machine, and how many of them fit into a given time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from evax.errors import ConfigError
from evax.models.encoders import EVA_X
from evax.runs.device import matmul_rate, precision_of

logger = logging.getLogger("evax")
Step = Callable[[Any], object]

QUICK = 1.0  # seconds: an estimate takes larger and larger batches until one takes so long
MEASURED = 8.0  # seconds of steps that a plan rests on
FEW_EPOCHS, FEW_STEPS = 5, 200  # with fewer, the log says what to change
SMALL, SMALL_BATCH = 128, 16  # pixels and images, to fall back to
MATMUL = 2048  # side of the matrices that speeds are compared with


class Cost(NamedTuple):
    """Of an optimizer step."""

    seconds: float
    bytes: int
    """Weights, gradients, state of the optimizer, and what is kept for the backward pass."""


def estimate_step(
    step: Step, batches: Callable[[int], Iterator[Any]], size: int, network: nn.Module, fabric: Fabric
) -> Cost:
    """Cost of a step with `size` images, from smaller ones where it is slow: time and memory grow linearly.

    step: not compiled. batches: loads two batches of so many images. network: what learns.
    """
    images, known = min(2, size), list[tuple[int, float, int]]()
    take(step, batches(images))  # sets up kernels and memory
    while True:
        with kept_bytes() as kept:
            seconds = fabric.broadcast(take(step, batches(images)))  # all processes stop at the same size
        known.append((images, seconds, sum(kept.values())))
        if images == size or (seconds > QUICK and len(known) > 1):
            break
        images = min(2 * images, size)
    weights = 4 * sum(part.numel() * part.element_size() for part in network.parameters())
    more = size - images
    if not more:
        return Cost(known[-1][1], known[-1][2] + weights)
    (few, *before), (many, *last) = known[-2:]
    slopes = [(large - small) / (many - few) for small, large in zip(before, last, strict=True)]
    seconds, kept_of_all = (value + slope * more for value, slope in zip(last, slopes, strict=True))
    return Cost(max(seconds, known[-1][1]), round(kept_of_all) + weights)


def take(step: Step, batches: Iterator[Any]) -> float:
    """Seconds of a step, while the loader makes the next batch."""
    batch = next(batches)
    start = time.perf_counter()
    step(batch)
    seconds = time.perf_counter() - start
    for _ in batches:  # ends its threads
        pass
    return seconds


@contextmanager
def kept_bytes() -> Iterator[dict[int, int]]:
    """Inside, fills what is kept for the backward pass: address -> bytes."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def seconds_per_step(step: Step, batches: Iterator[Any], fabric: Fabric) -> float:
    """Mean over some seconds of steps with the loader at work, without the first one, which may compile.

    batches: more than are needed.
    """
    step(next(batches))
    start = time.perf_counter()
    step(next(batches))
    steps = fabric.broadcast(max(2, math.ceil(MEASURED / (time.perf_counter() - start))))
    for _ in range(steps - 1):
        step(next(batches))
    return (time.perf_counter() - start) / steps


def seconds_of(action: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class Length(NamedTuple):
    """Of a training that fits into a time."""

    steps: int
    batch_size: int
    images: int
    """Of an epoch."""
    seconds: float
    """From now to its end."""

    @classmethod
    def fitting(cls, seconds: float, around: float, each: float, batch_size: int, images: int) -> Length:
        """The most steps. seconds: from now to the end, `around` of which are not for steps. each: of a step
        and what belongs to it.

        Raises ConfigError if not one fits.
        """
        if (steps := int((seconds - around) / each)) < 1:
            raise ConfigError(
                f"Not one step fits: {max(0.0, seconds):.0f} s are left, a step takes {each:.1f} s and all "
                f"else {around:.0f} s. Give more time, or a smaller batch, image size or encoder."
            )
        return cls(steps, batch_size, images, around + steps * each)

    def log(self, image_size: int, memory: int) -> None:
        """The plan, and what to change where it is a poor one. memory: of a step, in bytes."""
        views, end = self.steps * self.batch_size, datetime.now() + timedelta(seconds=self.seconds)
        epochs = views / self.images
        logger.info(
            "Plan: %s steps of %d images, %s views, %.3g epochs of %s images. Expected end %s, in %s. A step "
            "needs about %s of memory.",
            f"{self.steps:,}", self.batch_size, f"{views:,}", epochs, f"{self.images:,}", f"{end:%H:%M:%S}",
            timedelta(seconds=round(self.seconds)), size_in_words(memory),
        )  # fmt: skip
        if epochs < FEW_EPOCHS:
            smaller = f"--image-size {SMALL}" if image_size > SMALL else "a smaller --encoder"
            logger.warning("Fewer than %d epochs fit. Give more time, or %s.", FEW_EPOCHS, smaller)
        if self.steps < FEW_STEPS and self.batch_size > SMALL_BATCH:
            logger.warning(
                "Fewer than %d optimizer steps fit. --batch-size %d makes more of them.",
                FEW_STEPS, max(SMALL_BATCH, self.batch_size // 4),
            )  # fmt: skip


def check_memory(needed: int, device: torch.device, remedy: str) -> None:
    """Raises ConfigError if a step needs more memory than is free. remedy: what to do."""
    free = free_memory(device)
    if free is not None and needed > free:
        raise ConfigError(
            f"A step needs about {size_in_words(needed)} of memory, {size_in_words(free)} are free: {remedy}."
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes, None where unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    information = Path("/proc/meminfo")
    if device.type != "cpu" or not information.is_file():
        return None
    lines = dict(line.split(":") for line in information.read_text(encoding="utf-8").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def size_in_words(size: int) -> str:
    """As in 3.4 GB."""
    return f"{size / 1e9:.1f} GB"


class Row(NamedTuple):
    """Of the table of a dry run."""

    image_size: int
    encoder: str
    images_per_s: float
    bytes: int
    operations: float
    """Floating-point operations of the encoder per image of a step."""


def compared_sizes(image_size: int, encoder: str) -> list[tuple[int, str]]:
    """Image sizes and encoders of the table: those of EVA-X, and what was asked for."""
    sizes = sorted({SMALL, 224, image_size})
    pairs = [(size, name) for size in sizes for name in EVA_X if size % 16 == 0]
    return pairs if (image_size, encoder) in pairs else [*pairs, (image_size, encoder)]


def speed_table(rows: Sequence[Row], fabric: Fabric, head: str, cell: Callable[[float], float]) -> str:
    """A table in text. head, cell: of the column of lengths; cell takes images per second."""
    precision = precision_of(fabric)
    rate = fabric.world_size * matmul_rate(precision, fabric.device, MATMUL)
    lines = [("pixels", "encoder", "images/s", head, "memory", "of matrix product")]
    lines += [
        (
            str(row.image_size), row.encoder, f"{row.images_per_s:.1f}", f"{cell(row.images_per_s):.3g}",
            size_in_words(row.bytes), f"{row.images_per_s * row.operations / rate:.0%}",
        )
        for row in rows
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]
    free = free_memory(fabric.device)
    return "\n".join([
        *text,
        f"Matrix product: {MATMUL} x {MATMUL}, {precision}, {fabric.device.type}, {rate / 1e9:.0f} GFLOP/s. "
        f"Free memory: {'unknown' if free is None else size_in_words(free)}. Steps are not compiled here.",
    ])  # fmt: skip

"""Device, precision and compilation: what is used, decided by measurement, never by the processor's name."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from evax.errors import ConfigError
from evax.training.options import Compile, Precision

M = TypeVar("M", bound=nn.Module)

# Compiling costs about half a minute; below this many tokens through the student it is not earned back.
TOKENS_THAT_PAY_FOR_COMPILING = 1_500_000
FABRIC_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def start_fabric(precision: Precision) -> Fabric:
    """One process on the best device, float32 weights, autocast to bfloat16 where that is faster.

    Raises ConfigError for fp16, which scales the loss, where there is no CUDA device.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        # Fabric would use bfloat16 instead, with a warning
        raise ConfigError(
            "fp16 with loss scaling needs a CUDA device, and there is none: choose --precision bf16 or fp32."
        )
    if precision == "auto":
        precision = "bf16" if bf16_is_faster() else "fp32"
    fabric = Fabric(accelerator="auto", devices=1, precision=FABRIC_PRECISION[precision])
    fabric.launch()
    return fabric


def bf16_is_faster() -> bool:
    """Whether this machine multiplies bfloat16 matrices at least 1.5 times as fast as float32 ones; about 0.1
    s.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return matmul_seconds(torch.float32) > 1.5 * matmul_seconds(torch.bfloat16)


def matmul_seconds(dtype: torch.dtype, size: int = 1024, repeats: int = 5) -> float:
    """The shortest of a few timed square matrix products on the CPU."""
    left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    _ = left @ right  # the first call sets up the kernel
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        _ = left @ right
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def maybe_compile(module: M, choice: Compile, tokens: int, device: torch.device) -> M:
    """The module itself, or compiled for training on `device`.

    tokens: how many the student will see in this run; with "auto" it decides whether compiling is earned
    back.
    """
    if choice == "auto":
        has_compiler = shutil.which(os.environ.get("CXX", "g++")) is not None
        choice = "on" if has_compiler and tokens >= TOKENS_THAT_PAY_FOR_COMPILING else "off"
    if choice == "off":
        return module
    if device.type == "cpu":
        # Torch's fused CPU attention has a slow backward; the plain products, fused by the compiler, train
        # EVA-X-Ti a quarter faster (docs/results/pretrain-speed.md). The function computed is the same.
        for part in module.modules():
            if hasattr(part, "fused_attn"):
                setattr(part, "fused_attn", False)  # noqa: B010  # Module types its attributes
    return cast(M, torch.compile(module))


def is_compiled(module: nn.Module) -> bool:
    """Whether maybe_compile compiled it."""
    return hasattr(module, "_orig_mod")


class StopRequest:
    """Whether a signal has asked the job to stop after the step it is in."""

    signal_number = 0

    def __bool__(self) -> bool:
        return self.signal_number > 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Ctrl-C and SIGTERM inside only make the yielded request true; the second one ends the process as usual.

    A step that is broken off would leave weights and optimizer half updated: nothing to save.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        request.signal_number = number
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for number in before:
            signal.signal(number, ask)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Torch's random numbers inside depend on the key alone (seed, step); outside nothing is changed."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    with torch.random.fork_rng():
        torch.manual_seed(int(state))
        yield

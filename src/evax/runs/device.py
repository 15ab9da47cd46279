"""Device, precision and compilation: what is used, decided by measurement, never by the processor's name."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from evax.errors import EvaxError, work_not_shared
from evax.models.encoders import CPU, best_device
from evax.options.training import Compile, Precision

M = TypeVar("M", bound=nn.Module)
R = TypeVar("R")

# On one core, compiling was earned back after 90,000 tokens through a student of alike blocks, after 310,000
# through another (benchmarks/compilation.py). Several cores train faster, but do not compile faster.
TOKENS_THAT_PAY_FOR_COMPILING = 500_000


def start_fabric(precision: Precision) -> Fabric:
    """One process on the best device, float32 weights, autocast to a shorter type where that is faster.

    Raises ConfigError under torchrun: only pre-training shares its work among processes.
    """
    if (processes := processes_of_torchrun()[0]) > 1:
        raise work_not_shared(processes)
    return _launched(decided_precision(precision), devices=1, nodes=1)


def start_shared_fabric(precision: Precision) -> Fabric:
    """The same on every process that torchrun started, one device each; one process without torchrun.

    precision: not "auto"; see decided_precision.
    """
    processes, here = processes_of_torchrun()
    return _launched(precision, devices=here, nodes=processes // here)


def processes_of_torchrun() -> tuple[int, int]:
    """(all, those on this machine); (1, 1) when torchrun did not start this process."""
    if not torch.distributed.is_torchelastic_launched():
        return 1, 1
    return int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])


def decided_precision(precision: Precision, earlier: Precision | None = None) -> Precision:
    """The precision itself, or for "auto" the faster one on this machine; all processes get the same answer.

    earlier: what a run that goes on began with; a busy machine could answer differently the second time.
    """
    if precision != "auto":
        return precision
    if earlier is not None:
        return earlier
    answer: list[Precision] = ["bf16" if bf16_is_faster() else "fp32"]
    if processes_of_torchrun()[0] > 1 and not torch.cuda.is_available():  # a GPU is asked, not timed
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")  # the backend that Fabric takes on a CPU, too
        torch.distributed.broadcast_object_list(answer, src=0)
    return answer[0]


def _launched(precision: Precision, devices: int, nodes: int) -> Fabric:
    kind = best_device().type
    plugins: list[Any] = []
    if precision != "fp32":  # as an object: by name Fabric would turn fp16 on a CPU into bf16
        plugins.append(MixedPrecision("bf16-mixed" if precision == "bf16" else "16-mixed", kind))
    fabric = Fabric(
        accelerator=kind,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        plugins=plugins,
    )
    fabric.launch()
    return fabric


def precision_of(fabric: Fabric) -> Precision:
    """What the run computes in."""
    names: dict[str, Precision] = {"bf16-mixed": "bf16", "16-mixed": "fp16"}
    return names.get(fabric.strategy.precision.precision, "fp32")


def on_first_process(fabric: Fabric, action: Callable[[], R]) -> R | None:
    """What the action returns on the first process, None on the others, which wait for it.

    An EvaxError of the action is raised on all of them, so that none is left waiting.
    """
    result, error = None, None
    if fabric.is_global_zero:
        try:
            result = action()
        except EvaxError as caught:
            error = caught
    error = fabric.broadcast(error)
    if error is not None:
        raise error
    return result


def bf16_is_faster() -> bool:
    """Whether this machine multiplies bfloat16 matrices at least 1.5 times as fast as float32 ones; about 0.1
    s.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return matmul_seconds(torch.float32) > 1.5 * matmul_seconds(torch.bfloat16)


def matmul_rate(precision: Precision, device: torch.device) -> float:
    """Floating-point operations per second of this process's device in a plain matrix product."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    size = 1024 if device.type == "cpu" else 8192
    return 2 * size**3 / matmul_seconds(dtype, size, device=device)


def forward_operations(network: nn.Module, *inputs: torch.Tensor) -> int:
    """Floating-point operations of one forward pass, counted while it runs."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **options: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    # torch counts other fused attentions, not the CPU's
    mapping: Any = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        network(*inputs)
    return int(counter.get_total_flops())


def matmul_seconds(
    dtype: torch.dtype, size: int = 1024, repeats: int = 5, device: torch.device = CPU
) -> float:
    """The shortest of a few timed square matrix products."""
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    _ = left @ right  # the first call sets up the kernel
    seconds = []
    for _ in range(repeats):
        _wait_for(device)
        start = time.perf_counter()
        _ = left @ right
        _wait_for(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def maybe_compile(module: M, choice: Compile, tokens: int, device: torch.device) -> M:
    """The module itself, or compiled for training on `device`: block by block where its blocks are alike.

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
    # twelve blocks that are alike are compiled once: as fast as the whole, in a third of the time
    if blocks := alike_blocks(module):
        for block in blocks:
            block.compile(dynamic=False)
        return module
    return cast(M, torch.compile(module, dynamic=False))


def alike_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of the transformer in the module, if one compilation serves all; else none.

    Blocks that differ in anything, as in their drop path, would each be compiled anew.
    """
    for name, part in module.named_modules():
        if name.split(".")[-1] == "blocks" and len({repr(block) for block in part.children()}) == 1:
            return list(part.children())
    return []


def is_compiled(module: nn.Module) -> bool:
    """Whether maybe_compile compiled it or its blocks."""
    parts = (module, *module.modules())
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in parts)


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, what maybe_compile compiled runs as it is written: looking at a few images of another batch size
    is no reason to compile anew.
    """
    return torch.compiler.set_stance("force_eager")


class StopRequest:
    """Whether a signal has asked the job to stop after the step it is in."""

    received = 0  # by this process; one that comes while the processes agree counts at their next agreement
    signal_number = 0  # agreed on by all processes

    def __bool__(self) -> bool:
        return self.signal_number > 0

    def agree(self, fabric: Fabric) -> None:
        """Makes a signal that any process got known to all of them, so that they stop at the same step."""
        number = self.received
        if fabric.world_size > 1:
            shared = fabric.to_device(torch.tensor(number))
            number = int(fabric.all_reduce(shared, reduce_op=torch.distributed.ReduceOp.MAX))
        self.signal_number = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside, Ctrl-C and SIGTERM only make the yielded request true, once the processes agree on it; a second
    one ends the process as usual.

    A step that is broken off would leave weights and optimizer half updated: nothing to save. Under torchrun
    a second signal means nothing (a terminal and torchrun both pass Ctrl-C on); it kills after 30 s.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        request.received = number
        if processes_of_torchrun() == (1, 1):
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

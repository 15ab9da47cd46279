"""The log of a pre-training: speed, time left, probes, and a warning if it collapses."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from evax.models.masked import MaskedImageModel
from evax.pretraining.probe import ProbeResult
from evax.runs.device import forward_operations, matmul_rate, precision_of
from evax.runs.log import RunLog

logger = logging.getLogger("evax")

# A collapsed student predicts the same for every patch: spread 0, features on one line (RankMe 1). So does a
# healthy one at first, when it has learned the mean of the features: only later steps count.
LEAST_SPREAD, LEAST_RANKME = 0.02, 1.5
STEPS_OF_SPREAD = 50


class Watch:
    """Writes the log and composes the terminal's status text.

    steps: of the whole run. first: done before this process. operations, rate: see measure_speed.
    """

    def __init__(self, log: RunLog, steps: int, first: int, operations: float, rate: float) -> None:
        self._log = log
        self._steps, self._first = steps, first
        self._operations, self._rate = operations, rate
        self._start, self._spreads = time.monotonic(), deque[float](maxlen=STEPS_OF_SPREAD)
        self._warned, self._news, self._probed = False, "", ""

    def news(self) -> str:
        """Status text: the latest step and probe, two lines and one."""
        return self._news + self._probed

    def step(self, done: int, epoch: int, images: int, measured: dict[str, float]) -> None:
        """done: finished steps. epoch: of the step's first image. images: crops so far. measured: of
        masked_image_step.
        """
        pace = (time.monotonic() - self._start) / (done - self._first)
        facts = measured | {
            "matmul_share": measured["images_per_s"] * self._operations / self._rate,
            "left_s": round(pace * (self._steps - done), 1),
        }
        self._write("step", done, {"epoch": epoch, "images": images}, facts)
        self._news = (
            "cosine {cosine:.3f}, spread {spread:.2f}, gradient norm {grad_norm:.2g}, lr {lr:.1e}\n"
            "{images_per_s:.0f} images/s, {matmul_share:.0%} of the speed of a plain matrix product"
        ).format_map(facts)
        if done > self._steps / 2:
            self._spreads.append(measured["spread"])
        if len(self._spreads) == STEPS_OF_SPREAD and np.mean(self._spreads) < LEAST_SPREAD:
            self._warn(
                done,
                f"the predictions are nearly the same for every patch (spread {np.mean(self._spreads):.3f} "
                f"over the last {STEPS_OF_SPREAD} steps, at least {LEAST_SPREAD} expected)",
            )

    def probe(self, step: int, images: int, result: ProbeResult) -> None:
        """step, images: how far the run was."""
        self._write("probe", step, {"images": images}, result.to_json())
        self._probed = (
            f"\nafter step {step}: kNN AUC {result.knn_auc:.3f}, linear probe {result.linear_auc:.3f}, "
            f"RankMe {result.rankme:.1f}"
        )
        if step > self._steps / 2 and not result.rankme >= LEAST_RANKME:  # NaN: all features are 0
            self._warn(
                step,
                f"the features of all images lie nearly on one line (RankMe {result.rankme:.2f}, at least "
                f"{LEAST_RANKME} expected)",
            )

    def _write(self, event: str, step: int, place: dict[str, Any], facts: dict[str, Any]) -> None:
        known = {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in facts.items()
        }
        self._log.write(event, step=step, **place, **known)

    def _warn(self, step: int, sign: str) -> None:
        if not self._warned:
            self._warned = True
            self._log.write("collapse", step=step, sign=sign)
            logger.warning(
                "Step %d: the run seems to have collapsed: %s. Stop it and start again with a lower "
                "--optimizer.lr.", step, sign,
            )  # fmt: skip


def measure_speed(
    model: MaskedImageModel, fabric: Fabric, image_size: int, hidden: int
) -> tuple[float, float]:
    """Floating-point operations of a training step per image, and the operations per second of all processes'
    devices together in a matrix product.

    image_size: side of a crop in pixels. hidden: patches per crop.
    """
    rate = fabric.world_size * matmul_rate(precision_of(fabric), fabric.device)
    return step_operations(model, image_size, hidden), rate


def step_operations(model: MaskedImageModel, image_size: int, hidden: int) -> float:
    """The first of measure_speed."""
    image, positions = torch.zeros(1, 1, image_size, image_size), torch.arange(hidden)[None]
    return 3 * forward_operations(model, image, positions)  # backward: twice the forward pass


def training_summary(log: RunLog) -> dict[str, Any]:
    """Final cosine (mean of the last 20 steps), first and last probe; the same for equal runs.

    Of a step that was repeated after a resume, the last line counts.
    """
    steps, probes = (last_of_each_step(log.events(event)) for event in ("step", "probe"))
    last = steps[-20:]
    return {
        "final_cosine": sum(line["cosine"] for line in last) / len(last),
        "knn_auc_first": probes[0]["knn_auc"] if probes else None,
        "knn_auc_last": probes[-1]["knn_auc"] if probes else None,
        "linear_auc_last": probes[-1]["linear_auc"] if probes else None,
        "rankme_last": probes[-1]["rankme"] if probes else None,
    }


def images_per_s(log: RunLog) -> float:
    """Mean speed of all steps but the first; of a repeated step the last line counts."""
    rates = [line["images_per_s"] for line in last_of_each_step(log.events("step"))]
    return harmonic_mean(rates[1:] or rates)


def last_of_each_step(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines in the order of their steps, the last one of each."""
    last = {line["step"]: line for line in lines}
    return [last[step] for step in sorted(last)]


def log_final_probe(probes: Sequence[dict[str, Any]], page: Path) -> None:
    """Logs the final scores of the features, and where the page is."""
    scores = ""
    if probes:
        named = {"kNN AUC": "knn_auc", "linear probe": "linear_auc", "RankMe": "rankme"}
        last = {name: probes[-1].get(key) for name, key in named.items()}
        shown = ", ".join(f"{name} {value:.3f}" for name, value in last.items() if value is not None)
        scores = f"After step {probes[-1]['step']}: {shown}. "
    logger.info("%sPage: %s", scores, page)

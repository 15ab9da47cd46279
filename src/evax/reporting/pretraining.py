"""Runs of `evax pretrain` beside each other: what was learned after how many images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, ScalarFormatter

from evax.errors import DataError
from evax.reporting.drawing import QUIET, STYLE, add_legend, curve_style, means_of_stretches, save_figure
from evax.reporting.run_files import numbers, read_log

STRETCHES = 60  # the cosine of single steps is noisy: means of so many stretches of a run are drawn
PANELS = (("probe", "knn_auc", "kNN mean AUC"), ("step", "cosine", "cosine with its tokenizer"))


def draw_pretraining_runs(runs: Sequence[Path], stem: Path, names: Sequence[str] = ()) -> None:
    """STEM.svg and STEM.png: kNN AUC of the frozen features, and cosine with the tokenizer, over images seen.

    runs: run folders, finished or not. names: what each is called, else its folder's name. Cosines with
    different tokenizers are no common measure; the kNN AUC on one probe store is.
    Raises DataError for a folder without steps or probes, and for runs that were probed on different stores.
    """
    if names and len(names) != len(runs):
        raise DataError(f"{len(runs)} runs were given with {len(names)} names: give one each.")
    logs = [read_log(run / "log.jsonl") for run in runs]
    for run, log in zip(runs, logs, strict=True):
        if not {"step", "probe"} <= log.keys():
            raise DataError(f"{run} holds no probed pre-training: run evax pretrain with --probe-store.")
    stores = [yaml.safe_load((run / "config.yaml").read_text())["probe_store"] for run in runs]
    if other := next((i for i, store in enumerate(stores) if store != stores[0]), None):
        raise DataError(
            f"{runs[0]} was probed on {stores[0]}, {runs[other]} on {stores[other]}: draw them in two "
            "figures."
        )
    save_figure(_figure(names or [run.name for run in runs], logs), stem)


def _figure(names: Sequence[str], logs: Sequence[dict[str, pd.DataFrame]]) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.2 + 0.28 * len(names)), layout="constrained", facecolor="none")
        for axes, (event, key, title) in zip(figure.subplots(1, 2), PANELS, strict=True):
            for number, (name, log) in enumerate(zip(names, logs, strict=True)):
                images, values = numbers(log[event], "images"), numbers(log[event], key)
                images, values = images[np.isfinite(values)], values[np.isfinite(values)]
                if event == "step":
                    images, values = means_of_stretches(images, values, STRETCHES)
                label = name if event == "probe" else None
                axes.plot(
                    images, values, label=label, linewidth=2, markersize=6,
                    markevery=1 if event == "probe" else 10, **curve_style(number),
                )  # fmt: skip
            if event == "probe":
                axes.axhline(0.5, color=QUIET, linestyle="--", linewidth=1)
            axes.set(xlabel="images seen", ylabel=title)
            axes.tick_params(length=0, pad=6)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))  # digits from the tick step
        add_legend(figure)
    return figure

"""evax compare: finished runs -> table, figures and page; on the same test images with paired differences."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from evax.comparison.page import (
    MOST,
    draw_figures,
    write_compare_page,
    write_figure,
    write_table,
    write_tables,
)
from evax.comparison.pretrainings import (
    differing_recipes,
    points_of,
    pretraining_figure,
    pretraining_rows,
    probe_path,
    probe_store_of,
    read_curves,
    write_pretraining_page,
)
from evax.comparison.read import Entry, Runs, kind_alone, read_runs
from evax.comparison.score import differences_of, ground_in_words, rows_of
from evax.comparison.segmentations import (
    read_segmentations,
    segmentation_differences,
    segmentation_rows,
    write_segmentation_page,
)
from evax.config import job
from evax.errors import ConfigError, DataError, unknown_name
from evax.evaluation.networks import Ground, score_network
from evax.evaluation.published import published_beside
from evax.files import write_json
from evax.options.results import CompareConfig
from evax.runs.environment import environment
from evax.runs.files import agreed, read_log
from evax.runs.log import run_folder
from evax.runs.progress import progress_bar

FORMAT = 1


@job(CompareConfig)
def compare(config: CompareConfig) -> Path:
    """Scores, compares, draws; returns the path of compare.html.

    Raises DataError for folders without a finished run and for runs that were not tested on the same images
    under the same protocol, ConfigError for names that do not fit and for pre-trainings among other runs.
    """
    if kind := kind_alone(config.runs):
        return {"pretrain": compare_pretrainings, "segment": compare_segmentations}[kind](config)

    runs = read_runs(config.runs, config.names)
    check_number(runs)
    references = references_of(runs.entries, config.reference)
    published = [row for table in config.published for row in published_beside(table, runs.findings)]
    with run_folder(config.out, config) as log:
        learned_by_all = np.all([entry.learned for entry in runs.entries], axis=0)  # (K,)
        if not learned_by_all.any():
            raise DataError(
                "No finding was learned by all rows: there is nothing to take a mean over. Leave out the "
                "smallest shares of the labels, or learn from more patients."
            )
        ground = Ground(
            runs.labels, runs.test.patients, runs.exclusive, config.resamples, config.seed, learned_by_all
        )
        with progress_bar(
            "resampling patients", sum(len(entry.trainings) for entry in runs.entries)
        ) as advance:
            scored = [
                score_network(
                    [training.test.probabilities for training in entry.trainings],
                    [training.thresholds for training in entry.trainings],
                    entry.learned,
                    ground,
                    on_training=lambda: advance(""),
                )
                for entry in runs.entries
            ]
        timing = {
            "repeats": config.repeats, "threads": config.threads, "batch": 1, "precision": "float32",
            "load_before": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        }  # fmt: skip
        rows = rows_of(
            runs, scored, costs_of(runs, config.repeats, config.threads), ground, config.prevalence
        )
        differences = differences_of(runs.entries, scored, references, ground)
        content = {
            "kind": "compare",
            "format": FORMAT,
            **ground_in_words(runs, references, ground),
            "rows": rows,
            "differences": differences,
            "published": [asdict(row) for row in published],
            "timing": timing,
            "environment": environment(),
        }
        write_json(content, config.out / "compare.json")
        write_tables(content, config.out)
        page = config.out / "compare.html"
        write_compare_page(page, content, draw_figures(content, runs.sweeps, published, config.out))
        log.write("compared", rows=len(rows), differences=len(differences))
    return page


def compare_pretrainings(config: CompareConfig) -> Path:
    """Cosine, probes, views and time of runs of pretrain, and their curves; returns the path of compare.html.

    Raises ConfigError for options that mean nothing here, DataError for runs that were not probed, or on
    different stores.
    """
    check_all_used(config, "Pre-trainings are shown as they are, with no test images to resample")
    rows, first = pretraining_rows(config.runs, config.names), config.runs[0]
    curves = read_curves(config.runs, [row["name"] for row in rows])
    with run_folder(config.out, config) as log:
        content = {
            "kind": "compare-pretrainings",
            "format": FORMAT,
            "probe_store": probe_path(first),
            "probe_fingerprint": probe_store_of(first, read_log(first / "log.jsonl")),
            "recipe_differs": differing_recipes(config.runs),
            "rows": rows,
            "environment": environment(),
        }
        write_json(content, config.out / "compare.json")
        write_table(rows, config.out / "compare.csv")
        figure, page = pretraining_figure(curves), config.out / "compare.html"
        write_figure(figure, points_of(curves), config.out / "pretrainings")
        write_pretraining_page(page, content, figure)
        log.write("compared", rows=len(rows))
    return page


def compare_segmentations(config: CompareConfig) -> Path:
    """Dice of runs of segment on the same test images, paired differences; returns the path of compare.html.

    Raises ConfigError for options that mean nothing here, DataError for runs that are not comparable.
    """
    check_all_used(config, "Segmentations are compared by their masks", "reference", "resamples", "seed")
    runs = read_segmentations(config.runs, config.names)
    differences = segmentation_differences(runs, config.reference, config.resamples, config.seed)
    with run_folder(config.out, config) as log:
        content = {
            "kind": "compare-segmentations",
            "format": FORMAT,
            "data_fingerprint": runs[0].report["data_fingerprint"],
            "test": runs[0].report["test"],
            "protocol": agreed([run.report["protocol"] for run in runs]),
            "resamples": config.resamples,
            "rows": segmentation_rows(runs),
            "differences": differences,
            "environment": environment(),
        }
        write_json(content, config.out / "compare.json")
        page = write_segmentation_page(config.out, content)
        log.write("compared", rows=len(runs), differences=len(differences))
    return page


def check_all_used(config: CompareConfig, why: str, *used: str) -> None:
    """Raises ConfigError for options that mean nothing for these runs, and for too few or too many of them.

    used: options that mean something, besides runs, out and names.
    """
    given = [
        item.name
        for item in fields(CompareConfig)
        if item.name not in ("runs", "out", "names", *used) and getattr(config, item.name) != item.default
    ]
    if given:
        raise ConfigError(f"{why}: leave out {', '.join('--' + name for name in given)}.")
    if not 2 <= len(config.runs) <= MOST:
        raise ConfigError(f"compare takes 2 to {MOST} such runs, got {len(config.runs)}.")


def check_number(runs: Runs) -> None:
    """Raises ConfigError for a single row, or for more than the figures can tell apart."""
    if not 2 <= len(runs.entries) <= MOST:
        raise ConfigError(
            f"These runs make {len(runs.entries)} rows (a sweep makes one per share of the labels, a probe "
            "two in place of one); "
            f"compare takes 2 to {MOST}."
        )


def references_of(entries: Sequence[Entry], name: str) -> list[int | None]:
    """For each row, the number of the row it is compared with; None for the reference and rows without one.

    A sweep as reference is compared share by share, a probe way by way (a fine-tuning with its linear probe);
    within it, its smaller shares with its largest, nearest neighbours with the linear probe.
    Raises ConfigError for a name that no run has.
    """
    names = list(dict.fromkeys(entry.run for entry in entries))
    if name and name not in names:
        raise unknown_name("run", name, names)
    mine = [number for number, entry in enumerate(entries) if entry.run == (name or names[0])]
    first = [number for number in mine if entries[number].way == entries[mine[0]].way]
    largest = max(first, key=lambda number: entries[number].fraction)
    found: list[int | None] = []
    for number, entry in enumerate(entries):
        if number in mine and len(names) > 1:
            found.append(None)  # rows of their own among other runs, not rivals of each other
        elif number in first:
            found.append(largest if number != largest else None)
        else:
            alike = [] if number in mine else [other for other in mine if entries[other].way == entry.way]
            rivals = alike or first
            same = [other for other in rivals if entries[other].fraction == entry.fraction]
            found.append(same[0] if same else rivals[0] if len(rivals) == 1 else None)
    return found


def costs_of(runs: Runs, repeats: int, threads: int) -> list[dict[str, Any]]:
    """Parameters, multiply-adds and time of each row's classifier; rows of one kind are timed once.

    Of nearest neighbours the encoder's: what a vote costs is a matter of the images that vote. Their time is
    that of the linear probe on the same encoder, which two clocks would set apart for no reason.
    The time is None with no repeats.
    """
    from evax.models.cost import Head, Kind, milliseconds_per_film, size_of  # torch, after all refusals

    heads: dict[str | None, Head] = {None: "norm, linear", "linear": "linear", "knn": "none"}
    kinds = [
        Kind(
            entry.report["encoder"],
            entry.report["recipe"]["image_size"],
            len(runs.findings),
            heads[entry.way],
        )
        for entry in runs.entries
    ]
    sizes = {kind: size_of(kind) for kind in dict.fromkeys(kinds)}
    timed = [kind._replace(head="linear") if kind.head == "none" else kind for kind in kinds]
    times = milliseconds_per_film(list(dict.fromkeys(timed)), repeats, threads) if repeats else {}
    return [
        sizes[kind]._asdict() | {"cpu_ms_per_film": times.get(clock)}
        for kind, clock in zip(kinds, timed, strict=True)
    ]

"""evax probe: how good are frozen features? A linear probe and a vote of neighbours, tested once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from evax.adaptation.data import (
    LabelPoint,
    ProbeData,
    check_call,
    label_points,
    load_probe_data,
    warn_if_constant,
)
from evax.adaptation.protocol import strength_chosen_on
from evax.adaptation.study import (
    StudyRuns,
    check_finished_runs,
    continue_study,
    make_once,
    run_is_finished,
    save_study,
    study_card,
    study_folder,
)
from evax.config import job
from evax.data.labelled import data_fingerprint
from evax.deploy.bundle import log_other_size
from evax.errors import ConfigError
from evax.evaluation.study_rows import RUNS, WAYS, describe_spread, row_of_probe, summarize_points
from evax.files import read_json
from evax.options.studies import SEEDS, ProbeConfig
from evax.options.training import Precision
from evax.runs.log import run_folder

SINGLE: dict[str, Any] = {"fractions": (), "counts": (), "seeds": (), "name": "", "resume": False}


@job(ProbeConfig)
def probe(config: ProbeConfig) -> Path:
    """Returns the path of report.json, or of a sweep's linear.json.

    Raises DataError for a store without labels or an empty split, or test images that the encoder was
    pre-trained on, WeightsError for weights that do not fit.
    """
    start = time.perf_counter()
    sweeps = bool(config.fractions or config.counts or config.resume)
    check_call(config, config.resume if sweeps else None)
    data = load_probe_data(config)
    log_other_size(config.weights, config.image_size)
    if sweeps:
        warn_if_constant(data.findings, data.labels[data.pool], "training images")
        return sweep(config, data)
    train = data.draw(config)
    warn_if_constant(data.findings, data.labels[train], "training images")

    from evax.adaptation.examine import log_failed_checks  # torch from here on
    from evax.adaptation.probe import encode_splits, probe_and_test
    from evax.pages.result_line import log_test_scores
    from evax.weights.encoders import digest_of_weights

    with run_folder(config.out, config, resume=None) as log:
        encoded = encode_splits(config, data, train, log)
        digest = digest_of_weights(config.encoder, config.weights)
        report = probe_and_test(config, data, encoded, digest, start)
    log_test_scores([config.out / "report.json"])
    log_failed_checks(report["checks"])
    return config.out / "report.json"


def sweep(config: ProbeConfig, data: ProbeData) -> Path:
    """Probes on parts of the labels, OUT/runs/*; curves in linear.json and knn.json, as of evax fewshot.

    The images are encoded once, into OUT/features-*.npy, except with random weights, which each seed draws
    anew. A seed only draws other patients, so on all labels there is one run.
    """
    from evax.adaptation.probe import encode_splits, probe_and_test  # torch from here on
    from evax.weights.encoders import digest_of_weights

    study = continue_study(config, ("fractions", "counts", "seeds"))
    study = replace(study, seeds=study.seeds or SEEDS)
    points = label_points(study, study.fractions, study.counts)
    digest = digest_of_weights(study.encoder, study.weights)
    runs = {point: runs_at(study, point) for point in points}
    every = list(chain.from_iterable(runs.values()))
    with study_folder(study) as log:

        def make(run: ProbeConfig) -> Path:
            start, drawn = time.perf_counter(), study.seeds[0] if study.weights else run.seed
            of = f"{data_fingerprint(data.store, study.split)}-{digest or f'seed-{drawn}'}"
            cache = study.out / f"features-{of}.npy"
            encoded = encode_splits(replace(run, seed=drawn), data, data.pool, log, cache)
            with run_folder(run.out, run, resume=None):
                probe_and_test(run, data, encoded.only(data.draw(run)), digest, start)
            return run.out

        check_finished_runs(every, data.store, digest)
        check_same_choice(every, strength_chosen_on(data.store.manifest.exclusive))
        making = StudyRuns(study, every, partial(make_once, make=make))
        reports = {
            point: [making.report(run, f"{point.in_words()}, seed {run.seed}") for run in each]
            for point, each in runs.items()
        }
    contents = {way: content_of(study, way, reports, config.precision) for way in WAYS}
    return save_study(study.out, contents)[0]


def runs_at(study: ProbeConfig, point: LabelPoint) -> list[ProbeConfig]:
    """The probes of one amount of labels."""
    seeds = study.seeds[:1] if study.weights and point.fraction == 1 else study.seeds
    folders = {seed: study.out / RUNS / f"{point.folder()}-seed-{seed}" for seed in seeds}
    return [
        replace(study, **SINGLE, out=folder, seed=seed, **point.options()) for seed, folder in folders.items()
    ]


def content_of(
    study: ProbeConfig, way: str, reports: dict[LabelPoint, list[dict[str, Any]]], asked: Precision
) -> dict[str, Any]:
    """The result of a sweep for one of its two classifiers, a key of WAYS. asked: see study_card."""
    every, spread = list(chain.from_iterable(reports.values())), describe_spread(len(study.seeds), "seeds")
    card = study_card(study, "probe", asked, every, spread=spread)
    if way == "knn":
        card["protocol"].pop("strength_chosen_on", None)
    rows = [(asdict(point), [row_of_probe(each, way) for each in some]) for point, some in reports.items()]
    return card | {"name": f"{card['name']}, {WAYS[way]}", "way": WAYS[way]} | summarize_points(rows)


def check_same_choice(runs: Sequence[ProbeConfig], chosen_on: str) -> None:
    """Raises ConfigError for finished probes of an older evax that chose the strength on something else."""
    for path in [run.out / "report.json" for run in runs if run_is_finished(run)]:
        if (before := read_json(path)["protocol"]["strength_chosen_on"]) != chosen_on:
            raise ConfigError(
                f"{path.parent} was made by an older evax, which chose the strength on {before}; this one "
                f"chooses it on {chosen_on}. Choose another --out, or delete that folder."
            )

"""evax probe: how good are frozen features? A linear probe and a vote of neighbours, tested once."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evax.adaptation.shares import LabelPoint, label_points
from evax.adaptation.study import (
    continued,
    finished_of,
    refuse_at_once,
    refuse_one_sided,
    refuse_other_run,
    refuse_untaught_class,
    report_of,
    study_folder,
    tell_finished,
    warn_of_untaught,
)
from evax.config import job
from evax.errors import ConfigError
from evax.evaluation.study_rows import (
    RUNS,
    WAYS,
    row_of_probe,
    shares_summed_up,
    spread_in_words,
    write_points,
)
from evax.options.studies import SEEDS, ProbeConfig

if TYPE_CHECKING:
    import numpy as np

    from evax.adaptation.features import EncodedFilms
    from evax.data.store import ImageStore
    from evax.runs.log import RunLog

ONE: dict[str, Any] = {
    "fractions": (),
    "counts": (),
    "seeds": (),
    "name": "",
    "resume": False,
}  # a probe of its own


@job(ProbeConfig)
def probe(config: ProbeConfig) -> Path:
    """Returns the path of report.json, or of a sweep's linear.json.

    Raises DataError for a store without labels or an empty split, or test films that the encoder was
    pre-trained on, WeightsError for weights that do not fit.
    """
    from evax.data.labelled import LabelShare, known_labels, split_rows, with_findings
    from evax.data.store import open_store
    from evax.deploy.bundle import note_other_size, refuse_seen_films
    from evax.runs.log import run_folder

    start = time.perf_counter()
    sweeps = bool(config.fractions or config.counts or config.resume)
    refuse_at_once(config, config.resume if sweeps else None)
    store = with_findings(open_store(config.store), config.findings)
    labels = known_labels(store, config.uncertain, config.blank, config.uncertain_ones)
    pool, val, test = split_rows(store, config.split, config.split_by)
    refuse_seen_films(config.weights, store, test)
    findings = store.manifest.findings
    refuse_one_sided(findings, labels[val], "validation split")
    if store.manifest.exclusive:
        refuse_untaught_class(findings, labels[pool], f"train split of {store.path}")
    note_other_size(config.weights, config.image_size)
    if sweeps:
        warn_of_untaught(findings, labels[pool], "training films")
        asked, config = config.precision, continued(config, config.resume, ("fractions", "counts", "seeds"))
        return sweep(replace(config, seeds=config.seeds or SEEDS), store, labels, pool, val, test, asked)
    from evax.adaptation.examine import tell
    from evax.adaptation.probe import measure  # matplotlib only now
    from evax.pages.result_line import tell_result
    from evax.weights.encoders import digest_of_weights

    share = LabelShare(config.label_fraction, config.label_count, labels if config.stratified else None)
    train = share.draw(store, pool, config.seed)
    warn_of_untaught(findings, labels[train], "training films")
    with run_folder(config.out, config, resume=None) as log:
        report = measure(
            config,
            store,
            *encoded(config, store, labels, (train, val, test), log),
            neighbours=config.neighbours,
            labels=labels,
            weights_digest=digest_of_weights(config.encoder, config.weights),
            start=start,
        )
    tell_result([config.out / "report.json"])
    tell(report["checks"])
    return config.out / "report.json"


def sweep(
    config: ProbeConfig,
    store: ImageStore,
    labels: np.ndarray[Any, Any],
    pool: np.ndarray[Any, Any],
    val: np.ndarray[Any, Any],
    test: np.ndarray[Any, Any],
    asked: str,
) -> Path:
    """Probes on parts of the labels, OUT/runs/*; curves in linear.json and knn.json, as of evax fewshot.
    asked: see study_card.

    The films are encoded once, into OUT/features-*.npy, but for random weights, which each seed draws anew. A
    seed only draws patients otherwise, so on all labels there is one run.
    """
    from evax.adaptation.probe import measure, strength_chosen_on
    from evax.adaptation.protocol import study_card
    from evax.data.labelled import LabelShare, data_fingerprint
    from evax.files import write_json
    from evax.pages.few_labels import draw_few_labels
    from evax.pages.result_line import tell_result
    from evax.pages.study import write_study_page
    from evax.runs.files import agreed
    from evax.runs.log import run_folder
    from evax.weights.encoders import digest_of_weights

    points = label_points(config, config.fractions, config.counts)
    fingerprint = data_fingerprint(store, config.split)
    weights = digest_of_weights(config.encoder, config.weights)
    asked_for = {
        point: [
            replace(
                config, **ONE, out=config.out / RUNS / f"{point.folder()}-seed-{seed}", seed=seed,
                **point.options(),
            )
            for seed in (config.seeds[:1] if config.weights and point.fraction == 1 else config.seeds)
        ]
        for point in points
    }  # fmt: skip
    with study_folder(config, config.resume) as log:

        def learn_and_test(run: ProbeConfig) -> Path:
            start, drawn = time.perf_counter(), config.seeds[0] if config.weights else run.seed
            cache = config.out / f"features-{fingerprint}-{weights or f'seed-{drawn}'}.npy"
            pooled, *others = encoded(replace(run, seed=drawn), store, labels, (pool, val, test), log, cache)
            share = LabelShare(run.label_fraction, run.label_count, labels if run.stratified else None)
            with run_folder(run.out, run, resume=None):
                measure(
                    run,
                    store,
                    pooled.only(share.draw(store, pool, run.seed)),
                    *others,
                    neighbours=run.neighbours,
                    labels=labels,
                    weights_digest=weights,
                    start=start,
                )
            return run.out

        for runs in asked_for.values():
            for run in runs:
                refuse_other_run(run, fingerprint, weights, needs_bundle=False)
                refuse_other_choice(run, strength_chosen_on(store.manifest.exclusive))
        every = [(point, run) for point, runs in asked_for.items() for run in runs]
        if config.resume:
            tell_finished(config.out, finished_of([run for _, run in every]), len(every))
        reports: dict[LabelPoint, list[dict[str, Any]]] = {point: [] for point in points}
        for number, (point, run) in enumerate(every, start=1):
            place = f"run {number} of {len(every)}: {point.in_words()}, seed {run.seed}"
            reports[point].append(report_of(run, learn_and_test, keep_bundle=True, place=place))
    for way in WAYS:
        scored = {point: [row_of_probe(report, way) for report in reports[point]] for point in points}
        summed = shares_summed_up([(asdict(point), rows) for point, rows in scored.items()])
        card = study_card(
            config, "probe", fingerprint, name=config.name, leaks=config.split_by == "film",
            asked=asked, spread=spread_in_words(len(config.seeds), "seeds"),
        )  # fmt: skip
        said = [report["protocol"] for each in reports.values() for report in each]
        same = agreed(said)
        if way == "knn":
            same.pop("strength_chosen_on", None)
        card["protocol"] = same | card["protocol"]
        card |= {"name": f"{card['name']}, {WAYS[way]}", "way": WAYS[way]}
        write_json(card | summed, config.out / f"{way}.json")
        write_points(summed["points"], config.out / f"{way}.csv")
    results = [config.out / f"{way}.json" for way in WAYS]
    draw_few_labels(results, config.out / "probe")
    write_study_page(results)
    tell_result(results)
    return config.out / "linear.json"


def refuse_other_choice(run: ProbeConfig, chosen_on: str) -> None:
    """Raises ConfigError for a finished probe whose strength was chosen otherwise, by an older evax.

    chosen_on: see `strength_chosen_on`.
    """
    from evax.files import read_json

    if not (path := run.out / "report.json").is_file():
        return
    if (before := read_json(path)["protocol"]["strength_chosen_on"]) != chosen_on:
        raise ConfigError(
            f"{run.out} was made by an older evax, which chose the strength on {before}, and this one "
            f"chooses it on {chosen_on}. One sweep cannot hold both: choose another --out, or delete that "
            "folder."
        )


def encoded(
    config: ProbeConfig,
    store: ImageStore,
    labels: np.ndarray[Any, Any],
    rows: tuple[np.ndarray[Any, Any], ...],
    log: RunLog,
    cache: Path | None = None,
) -> list[EncodedFilms]:
    """One pass of the frozen encoder over the films of all parts. cache: a file that keeps what it gave."""
    import numpy as np

    from evax.adaptation.features import EncodedFilms, film_features
    from evax.deploy.bundle import starting_preprocess
    from evax.files import replaced_whole
    from evax.runs.device import seeded, start_fabric
    from evax.runs.progress import progress_bar
    from evax.weights.encoders import create_encoder

    films = np.concatenate(rows)
    if cache and cache.is_file():
        features = np.load(cache, allow_pickle=False)
    else:
        preprocess = starting_preprocess(config.encoder, config.weights, store, config.image_size)
        with seeded(config.seed):
            encoder = create_encoder(config.encoder, config.weights, img_size=config.image_size)
        fabric = start_fabric(config.precision)
        with progress_bar("features", len(films)) as advance:
            features = film_features(
                fabric.to_device(encoder), store, films, preprocess, fabric, on_film=lambda: advance("")
            )
        log.write("features", films=len(films), width=features.shape[1])
        if cache:
            with replaced_whole(cache) as unfinished, unfinished.open("wb") as file:
                np.save(file, features)
    shares = np.split(features, np.cumsum([len(part) for part in rows[:-1]]))
    return [EncodedFilms(part, share, labels[part]) for part, share in zip(rows, shares, strict=True)]

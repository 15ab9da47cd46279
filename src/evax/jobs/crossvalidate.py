"""evax crossvalidate: one fine-tuning per fold, each tested on films that only the others learned from."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evax.adaptation.study import (
    ALONE,
    continued,
    finished_of,
    over_seeds,
    refuse_at_once,
    refuse_one_sided,
    refuse_other_run,
    refuse_untaught_class,
    report_of,
    run_of,
    study_folder,
    tell_finished,
    warn_of_untaught,
)
from evax.config import job
from evax.errors import DataError
from evax.evaluation.study_rows import (
    RUNS,
    auroc_of_each,
    row_of,
    row_of_study,
    spread_in_words,
    summary_of,
    write_rows,
)
from evax.jobs.finetune import finetune_in_study
from evax.options.adaptation import FinetuneConfig
from evax.options.studies import FILM, PATIENT, CrossvalidateConfig

if TYPE_CHECKING:
    import numpy as np

    from evax.data.folds import Divider, Fold
    from evax.data.store import ImageStore

TOO_SHORT = "; folds share training films, so the t-interval is too short"


@job(CrossvalidateConfig)
def crossvalidate(config: CrossvalidateConfig) -> Path:
    """Runs the folds that are not finished yet and returns the path of crossvalidate.json, or of seeds.json.

    Raises DataError for films that the encoder has seen (see `seen`) and data that cannot be divided,
    ConfigError when OUT was begun otherwise, and whatever finetune raises.
    """
    refuse_at_once(config, config.resume)
    if config.seeds:
        return crossvalidate_over_seeds(config)
    from evax.deploy.bundle import note_other_size
    from evax.pages.result_line import tell_result

    note_other_size(config.weights, config.image_size)
    result = one_study(continued(config, config.resume), films_of(config), config.precision)
    tell_result([result])
    return result


def crossvalidate_over_seeds(config: CrossvalidateConfig) -> Path:
    """One study per seed, OUT/runs/seed-*: each draws folds, heads, orders and crops of its own."""
    from evax.files import read_json

    asked, config = config.precision, continued(config, config.resume, grows=("seeds",))
    films = films_of(config)

    def refuse(study: CrossvalidateConfig) -> None:
        folds = folds_of(study, films)
        if (study.out / "config.yaml").is_file():  # begun: its folds must be these
            runs_of(study, films.store, folds)

    def made(study: CrossvalidateConfig) -> dict[str, Any]:
        # also where it is finished: a fold that was deleted since is made again
        path = one_study(replace(study, resume=(study.out / "config.yaml").is_file()), films, asked)
        result: dict[str, Any] = read_json(path)
        return result

    return over_seeds(
        config, config.seeds, config.resume, asked=asked,
        refuse=refuse, made=made, row=row_of_study,
        spread=spread_in_words(len(config.seeds), "seeds, of means over folds"),
        shared_films="all seeds test and learn from the same films, so the interval over seeds says how far "
        "the mean depends on the draw of folds, heads, orders and crops, and nothing of other patients",
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class StudyFilms:
    """All films of a store, of which every seed makes its folds."""

    store: ImageStore
    labels: np.ndarray[Any, Any]
    """(S, K), 1, 0 or NaN."""
    only_train: np.ndarray[Any, Any]
    """(S,), see only_training."""


def films_of(config: CrossvalidateConfig) -> StudyFilms:
    """Raises DataError for films that the encoder has seen (see `seen`)."""
    from evax.data.labelled import known_labels, with_findings
    from evax.data.store import open_store

    store = with_findings(open_store(config.store), config.findings)
    labels = known_labels(store, config.uncertain, config.blank, config.uncertain_ones)
    return StudyFilms(store, labels, only_training(config, store))


def one_study(config: CrossvalidateConfig, films: StudyFilms, asked: str) -> Path:
    """The folds of one seed; returns the path of crossvalidate.json. asked: see study_card."""
    from evax.adaptation.pooled import pooled_metrics
    from evax.files import write_json
    from evax.pages.folds import draw_folds
    from evax.pages.study import write_study_page
    from evax.runs.files import agreed

    store, folds = films.store, folds_of(config, films)
    with study_folder(config, config.resume) as log:
        runs = runs_of(config, store, folds)
        if config.resume:
            tell_finished(config.out, finished_of(runs), len(runs))
        for fold in folds:
            where = f"training films of fold {fold.name}"
            warn_of_untaught(store.manifest.findings, films.labels[fold.train], where)
        rows, protocols = [], []
        for number, (fold, run) in enumerate(zip(folds, runs, strict=True), start=1):
            place = f"run {number} of {len(runs)}: fold {fold.name}"
            report = report_of(run, finetune_in_study, keep_bundle=config.bundles, place=place)
            protocols.append(report["protocol"])
            rows.append({"fold": fold.name, **row_of(report), **auroc_of_each(report)})
            log.write("fold", fold=fold.name, mauc=rows[-1]["mauc"])
    result = config.out / "crossvalidate.json"
    card = card_of(config, store, folds, films.only_train, asked)
    card["protocol"] = agreed(protocols) | card["protocol"]
    together = pooled_metrics(
        [run.out for run in runs], store.manifest.findings, store.manifest.exclusive,
        config.resamples, config.seed,
    )  # fmt: skip
    content = card | {**summary_of(rows, over="folds"), "pooled": together, "folds": rows}
    write_json(content, result)
    write_rows(rows, config.out / "crossvalidate.csv")
    draw_folds(result, config.out / "crossvalidate")
    write_study_page([result])
    return result


def runs_of(config: CrossvalidateConfig, store: ImageStore, folds: list[Fold]) -> list[FinetuneConfig]:
    """The fine-tunings of the folds; their splits are written to OUT/folds.

    Raises ConfigError when a table there is of another fold, or a finished run was made otherwise.
    """
    from evax.data.folds import write_fold
    from evax.data.labelled import data_fingerprint
    from evax.weights.encoders import digest_of_weights

    runs, weights = [], digest_of_weights(config.encoder, config.weights)
    for number, fold in enumerate(folds):
        name = f"fold-{number}"
        if config.by not in (PATIENT, FILM):
            name += "-" + re.sub(r"[^\w.-]+", "-", fold.name)[:40]  # north, of a hospital left out
        table = config.out / "folds" / f"{name}.csv"
        write_fold(fold, store, table)
        run = run_of(
            FinetuneConfig, config,
            out=config.out / RUNS / name,
            split=table,
            split_by=FILM if config.by == FILM else PATIENT,
            **ALONE,
        )  # fmt: skip
        refuse_other_run(run, data_fingerprint(store, table), weights, config.bundles)
        runs.append(run)
    return runs


def only_training(config: CrossvalidateConfig, store: ImageStore) -> np.ndarray[Any, Any]:
    """(S,) films that no fold tests: those of patients of whom the encoder has seen a film.

    It never saw their labels, but films that shaped an encoder do not show how it does on new ones.
    Raises DataError when there are such films and `seen` does not say what to do with them.
    """
    import numpy as np

    from evax.deploy.bundle import seen_films

    patients = store.manifest.table["patient"].to_numpy(dtype=str)
    seen = seen_films(config.weights, store, np.arange(len(store)))
    theirs = np.isin(patients, patients[seen])
    if seen.any() and config.seen == "refuse":
        raise DataError(
            f"{config.weights} was pre-trained on {seen.sum()} of the {len(store)} films of {store.path}, or "
            "on other films of their patients, and the folds would test on them. Give --seen train: all "
            "films of their patients then train in every fold, and the folds divide the other "
            f"{len(set(patients[~theirs].tolist()))} patients. "
            "Or pre-train without this store."
        )
    return theirs


def folds_of(config: CrossvalidateConfig, films: StudyFilms) -> list[Fold]:
    """The folds that the options ask for. Raises DataError when one of them could not choose a checkpoint."""
    from evax.data.labelled import column_of

    table = films.store.manifest.table
    divider = divider_of(config, films)
    if config.by in (PATIENT, FILM):
        folds = divider.equal_folds(config.folds)
    elif config.table is not None:
        folds = divider.folds_by_value(column_of(films.store, config.table, config.by), config.by)
    else:
        folds = divider.folds_by_value(table[config.by].astype(str).tolist(), config.by)
    for fold in folds:
        where = f"validation films of fold {fold.name}, seed {config.seed}"
        refuse_one_sided(films.store.manifest.findings, films.labels[fold.validation], where)
        if films.store.manifest.exclusive:
            where = f"training films of fold {fold.name}, seed {config.seed}"
            refuse_untaught_class(films.store.manifest.findings, films.labels[fold.train], where)
    return folds


def divider_of(config: CrossvalidateConfig, films: StudyFilms) -> Divider:
    """What is kept together, and in which strata."""
    from evax.data.folds import Divider
    from evax.data.labelled import strata_of

    unit = "image" if config.by == FILM else PATIENT
    return Divider(
        units=films.store.manifest.table[unit].to_numpy(dtype=str),
        strata=None if config.by == FILM else strata_of(films.labels),
        divided=~films.only_train,
        validation=config.validation,
        seed=config.seed,
    )


def card_of(
    config: CrossvalidateConfig,
    store: ImageStore,
    folds: list[Fold],
    only_train: np.ndarray[Any, Any],
    asked: str,
) -> dict[str, Any]:
    """What every number of the study must carry."""
    from evax.adaptation.protocol import study_card
    from evax.evaluation.intervals import LEAST_RUNS

    if config.by == FILM:
        how = f"{len(folds)} folds of films by chance"
    elif config.by == PATIENT:
        how = f"{len(folds)} folds of patients, stratified by the rarest finding present"
    else:
        how = f"each {config.by} left out once, and its patients with it"
    return study_card(
        config, "crossvalidate", store.fingerprint,
        name=config.name,
        leaks=config.by == FILM,
        asked=asked,
        checkpoint_chosen_on="validation mAUC, in each fold",
        test_scored="once, by the classifier of its fold",
        folds=how,
        validation=f"{config.validation:g} of the others, drawn as the folds are",
        films=len(store),
        tested_films=sum(len(fold.test) for fold in folds),
        films_that_only_train=int(only_train.sum()),
        split="the store's own split is not used",
        seed=config.seed,
        spread=spread_in_words(len(folds), "folds") + (TOO_SHORT if len(folds) >= LEAST_RUNS else ""),
        pooled="all tested films together, with intervals over patients; scores of different classifiers are "
        "compared there, so it is no mean of the folds",
    )  # fmt: skip

"""evax crossvalidate: one fine-tuning per fold, each tested on images that only the others learned from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evax.adaptation.data import (
    check_both_classes_present,
    check_call,
    check_every_class_present,
    warn_if_constant,
)
from evax.adaptation.study import (
    SINGLE,
    StudyRuns,
    check_finished_runs,
    continue_study,
    make_once,
    run_config,
    run_seeds,
    save_study,
    study_card,
    study_folder,
)
from evax.config import job
from evax.data.folds import Divider, Fold, write_fold
from evax.data.labelled import column_of, known_labels, strata_of, with_findings
from evax.data.store import ImageStore, open_store
from evax.deploy.bundle import log_other_size, seen_images
from evax.errors import DataError
from evax.evaluation.intervals import LEAST_RUNS
from evax.evaluation.study_rows import (
    RUNS,
    describe_spread,
    pooled_metrics,
    row_of,
    row_of_study,
    summarize_runs,
)
from evax.files import read_json
from evax.options.adaptation import FinetuneConfig
from evax.options.studies import FILM, PATIENT, CrossvalidateConfig
from evax.options.training import Precision

TOO_SHORT = "; folds share training images, so the t-interval is too short"


@job(CrossvalidateConfig)
def crossvalidate(config: CrossvalidateConfig) -> Path:
    """Makes the folds that are not finished and returns the path of crossvalidate.json, or of seeds.json.

    Raises DataError for images that the encoder was trained on (see `seen`) and data that cannot be divided,
    ConfigError if OUT was begun with other options, and whatever finetune raises.
    """
    check_call(config, config.resume)
    data = load_all(config)
    if config.seeds:
        return crossvalidate_over_seeds(config, data)
    log_other_size(config.weights, config.image_size)
    return one_study(continue_study(config), data, config.precision, log_result=True)


def crossvalidate_over_seeds(config: CrossvalidateConfig, data: AllData) -> Path:
    """One cross-validation per seed, OUT/runs/seed-*: each draws its own folds, heads, orders and crops."""

    def begun(study: CrossvalidateConfig) -> bool:
        return (study.out / "config.yaml").is_file()

    def check(studies: Sequence[CrossvalidateConfig]) -> None:
        for study in studies:
            folds = folds_of(study, data)
            if begun(study):  # its folds must be these
                fold_runs(study, data.store, folds)

    def report_of(study: CrossvalidateConfig) -> dict[str, Any]:
        # also if it is finished: a fold that was deleted since is made again
        study = replace(study, resume=begun(study))
        result: dict[str, Any] = read_json(one_study(study, data, config.precision, log_result=False))
        return result

    study = continue_study(config, grows=("seeds",))
    return run_seeds(
        study, config.precision, check=check, report_of=report_of, row_of=row_of_study,
        spread=describe_spread(len(study.seeds), "seeds, of means over folds"),
        shared_films="all seeds test and learn from the same images, so the interval over seeds says how far "
        "the mean depends on the draw of folds, heads, orders and crops, and nothing of other patients",
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class AllData:
    """All images of a store, from which every seed draws its folds."""

    store: ImageStore
    labels: np.ndarray[Any, Any]
    """(S, K), 1, 0 or NaN."""
    only_train: np.ndarray[Any, Any]
    """(S,), see only_training."""


def load_all(config: CrossvalidateConfig) -> AllData:
    """Raises DataError for images that the encoder was trained on (see `seen`)."""
    store = with_findings(open_store(config.store), config.findings)
    labels = known_labels(store, config.uncertain, config.blank, config.uncertain_ones)
    return AllData(store, labels, only_training(config, store))


def one_study(study: CrossvalidateConfig, data: AllData, asked: Precision, log_result: bool) -> Path:
    """The folds of one seed; returns the path of crossvalidate.json. asked: see study_card."""
    from evax.adaptation.classify import finetune_in_study  # torch from here on

    store, folds = data.store, folds_of(study, data)
    findings, rows, reports = store.manifest.findings, [], []
    with study_folder(study) as log:
        runs = fold_runs(study, store, folds)
        make = partial(make_once, make=finetune_in_study, keep_bundle=study.bundles)
        making = StudyRuns(study, runs, make)
        for fold in folds:
            warn_if_constant(findings, data.labels[fold.train], f"training images of fold {fold.name}")
        for fold, run in zip(folds, runs, strict=True):
            reports.append(making.report(run, f"fold {fold.name}"))
            rows.append({"fold": fold.name, **row_of(reports[-1])})
            log.write("fold", fold=fold.name, mauc=rows[-1]["mauc"])
    pooled = pooled_metrics(
        [run.out for run in runs], findings, store.manifest.exclusive, study.resamples, study.seed
    )
    content = {
        **study_card(study, "crossvalidate", asked, reports, **folds_protocol(study, data, folds)),
        "data_fingerprint": store.fingerprint,  # that of a run is of its fold, too
        **summarize_runs(rows, over="folds"),
        "pooled": pooled,
        "folds": rows,
    }
    return save_study(study.out, {"crossvalidate": content}, log_result)[0]


def fold_runs(study: CrossvalidateConfig, store: ImageStore, folds: list[Fold]) -> list[FinetuneConfig]:
    """The fine-tunings of the folds; their splits are written to OUT/folds.

    Raises ConfigError if a table there is of another fold, or a finished run was made with other options.
    """
    from evax.weights.encoders import digest_of_weights

    runs, weights = [], digest_of_weights(study.encoder, study.weights)
    for number, fold in enumerate(folds):
        name = f"fold-{number}"
        if study.by not in (PATIENT, FILM):
            name += "-" + re.sub(r"[^\w.-]+", "-", fold.name)[:40]  # north, of a hospital left out
        table = study.out / "folds" / f"{name}.csv"
        write_fold(fold, store, table)
        run = run_config(
            FinetuneConfig, study,
            out=study.out / RUNS / name,
            split=table,
            split_by=FILM if study.by == FILM else PATIENT,
            **SINGLE,
        )  # fmt: skip
        runs.append(run)
    check_finished_runs(runs, store, weights, study.bundles)
    return runs


def only_training(config: CrossvalidateConfig, store: ImageStore) -> np.ndarray[Any, Any]:
    """(S,) images that no fold tests: those of patients of whom the encoder was trained on an image.

    The encoder never saw their labels, but images it was trained on do not show how it does on new ones.
    Raises DataError if there are such images and `seen` is refuse.
    """
    patients = store.manifest.table["patient"].to_numpy(dtype=str)
    seen = seen_images(config.weights, store, np.arange(len(store)))
    theirs = np.isin(patients, patients[seen])
    if seen.any() and config.seen == "refuse":
        raise DataError(
            f"{config.weights} was pre-trained on {seen.sum()} of the {len(store)} images of {store.path}, "
            "or on other images of their patients, and the folds would test on them. Give --seen train: "
            "these patients then train in every fold, and the folds divide the other "
            f"{len(set(patients[~theirs].tolist()))} patients. Or pre-train without this store."
        )
    return theirs


def folds_of(study: CrossvalidateConfig, data: AllData) -> list[Fold]:
    """The folds that the options ask for. Raises DataError if one of them could not choose a checkpoint."""
    store, table = data.store, data.store.manifest.table
    divider = Divider(
        units=table["image" if study.by == FILM else PATIENT].to_numpy(dtype=str),
        strata=None if study.by == FILM else strata_of(data.labels),
        divided=~data.only_train,
        validation=study.validation,
        seed=study.seed,
    )
    if study.by in (PATIENT, FILM):
        folds = divider.equal_folds(study.folds)
    elif study.table is not None:
        folds = divider.folds_by_value(column_of(store, study.table, study.by), study.by)
    else:
        folds = divider.folds_by_value(table[study.by].astype(str).tolist(), study.by)
    for fold in folds:
        where = f"images of fold {fold.name}, seed {study.seed}"
        findings = store.manifest.findings
        check_both_classes_present(findings, data.labels[fold.validation], f"validation {where}")
        if store.manifest.exclusive:
            check_every_class_present(findings, data.labels[fold.train], f"training {where}")
    return folds


def folds_protocol(study: CrossvalidateConfig, data: AllData, folds: list[Fold]) -> dict[str, Any]:
    """What every number of the study must carry, besides the protocol of its runs."""
    if study.by == FILM:
        how = f"{len(folds)} folds of images by chance"
    elif study.by == PATIENT:
        how = f"{len(folds)} folds of patients, stratified by the rarest finding present"
    else:
        how = f"each {study.by} left out once, and its patients with it"
    return {
        "checkpoint_chosen_on": "validation mAUC, in each fold",
        "test_scored": "once, by the classifier of its fold",
        "folds": how,
        "validation": f"{study.validation:g} of the others, drawn as the folds are",
        "films": len(data.store),
        "tested_films": sum(len(fold.test) for fold in folds),
        "films_that_only_train": int(data.only_train.sum()),
        "split": "the store's own split is not used",
        "seed": study.seed,
        "spread": describe_spread(len(folds), "folds") + (TOO_SHORT if len(folds) >= LEAST_RUNS else ""),
        "pooled": "all tested images together, with intervals over patients; scores of different classifiers "
        "are compared there, so it is no mean of the folds",
    }

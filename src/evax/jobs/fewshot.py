"""evax fewshot: how many labels are needed? The same fine-tuning on parts of the training patients."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from evax.adaptation.data import LabelPoint, check_call, label_points, load_labelled, warn_if_constant
from evax.adaptation.protocol import study_card
from evax.adaptation.study import (
    SINGLE,
    StudyRuns,
    check_finished_run,
    continue_study,
    run_config,
    save_study,
    study_folder,
)
from evax.config import job
from evax.data.labelled import data_fingerprint
from evax.deploy.bundle import note_other_size
from evax.evaluation.study_rows import RUNS, row_of_share, shares_summed_up, spread_in_words
from evax.options.adaptation import FinetuneConfig
from evax.options.studies import FRACTIONS, FewshotConfig
from evax.runs.files import agreed


@job(FewshotConfig)
def fewshot(config: FewshotConfig) -> Path:
    """Makes the runs that are not finished and returns the path of fewshot.json.

    A continued sweep keeps its shares and seeds, and the seed that chose the learning rates.
    Raises ConfigError if OUT was begun with other options, and whatever finetune raises.
    """
    check_call(config, config.resume)
    label_points(config, config.fractions, config.counts)  # raises if there are fewer patients
    data = load_labelled(config)
    warn_if_constant(data.findings, data.train_labels[data.pool], "training images")
    note_other_size(config.weights, config.image_size)

    from evax.adaptation.classify import finetune_in_study  # torch from here on
    from evax.weights.start import digest_of_weights

    fingerprint = data_fingerprint(data.store, config.split)
    weights = digest_of_weights(config.encoder, config.weights)
    study = continue_study(config, config.resume, grows=("fractions", "counts", "seeds"))
    if not study.fractions and not study.counts:
        study = replace(study, fractions=FRACTIONS)
    points = label_points(study, study.fractions, study.counts)
    total = len(points) * (len(study.seeds) + max(len(study.lrs) - 1, 0))
    making = StudyRuns(finetune_in_study, total, keep_bundles=study.bundles)

    def report_of(point: LabelPoint, seed: int, lr: float) -> dict[str, Any]:
        rate = f", learning rate {lr:g}" if study.lrs else ""
        return making.report(run_at(study, point, seed, lr), f"{point.in_words()}, seed {seed}{rate}")

    with study_folder(study, study.resume) as log:
        possible = [
            run_at(study, *each) for each in product(points, study.seeds, study.lrs or (study.optimizer.lr,))
        ]
        for run in possible:
            check_finished_run(run, fingerprint, weights, study.bundles)
        if study.resume:
            making.log_finished(study, possible)
        scored, protocols = [], list[dict[str, Any]]()
        for point in points:
            trials = {lr: report_of(point, study.seeds[0], lr)["validation_mauc"] for lr in study.lrs}
            lr = max(trials, key=lambda lr: trials[lr] or 0) if trials else study.optimizer.lr
            reports = [report_of(point, seed, lr) for seed in study.seeds]
            protocols += [report["protocol"] for report in reports]
            rows = [row_of_share(report) for report in reports]
            tried = [{"lr": lr, "validation_mauc": score} for lr, score in trials.items()]
            scored.append(({**asdict(point), "lr": lr, "lr_trials": tried}, rows))
            log.write("share", **asdict(point), lr=lr, mauc=[row["mauc"] for row in rows])
    card = card_of(study, fingerprint, config.precision)
    card["protocol"] = agreed(protocols) | card["protocol"]
    return save_study(study.out, {"fewshot": card | shares_summed_up(scored)})[0]


def run_at(study: FewshotConfig, point: LabelPoint, seed: int, lr: float) -> FinetuneConfig:
    """One fine-tuning of the sweep."""
    return run_config(
        FinetuneConfig, study,
        out=study.out / RUNS / f"{point.folder()}-lr-{lr:g}-seed-{seed}",
        seed=seed,
        optimizer=replace(study.optimizer, lr=lr),
        **point.options(),
        **SINGLE,
    )  # fmt: skip


def card_of(study: FewshotConfig, fingerprint: str, asked: str) -> dict[str, Any]:
    """What every number of the sweep must carry. asked: see study_card."""
    lr_chosen_on = f"validation mAUC of seed {study.seeds[0]}, per share, then fixed for all seeds"
    subset = {
        "fixed": "fixed: drawn once per seed among the training patients, the smaller within the larger",
        "redrawn": "redrawn: at each epoch other training patients, so a run sees the labels of more than "
        "its share; train_patients counts all it saw",
    }
    return study_card(
        study, "fewshot", fingerprint,
        name=study.name,
        leaks=study.split_by == "film",
        asked=asked,
        checkpoint_chosen_on="validation mAUC; mAUC and mAcc are those of this one checkpoint",
        lr_chosen_on=lr_chosen_on if study.lrs else "not chosen: optimizer.lr",
        subset=subset[study.subset] + (", stratified by finding" if study.stratified else ""),
        steps="the same for every share",
        spread=spread_in_words(len(study.seeds), "seeds"),
    )  # fmt: skip

"""evax fewshot: how many labels are needed? The same fine-tuning on parts of the training patients."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from evax.adaptation.data import LabelPoint, check_call, label_points, load_labelled, warn_if_constant
from evax.adaptation.study import (
    SINGLE,
    StudyRuns,
    check_finished_runs,
    continue_study,
    make_once,
    run_config,
    save_study,
    study_card,
    study_folder,
)
from evax.config import job
from evax.deploy.bundle import log_other_size
from evax.evaluation.study_rows import RUNS, describe_spread, row_of_share, summarize_points
from evax.options.adaptation import FinetuneConfig
from evax.options.studies import FRACTIONS, FewshotConfig


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
    log_other_size(config.weights, config.image_size)

    from evax.adaptation.classify import finetune_in_study  # torch from here on
    from evax.weights.encoders import digest_of_weights

    study = continue_study(config, grows=("fractions", "counts", "seeds"))
    if not study.fractions and not study.counts:
        study = replace(study, fractions=FRACTIONS)
    points = label_points(study, study.fractions, study.counts)
    lrs = study.lrs or (study.optimizer.lr,)
    possible = [run_at(study, *each) for each in product(points, study.seeds, lrs)]
    weights = digest_of_weights(study.encoder, study.weights)
    with study_folder(study) as log:
        check_finished_runs(possible, data.store, weights, study.bundles)
        report_of = partial(make_once, make=finetune_in_study, keep_bundle=study.bundles)
        making = StudyRuns(study, possible, report_of, len(points) * (len(study.seeds) + len(lrs) - 1))

        def report_at(point: LabelPoint, seed: int, lr: float) -> dict[str, Any]:
            rate = f", learning rate {lr:g}" if study.lrs else ""
            return making.report(run_at(study, point, seed, lr), f"{point.in_words()}, seed {seed}{rate}")

        reports, scored = [], []
        for point in points:
            trials = {lr: report_at(point, study.seeds[0], lr)["validation_mauc"] for lr in study.lrs}
            lr = max(trials, key=lambda lr: trials[lr] or 0) if trials else study.optimizer.lr
            learned = [report_at(point, seed, lr) for seed in study.seeds]
            rows = [row_of_share(report) for report in learned]
            tried = [{"lr": lr, "validation_mauc": score} for lr, score in trials.items()]
            scored.append(({**asdict(point), "lr": lr, "lr_trials": tried}, rows))
            reports += learned
            log.write("share", **asdict(point), lr=lr, mauc=[row["mauc"] for row in rows])
    card = study_card(study, "fewshot", config.precision, reports, **sweep_protocol(study))
    return save_study(study.out, {"fewshot": card | summarize_points(scored)})[0]


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


def sweep_protocol(study: FewshotConfig) -> dict[str, Any]:
    """What every number of the sweep must carry, besides the protocol of its runs."""
    lr_chosen_on = f"validation mAUC of seed {study.seeds[0]}, per share, then fixed for all seeds"
    subset = {
        "fixed": "fixed: drawn once per seed among the training patients, the smaller within the larger",
        "redrawn": "redrawn: at each epoch other training patients, so a run sees the labels of more than "
        "its share; train_patients counts all it saw",
    }
    return {
        "checkpoint_chosen_on": "validation mAUC; mAUC and mAcc are those of this one checkpoint",
        "lr_chosen_on": lr_chosen_on if study.lrs else "not chosen: optimizer.lr",
        "subset": subset[study.subset] + (", stratified by finding" if study.stratified else ""),
        "steps": "the same for every share",
        "spread": describe_spread(len(study.seeds), "seeds"),
    }

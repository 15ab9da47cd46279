"""evax fewshot: how many labels are needed? The same fine-tuning on parts of the training patients."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evax.adaptation.shares import LabelPoint, label_points
from evax.adaptation.study import (
    ALONE,
    continued,
    finished_of,
    refuse_at_once,
    refuse_other_run,
    report_of,
    run_of,
    study_folder,
    tell_finished,
    warn_of_untaught,
)
from evax.config import job
from evax.evaluation.study_rows import RUNS, row_of_share, shares_summed_up, spread_in_words, write_points
from evax.jobs.finetune import films_of, finetune_in_study
from evax.options.adaptation import FinetuneConfig
from evax.options.studies import FRACTIONS, FewshotConfig


@job(FewshotConfig)
def fewshot(config: FewshotConfig) -> Path:
    """Runs what is not finished yet and returns the path of fewshot.json.

    A sweep that goes on keeps its shares and seeds, and the seed that chose the rates, and adds what is new.
    Raises ConfigError when OUT was begun with other options, and whatever finetune raises.
    """
    refuse_at_once(config, config.resume)
    label_points(config, config.fractions, config.counts)  # says when there are fewer patients
    from itertools import product

    from evax.data.labelled import data_fingerprint
    from evax.data.store import open_store
    from evax.deploy.bundle import note_other_size
    from evax.files import write_json
    from evax.pages.few_labels import draw_few_labels
    from evax.pages.result_line import tell_result
    from evax.pages.study import write_study_page
    from evax.runs.files import agreed
    from evax.weights.encoders import digest_of_weights

    fingerprint = data_fingerprint(open_store(config.store), config.split)
    weights = digest_of_weights(config.encoder, config.weights)
    films, asked = films_of(config), config.precision
    warn_of_untaught(films.findings, films.taught[films.pool], "training films")
    note_other_size(config.weights, config.image_size)
    config = continued(config, config.resume, grows=("fractions", "counts", "seeds"))
    if not config.fractions and not config.counts:
        config = replace(config, fractions=FRACTIONS)
    shares = label_points(config, config.fractions, config.counts)
    with study_folder(config, config.resume) as log:
        asked_for = [
            one_run(config, *each)
            for each in product(shares, config.seeds, config.lrs or (config.optimizer.lr,))
        ]
        for run in asked_for:
            refuse_other_run(run, fingerprint, weights, config.bundles)
        total = len(shares) * (len(config.seeds) + max(len(config.lrs) - 1, 0))
        if config.resume:
            tell_finished(config.out, finished_of(asked_for), total)
        places: dict[Path, int] = {}

        def report(share: LabelPoint, seed: int, lr: float) -> dict[str, Any]:
            run = one_run(config, share, seed, lr)
            number = places.setdefault(run.out, len(places) + 1)
            rate = f", learning rate {lr:g}" if config.lrs else ""
            place = f"run {number} of {total}: {share.in_words()}, seed {seed}{rate}"
            return report_of(run, finetune_in_study, keep_bundle=config.bundles, place=place)

        summed, protocols = [], list[dict[str, Any]]()
        for share in shares:
            trials = {lr: report(share, config.seeds[0], lr)["validation_mauc"] for lr in config.lrs}
            lr = max(trials, key=lambda lr: trials[lr] or 0) if trials else config.optimizer.lr
            reports = [report(share, seed, lr) for seed in config.seeds]
            protocols += [each["protocol"] for each in reports]
            runs = [row_of_share(each) for each in reports]
            tried = [{"lr": lr, "validation_mauc": score} for lr, score in trials.items()]
            summed.append(({**asdict(share), "lr": lr, "lr_trials": tried}, runs))
            log.write("share", **asdict(share), lr=lr, mauc=[run["mauc"] for run in runs])
    result = config.out / "fewshot.json"
    card = card_of(config, fingerprint, asked)
    card["protocol"] = agreed(protocols) | card["protocol"]
    content = card | shares_summed_up(summed)
    write_json(content, result)
    write_points(content["points"], config.out / "fewshot.csv")
    draw_few_labels([result], config.out / "fewshot")
    write_study_page([result])
    tell_result([result])
    return result


def one_run(config: FewshotConfig, share: LabelPoint, seed: int, lr: float) -> FinetuneConfig:
    """One fine-tuning of the sweep."""
    return run_of(
        FinetuneConfig, config,
        out=config.out / RUNS / f"{share.folder()}-lr-{lr:g}-seed-{seed}",
        seed=seed,
        optimizer=replace(config.optimizer, lr=lr),
        **share.options(),
        **ALONE,
    )  # fmt: skip


def card_of(config: FewshotConfig, fingerprint: str, asked: str) -> dict[str, Any]:
    """What every number of the sweep must carry. asked: see study_card."""
    from evax.adaptation.protocol import study_card

    lr_chosen_on = f"validation mAUC of seed {config.seeds[0]}, per share, then fixed for all seeds"
    subset = {
        "fixed": "fixed: drawn once per seed among the training patients, the smaller within the larger",
        "redrawn": "redrawn: at each epoch other training patients, so a run sees the labels of more than "
        "its share; train_patients counts all it saw",
    }
    return study_card(
        config, "fewshot", fingerprint,
        name=config.name,
        leaks=config.split_by == "film",
        asked=asked,
        checkpoint_chosen_on="validation mAUC; mAUC and mAcc are those of this one checkpoint",
        lr_chosen_on=lr_chosen_on if config.lrs else "not chosen: optimizer.lr",
        subset=subset[config.subset] + (", stratified by finding" if config.stratified else ""),
        steps="the same for every share",
        spread=spread_in_words(len(config.seeds), "seeds"),
    )  # fmt: skip

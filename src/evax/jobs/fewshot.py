"""evax fewshot: how many labels are needed? The same fine-tuning on parts of the training patients."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from evax.config import job, validated
from evax.errors import ConfigError
from evax.jobs.finetune import films_of, finetune_in_study
from evax.jobs.shares import LabelPoint, check_draws, label_points
from evax.jobs.studies import (
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
from evax.reporting.study_rows import RUNS, row_of_share, shares_summed_up, spread_in_words, write_points
from evax.training.supervised_options import FinetuneConfig

FRACTIONS = (0.01, 0.1, 1.0)  # of the paper's Fig. 3c


@validated
@dataclass(frozen=True, kw_only=True)
class FewshotConfig(FinetuneConfig):
    """Fine-tune on growing parts of the training patients, with several seeds; all else is as in finetune.

    A seed draws the patients, the head, the order and the crops. Each run is a folder OUT/runs/*; the results
    are OUT/report.html, fewshot.json, fewshot.csv, fewshot.svg and fewshot.png.
    """

    out: Path
    """Run folder of the sweep; an existing one is continued with resume."""
    name: str = ""
    """Of the curve in figures; empty: encoder and the end of the weights' path."""
    fractions: tuple[float, ...] = ()
    """Shares of the training patients, each in (0, 1]; 0.01, 0.1 and 1 without fractions and counts."""
    counts: tuple[int, ...] = ()
    """Numbers of training patients, besides shares or instead of them."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run per seed and share."""
    lrs: tuple[float, ...] = ()
    """Peak learning rates to choose from, per share, by the first seed's validation mAUC; the choice then
    holds for all seeds. Empty: optimizer.lr."""
    bundles: bool = False
    """Keep the classifier of every run that this call makes, OUT/runs/*/bundle."""
    resume: bool = False
    """Continue the sweep in OUT: finished runs are not repeated, new shares, counts and seeds are added."""
    label_fraction: Annotated[float, tyro.conf.Suppress] = 1.0
    """Set by fractions."""
    label_count: Annotated[int | None, tyro.conf.Suppress] = None
    """Set by counts."""
    seed: Annotated[int, tyro.conf.Suppress] = 0
    """Set by seeds."""
    protocol: Annotated[Literal["clean", "paper"], tyro.conf.Suppress] = "clean"
    """Of every run; validation chooses the learning rate."""

    def __post_init__(self) -> None:
        if self.label_fraction != 1 or self.label_count is not None or self.seed != 0:
            raise ConfigError(
                "fewshot sets label_fraction, label_count and seed itself: give fractions, counts and seeds."
            )
        super().__post_init__()
        if self.protocol != "clean":
            raise ConfigError("fewshot has the clean protocol only: leave protocol out.")
        check_draws(self.fractions, self.counts, self.seeds)
        if not all(lr > 0 for lr in self.lrs):
            raise ConfigError(f"lrs must be above 0, got {self.lrs}.")


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
    from evax.reporting.few_labels import draw_few_labels
    from evax.reporting.protocol import agreed
    from evax.reporting.result_line import tell_result
    from evax.reporting.study_page import write_study_page
    from evax.weights.start import digest_of_weights

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
    from evax.reporting.protocol import study_card

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

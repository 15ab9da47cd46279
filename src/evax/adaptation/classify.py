"""What a fine-tuning leaves: thresholds, scores of the test, bundle, tables, report and page.

No job: it has no command. Heavy rooms may be imported here; evax finetune loads it when it begins to learn.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning_fabric import Fabric

from evax.adaptation.examine import Scored, examine, run_checks, validation_thresholds
from evax.adaptation.features import film_features
from evax.adaptation.paper import best_of_the_looks, paper_entries
from evax.adaptation.protocol import label_policy, protocol_card, without_places, write_predictions
from evax.config import command_line
from evax.data.labelled import LearningFilms, capped_rows
from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, model_facts, save_bundle, save_seen, seen_before, seen_in
from evax.evaluation.classification import mean_auroc
from evax.evaluation.learned import learned_findings
from evax.evaluation.report import evaluate_classifier, plain
from evax.models.classifier import Classifier
from evax.options.adaptation import FinetuneConfig
from evax.pages.run import write_run_page
from evax.runs.device import precision_of
from evax.runs.files import write_report
from evax.runs.log import RunLog

Reals = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Finetuned:
    """A classifier that has learned and been tested, not yet written down."""

    model: Classifier
    weights_digest: str | None
    """Of the weights it started from, see digest_of_weights."""
    preprocess: Preprocess
    best_step: int
    """Of the checkpoint that was kept."""
    validation: Scored
    test: Scored


def write_results(
    config: FinetuneConfig,
    films: LearningFilms,
    done: Finetuned,
    fabric: Fabric,
    log: RunLog,
    checked_films: int,
    start: float,
) -> None:
    """Scores of the test, bundle, tables, report and page.

    checked_films: see learn_and_test. start: of the job, by time.perf_counter.
    """
    store, learned = films.store, learned_findings(films.taught[films.train])
    patients = store.manifest.table["patient"].to_numpy(dtype=str)
    chosen_on = done.validation.only(learned)
    thresholds = (
        np.full(len(films.findings), math.nan)
        if config.protocol == "paper"
        else validation_thresholds(chosen_on, config.thresholds, films.exclusive)
    )
    protocol = protocol_of(config, films, chosen_on, fabric, log)
    protocol |= {
        "weights_digest": done.weights_digest,
        "best_step": done.best_step,
        "steps": config.in_steps(len(films.pool))[0],
    }
    metrics = evaluate_classifier(
        done.test.probabilities, done.test.labels, films.findings, patients[done.test.rows], thresholds,
        films.exclusive, resamples=config.resamples, seed=config.seed, learned=learned,
    ).to_json()  # fmt: skip
    mark = None if config.protocol == "clean" else config.protocol
    for name, part in (("val", done.validation), ("test", done.test)):
        path = config.out / f"predictions-{name}.csv"
        write_predictions(path, store, part.rows, part.labels, part.probabilities, mark)
    card = Card(
        kind="classifier",
        encoder=config.encoder,
        preprocess=done.preprocess,
        findings=films.findings,
        exclusive=films.exclusive,
        thresholds={
            name: None if math.isnan(value) else float(value)
            for name, value in zip(films.findings, thresholds, strict=True)
        },
        training=without_places(protocol),
        metrics=metrics,
    )
    save_bundle(config.out / "bundle", card, done.model)
    seen = seen_in(store, films.train, films.validation).also(seen_before(config.weights))
    save_seen(config.out / "bundle", seen)
    rows = capped_rows(store, films.train, checked_films)
    features = rows, film_features(done.model.encoder, store, rows, done.preprocess, fabric)
    examined = examine(
        store, done.validation, done.test, learned, thresholds, config.resamples, config.seed, films.sources
    )
    report = {
        "kind": "finetune",
        **protocol,
        "test_metrics": metrics,
        **examined,
        "checks": run_checks(
            store, films.train, done.validation, done.test, films.labels, features, config.out
        ),
        "model": model_facts(card, done.model, config.weights),
        "command": command_line("finetune", config),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_report(report, config.out / "report.json")  # a run folder that has one is finished
    write_run_page(config.out)


def protocol_of(
    config: FinetuneConfig, films: LearningFilms, validation: Scored, fabric: Fabric, log: RunLog
) -> dict[str, Any]:
    """What every number of the run must carry. validation: only what was learned."""
    as_paper = config.protocol == "paper"
    chosen = (
        paper_entries(config, films.exclusive) if as_paper else {"checkpoint_chosen_on": "validation mAUC"}
    )
    if config.train_uncertain:
        chosen["uncertain_in_training"] = config.train_uncertain
    card = protocol_card(
        config, films.store, train=films.train, validation=films.validation, test=films.test,
        subset=config.subset, **(label_policy(config, films.store) | chosen),
    )  # fmt: skip
    macro = mean_auroc(validation.probabilities, validation.labels).value if len(validation.rows) else None
    card |= {
        "trained_in": precision_of(fabric),
        "validation_mauc": None if macro is None else plain(macro),
        "validation_films_per_look": 0 if as_paper else len(films.choosing),
    }
    if as_paper:
        card["paper_protocol"] = best_of_the_looks(log.events("test"), films.exclusive)
    return card

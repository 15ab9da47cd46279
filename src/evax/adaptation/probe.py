"""What a probe leaves: two classifiers of frozen features, tested, with tables, report and page.

No job: it has no command. Heavy rooms may be imported here; evax probe loads it when it begins to encode.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from evax.adaptation.examine import (
    Scored,
    check_predicted_classes,
    examine,
    quick_checks,
    validation_thresholds,
)
from evax.adaptation.features import EncodedFilms
from evax.adaptation.protocol import label_policy, protocol_card, write_predictions
from evax.config import command_line
from evax.data.labelled import column_of
from evax.data.store import ImageStore
from evax.evaluation.checks import check_strength
from evax.evaluation.embedding import TEMPERATURE, answered, knn_scores
from evax.evaluation.learned import learned_findings
from evax.evaluation.linear import fit_linear_probe
from evax.evaluation.report import evaluate_classifier, plain
from evax.evaluation.study_rows import WAYS
from evax.options.adaptation import LabelledConfig
from evax.pages.run import write_run_page
from evax.runs.files import write_report

Reals = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Tested:
    """One of the two classifiers."""

    validation: Scored
    test: Scored
    entries: dict[str, Any]
    """Of report.json: test_metrics and what `examine` says."""


def strength_chosen_on(exclusive: bool) -> str:
    """The entry of the protocol, see `fit_linear_probe`."""
    return (
        "validation log loss, mean of the classes" if exclusive else "validation mAUC, one for all findings"
    )


def measure(
    config: LabelledConfig,
    store: ImageStore,
    train: EncodedFilms,
    val: EncodedFilms,
    test: EncodedFilms,
    *,
    neighbours: int,
    labels: Reals,
    weights_digest: str | None,
    start: float,
) -> dict[str, Any]:
    """Both probes on the same films; writes report and page of OUT and returns the report.

    The direction that is checked is the linear probe's. neighbours: training films that vote. labels: (S, K)
    of the whole store. weights_digest: see digest_of_weights. start: of the clock that counts its seconds.
    """
    exclusive, learned = store.manifest.exclusive, learned_findings(train.labels)
    linear = fit_linear_probe(train.features, train.labels, val.features, val.labels, exclusive)

    def vote(features: Reals) -> Reals:
        return knn_scores(train.features, train.labels, features, neighbours, TEMPERATURE)

    by_line, by_vote = (
        score(name, config, store, learned, (val, answer(val.features)), (test, answer(test.features)))
        for name, answer in (("linear", linear.probabilities), ("knn", vote))
    )
    protocol = protocol_card(
        config, store, train=train.rows, validation=val.rows, test=test.rows,
        features="mean of the last block's patches, encoder frozen, whole films",
        strength_chosen_on=strength_chosen_on(exclusive),
        **label_policy(config, store),
    )  # fmt: skip
    tried = {
        f"validation_{name}": {f"{strength:g}": plain(score) for strength, score in sorted(scores.items())}
        for name, scores in (("mauc", linear.validation_mauc), ("log_loss", linear.validation_log_loss))
        if exclusive or name == "mauc"
    }
    checks = quick_checks(store, train.rows, by_line.validation, by_line.test, labels)
    checks.append(check_strength(linear.strength, linear.validation_mauc).to_json())
    if exclusive:
        voted = check_predicted_classes(
            store.manifest.findings, by_vote.validation, by_vote.test, WAYS["knn"]
        )
        checks.append(voted.to_json())
    report = {
        "kind": "probe",
        **protocol,
        "weights_digest": weights_digest,
        "width": train.features.shape[1],
        "linear": {
            "strength": linear.strength,
            "class_weight": "balanced" if exclusive else None,
            **tried,
            **by_line.entries,
        },
        "knn": {"neighbours": neighbours, "temperature": TEMPERATURE, **by_vote.entries},
        "checks": checks,
        "command": command_line("probe", config),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_report(report, config.out / "report.json")
    write_run_page(config.out)
    return report


def score(
    name: str,
    config: LabelledConfig,
    store: ImageStore,
    learned: np.ndarray[Any, np.dtype[np.bool_]],
    validation: tuple[EncodedFilms, Reals],
    test: tuple[EncodedFilms, Reals],
) -> Tested:
    """Thresholds from validation, every number of test, and predictions-NAME-val.csv and -test.csv.

    learned: (K,), findings that the training films taught; the others have no number. validation, test: films
    and their probabilities.
    """
    known: dict[str, Scored] = {}
    for split, (films, scores) in (("val", validation), ("test", test)):
        probabilities, truth = answered(scores, films.labels)
        known[split] = Scored(films.rows, films.labels, probabilities)
        path = config.out / f"predictions-{name}-{split}.csv"
        write_predictions(path, store, films.rows, truth, probabilities)
    chosen_on, tested = known["val"].only(learned), known["test"]
    thresholds = validation_thresholds(chosen_on, config.thresholds, store.manifest.exclusive)
    patients = store.manifest.table["patient"].to_numpy(dtype=str)[tested.rows]
    metrics = evaluate_classifier(
        tested.probabilities, tested.labels, store.manifest.findings, patients, thresholds,
        store.manifest.exclusive, resamples=config.resamples, seed=config.seed, learned=learned,
    )  # fmt: skip
    sources = None if config.sources is None else column_of(store, config.sources, "source")
    examined = examine(
        store, known["val"], tested, learned, thresholds, config.resamples, config.seed, sources
    )
    return Tested(known["val"], tested, {"test_metrics": metrics.to_json(), **examined})

"""A linear probe and a vote of neighbours on frozen features, tested once, with tables, report and page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evax.adaptation.data import ProbeData, load_sources
from evax.adaptation.examine import (
    Scored,
    check_predicted_classes,
    examine,
    quick_checks,
    validation_thresholds,
)
from evax.adaptation.features import EncodedImages, image_features
from evax.adaptation.protocol import label_policy, protocol_card, strength_chosen_on, write_predictions
from evax.config import command_line
from evax.deploy.bundle import starting_preprocess
from evax.evaluation.checks import check_strength
from evax.evaluation.classification import learned_findings
from evax.evaluation.embedding import TEMPERATURE, answered, fit_linear_probe, knn_scores
from evax.evaluation.report import evaluate_classifier, plain
from evax.evaluation.study_rows import WAYS
from evax.files import replaced_whole
from evax.options.studies import ProbeConfig
from evax.pages.run import write_run_page
from evax.runs.device import seeded, start_fabric
from evax.runs.files import write_report
from evax.runs.log import RunLog
from evax.runs.progress import progress_bar
from evax.weights.encoders import create_encoder

Reals = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class EncodedSplits:
    """Frozen features of all splits."""

    train: EncodedImages
    validation: EncodedImages
    test: EncodedImages

    def only(self, rows: Reals) -> EncodedSplits:
        """The same with these training images only."""
        return EncodedSplits(self.train.only(rows), self.validation, self.test)


def encode_splits(
    config: ProbeConfig, data: ProbeData, train: Reals, log: RunLog, cache: Path | None = None
) -> EncodedSplits:
    """One pass of the frozen encoder over all images. train: rows. cache: file that keeps the features."""
    parts = (train, data.validation, data.test)
    rows = np.concatenate(parts)
    if cache and cache.is_file():
        features = np.load(cache, allow_pickle=False)
    else:
        preprocess = starting_preprocess(config.encoder, config.weights, data.store, config.image_size)
        with seeded(config.seed):
            encoder = create_encoder(config.encoder, config.weights, img_size=config.image_size)
        fabric = start_fabric(config.precision)
        with progress_bar("features", len(rows)) as advance:
            features = image_features(
                fabric.to_device(encoder), data.store, rows, preprocess, fabric, lambda: advance("")
            )
        log.write("features", films=len(rows), width=features.shape[1])
        if cache:
            with replaced_whole(cache) as unfinished, unfinished.open("wb") as file:
                np.save(file, features)
    shares = np.split(features, np.cumsum([len(part) for part in parts[:-1]]))
    encoded = zip(parts, shares, strict=True)
    return EncodedSplits(*(EncodedImages(part, share, data.labels[part]) for part, share in encoded))


def probe_and_test(
    config: ProbeConfig, data: ProbeData, encoded: EncodedSplits, weights_digest: str | None, start: float
) -> dict[str, Any]:
    """Both probes on the same images; writes report and page of OUT and returns the report.

    weights_digest: see digest_of_weights. start: of the run, by time.perf_counter.
    """
    train, validation, exclusive = encoded.train, encoded.validation, data.store.manifest.exclusive
    linear = fit_linear_probe(train.features, train.labels, validation.features, validation.labels, exclusive)

    def vote(features: Reals) -> Reals:
        return knn_scores(train.features, train.labels, features, config.neighbours, TEMPERATURE)

    by_line = score_probe("linear", linear.probabilities, config, data, encoded)
    by_vote = score_probe("knn", vote, config, data, encoded)
    protocol = protocol_card(
        config, data.store, train=train.rows, validation=validation.rows, test=encoded.test.rows,
        features="mean of the last block's patches, encoder frozen, whole images",
        strength_chosen_on=strength_chosen_on(exclusive),
        **label_policy(config, data.store),
    )  # fmt: skip
    tried = {
        f"validation_{name}": {f"{strength:g}": plain(score) for strength, score in sorted(scores.items())}
        for name, scores in (("mauc", linear.validation_mauc), ("log_loss", linear.validation_log_loss))
        if exclusive or name == "mauc"
    }
    # the direction that is checked is the linear probe's
    checks = quick_checks(data.store, train.rows, by_line.validation, by_line.test, data.labels)
    checks.append(check_strength(linear.strength, linear.validation_mauc).to_json())
    if exclusive:
        voted = check_predicted_classes(data.findings, by_vote.validation, by_vote.test, WAYS["knn"])
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
        "knn": {"neighbours": config.neighbours, "temperature": TEMPERATURE, **by_vote.entries},
        "checks": checks,
        "command": command_line("probe", config),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_report(report, config.out / "report.json")
    write_run_page(config.out)
    return report


class ProbeScores(NamedTuple):
    """One of the two classifiers."""

    validation: Scored
    test: Scored
    entries: dict[str, Any]
    """Of report.json: test_metrics and the entries of `examine`."""


def score_probe(
    name: str,
    classify: Callable[[Reals], Reals],
    config: ProbeConfig,
    data: ProbeData,
    encoded: EncodedSplits,
) -> ProbeScores:
    """Thresholds from validation, every number of test, and predictions-NAME-val.csv and -test.csv.

    classify: features (S, D) -> scores (S, K). Findings that the training images could not teach have no
    number.
    """
    store, learned, known = data.store, learned_findings(encoded.train.labels), dict[str, Scored]()
    for split, images in (("val", encoded.validation), ("test", encoded.test)):
        probabilities, truth = answered(classify(images.features), images.labels)
        known[split] = Scored(images.rows, images.labels, probabilities)
        write_predictions(
            config.out / f"predictions-{name}-{split}.csv", store, images.rows, truth, probabilities
        )
    exclusive, test = store.manifest.exclusive, known["test"]
    thresholds = validation_thresholds(known["val"].only(learned), config.thresholds, exclusive)
    patients = store.manifest.table["patient"].to_numpy(dtype=str)[test.rows]
    metrics = evaluate_classifier(
        test.probabilities, test.labels, data.findings, patients, thresholds, exclusive,
        resamples=config.resamples, seed=config.seed, learned=learned,
    )  # fmt: skip
    sources = load_sources(config.sources, store)
    examined = examine(store, known["val"], test, learned, thresholds, config.resamples, config.seed, sources)
    return ProbeScores(known["val"], test, {"test_metrics": metrics.to_json(), **examined})

"""A labelled store + an encoder -> a classifier that was tested once."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from evax.adaptation.data import load_labelled
from evax.adaptation.examine import Scored, examine, run_checks, validation_thresholds
from evax.adaptation.features import image_features
from evax.adaptation.protocol import (
    best_of_the_looks,
    label_policy,
    paper_entries,
    protocol_card,
    without_places,
    write_predictions,
)
from evax.adaptation.spine import (
    Learner,
    Selection,
    Task,
    fit,
    save_report,
    save_trained,
    start_learner,
    training_facts,
    training_run,
)
from evax.data.augment import training_view
from evax.data.labelled import LabelledData, capped_rows
from evax.data.loader import Batch, whole_batches
from evax.data.store import ImageStore
from evax.deploy.bundle import Card
from evax.evaluation.classification import learned_findings, mean_auroc, only_learned, top1_accuracy
from evax.evaluation.embedding import fit_linear_probe
from evax.evaluation.report import evaluate_classifier, plain
from evax.models.classifier import Classifier, probabilities
from evax.options.adaptation import FinetuneConfig
from evax.runs.device import uncompiled
from evax.runs.log import RunLog
from evax.weights.encoders import starting_encoder

logger = logging.getLogger("evax")
BATCH = 64


def finetune_in_study(config: FinetuneConfig) -> Path:
    """One of the many runs of a study. Labels are not searched for errors: all runs would find the same."""
    return train_and_test(config, load_labelled(config), checked_images=1)


def train_and_test(config: FinetuneConfig, data: LabelledData, checked_images: int) -> Path:
    """One fine-tuning and its one test; returns the bundle.

    checked_images: largest number of training images whose labels are checked, at a forward pass each. With 1
    nothing is found, as nothing can contradict a single patient.
    """
    start = time.perf_counter()
    learner = classifier_learner(config, data)
    with training_run(config) as log:
        if config.head == "probe":
            log.write("head", validation_mauc=start_from_probe(learner, data))
        best_step = fit_classifier(learner, config, data, log)
        validation, test = (score_split(learner, config, data, rows) for rows in (data.validation, data.test))
        learned = learned_findings(data.train_labels[data.train])
        chosen_on = validation.only(learned)
        thresholds = (
            np.full(len(data.findings), math.nan)
            if config.protocol == "paper"
            else validation_thresholds(chosen_on, config.thresholds, data.exclusive)
        )
        metrics = evaluate_classifier(
            test.probabilities, test.labels, data.findings, data.patients[test.rows], thresholds,
            data.exclusive, resamples=config.resamples, seed=config.seed, learned=learned,
        ).to_json()  # fmt: skip
        facts = classifier_protocol(config, data, chosen_on, log) | training_facts(
            learner, config, data, best_step
        )
        card = Card(
            kind="classifier",
            encoder=config.encoder,
            preprocess=learner.preprocess,
            findings=data.findings,
            exclusive=data.exclusive,
            thresholds=dict(zip(data.findings, map(plain, thresholds.tolist()), strict=True)),
            training=without_places(facts),
            metrics=metrics,
        )
        bundle = save_trained(learner, config, data, card)
        mark = None if config.protocol == "clean" else config.protocol
        for name, part in (("val", validation), ("test", test)):
            path = config.out / f"predictions-{name}.csv"
            write_predictions(path, data.store, part.rows, part.labels, part.probabilities, mark)
        rows = capped_rows(data.store, data.train, checked_images)
        features = image_features(learner.model.encoder, data.store, rows, learner.preprocess, learner.fabric)
        content = {
            **facts,
            "test_metrics": metrics,
            **examine(
                data.store, validation, test, learned, thresholds, config.resamples, config.seed, data.sources
            ),
            "checks": run_checks(
                data.store, data.train, validation, test, data.labels, (rows, features), config.out
            ),
        }
        save_report(learner, config, card, content, start)
        return bundle


def classifier_learner(config: FinetuneConfig, data: LabelledData) -> Learner[Classifier]:
    """The classifier before its first step."""

    def build() -> Classifier:
        return Classifier(starting_encoder(config), len(data.findings))

    return start_learner(config, data, build, config.resize_size)


def fit_classifier(
    learner: Learner[Classifier], config: FinetuneConfig, data: LabelledData, log: RunLog
) -> int:
    """Trains with the objective of the labels; keeps the checkpoint with the best mAUC, see fit."""
    return fit(learner, config, data, classification_task(learner, config, data), log)


def classification_task(learner: Learner[Classifier], config: FinetuneConfig, data: LabelledData) -> Task:
    """The objective of the labels; the checkpoint with the best mAUC is kept."""
    exclusive, as_paper = data.exclusive, config.protocol == "paper"
    train_labels = torch.from_numpy(data.train_labels[data.train]).float()
    truth = data.labels[data.choosing]
    learnable = only_learned(truth, learned_findings(data.train_labels[data.train]))
    split = "test" if as_paper else "validation"

    def loss(network: Any, images: Tensor, batch: Batch) -> Tensor:
        logits = network(learner.preprocess.normalise(images.float() / 255))
        return classification_loss(logits, train_labels[batch.films].to(images.device), exclusive)

    def evaluate() -> tuple[float, dict[str, Any]]:
        scores = score_rows(learner, data.store, data.choosing, exclusive and not as_paper)
        macro = mean_auroc(scores, learnable)
        top1 = {"top1": top1_accuracy(scores, truth)} if as_paper and exclusive else {}
        return macro.value, {"mauc": macro.value, "findings": macro.entered, **top1}

    view = training_view(config.augmentation, config.crop, learner.preprocess, config.seed)
    description = f"mAUC of {len(data.choosing)} {split} images"
    selection = Selection(evaluate, config.validate_every, split, description)
    return Task(view, loss, selection)


def classification_loss(
    logits: Float[Tensor, "B K"], labels: Float[Tensor, "B K"], exclusive: bool
) -> Float[Tensor, ""]:
    """Cross entropy if exactly one class is true per image, else binary cross entropy over the known labels.

    labels: 1 present, 0 absent, NaN unknown (left out; not allowed when exclusive).
    """
    if exclusive:
        return F.cross_entropy(logits.float(), labels)
    return known_cross_entropy(logits, labels, ~labels.isnan())


def known_cross_entropy(
    logits: Float[Tensor, "B K *n"], labels: Float[Tensor, "B K *n"], known: Bool[Tensor, "B K *n"]
) -> Float[Tensor, ""]:
    """Binary cross entropy, mean over what is known."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def start_from_probe(learner: Learner[Classifier], data: LabelledData) -> float:
    """Writes a linear probe of the training images into the head; returns its validation mAUC.

    The probe sees what the head will see: the mean of the patches of a whole image, through the final norm.
    Its strength is chosen by the images that choose the checkpoint.
    Source: Kumar et al. 2022, arXiv:2202.10054. Raises DataError when those images define no finding.
    """
    model, fabric = learner.model, learner.fabric
    fabric.to_device(model)

    def features(rows: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows D"]:
        means = image_features(model.encoder, data.store, rows, learner.preprocess, fabric)
        with torch.no_grad():
            normed: Tensor = model.encoder.fc_norm(fabric.to_device(torch.from_numpy(means)))
        return normed.cpu().numpy()

    train = features(data.train)
    fitted = fit_linear_probe(
        train, data.train_labels[data.train], features(data.choosing), data.labels[data.choosing],
        data.exclusive,
    )  # fmt: skip
    weights, bias = fitted.as_layer(train.shape[1], len(train))
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weights))
        model.head.bias.copy_(torch.from_numpy(bias))
    score = fitted.validation_mauc[fitted.strength]
    logger.info("The head starts from a linear probe with a validation mAUC of %.3f.", score)
    return score


def score_split(
    learner: Learner[Classifier], config: FinetuneConfig, data: LabelledData, rows: Int64[np.ndarray, " rows"]
) -> Scored:
    """The images of a split with their labels and probabilities."""
    softmax = data.exclusive and config.protocol == "clean"
    return Scored(rows, data.labels[rows], score_rows(learner, data.store, rows, softmax))


def score_rows(
    learner: Learner[Classifier], store: ImageStore, rows: Int64[np.ndarray, " rows"], softmax: bool
) -> Float[np.ndarray, "rows K"]:
    """Probabilities of images, in float32 as the classifier is deployed, whatever it is trained in."""
    model, preprocess = learner.model, learner.preprocess
    model.eval()
    results = [np.empty((0, model.head.out_features), np.float32)]  # no rows, no batches
    with torch.inference_mode(), uncompiled():
        for batch in whole_batches(store.pixels, rows, batch_size=BATCH, preprocess=preprocess):
            images = learner.fabric.to_device(torch.from_numpy(batch)).float() / 255
            results.append(probabilities(model(preprocess.normalise(images)), softmax).cpu().numpy())
    return np.concatenate(results)


def classifier_protocol(
    config: FinetuneConfig, data: LabelledData, validation: Scored, log: RunLog
) -> dict[str, Any]:
    """What every number of the run must carry. validation: learned findings only."""
    as_paper = config.protocol == "paper"
    chosen = (
        paper_entries(config, data.exclusive) if as_paper else {"checkpoint_chosen_on": "validation mAUC"}
    )
    if config.train_uncertain:
        chosen["uncertain_in_training"] = config.train_uncertain
    card = protocol_card(
        config, data.store, train=data.train, validation=data.validation, test=data.test,
        subset=config.subset, **(label_policy(config, data.store) | chosen),
    )  # fmt: skip
    macro = mean_auroc(validation.probabilities, validation.labels).value if len(validation.rows) else None
    card |= {
        "validation_mauc": None if macro is None else plain(macro),
        "validation_films_per_look": 0 if as_paper else len(data.choosing),
    }
    if as_paper:
        card["paper_protocol"] = best_of_the_looks(log.events("test"), data.exclusive)
    return card

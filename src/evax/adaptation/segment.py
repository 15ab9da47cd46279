"""A store with masks + an encoder -> a segmenter that was tested once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from evax.adaptation.classify import known_cross_entropy
from evax.adaptation.protocol import protocol_card, without_places
from evax.adaptation.spine import (
    Learner,
    Selection,
    fit,
    save_report,
    save_trained,
    start_learner,
    training_facts,
    training_run,
)
from evax.data.loader import Batch, whole_batches
from evax.data.masked import MaskedData, masked_view
from evax.data.preprocess import on_film
from evax.deploy.bundle import Card
from evax.evaluation.classification import macro_mean
from evax.evaluation.report import plain
from evax.evaluation.segmentation import (
    THRESHOLDS,
    Overlaps,
    choose_mask_thresholds,
    count_overlap,
    evaluate_segmenter,
    global_dice,
    mean_of,
)
from evax.models.segmenter import Segmenter
from evax.options.adaptation import PAPER_THRESHOLD, SegmentConfig
from evax.pages.masks import draw_masks, write_dice_table
from evax.runs.device import uncompiled
from evax.runs.log import RunLog
from evax.weights.encoders import create_encoder

BATCH = 8


def train_and_test_segmenter(config: SegmentConfig, data: MaskedData, start: float) -> Path:
    """One training and its one test; returns the bundle. start: of the run, by time.perf_counter."""

    def build() -> Segmenter:
        encoder = create_encoder(
            config.encoder, config.weights, img_size=config.image_size, drop_path_rate=config.drop_path
        )
        return Segmenter(encoder, len(data.findings), config.decoder_width)

    learner = start_learner(config, data, build, resize_size=None)  # masks are of whole images
    with training_run(config) as log:
        best_step = fit_segmenter(learner, config, data, log)
        validation, test = (overlaps_of(learner, data, rows) for rows in (data.validation, data.test))
        as_paper = config.protocol == "paper"
        thresholds = (
            np.full(len(data.findings), PAPER_THRESHOLD) if as_paper else choose_mask_thresholds(validation)
        )
        chosen = test.at(thresholds)
        metrics = evaluate_segmenter(
            chosen, data.findings, data.patients[data.test], config.resamples, config.seed
        ).to_json()
        validation_dice = mean_of(global_dice(validation.at(thresholds))[:, 0])
        facts = {
            **segmenter_protocol(config, data),
            "validation_mdice": plain(validation_dice),
            **training_facts(learner, config, data, best_step),
        }
        card = Card(
            kind="segmenter",
            encoder=config.encoder,
            preprocess=learner.preprocess,
            findings=data.findings,
            thresholds=dict(zip(data.findings, map(plain, thresholds.tolist()), strict=True)),
            training=without_places(facts),
            metrics=metrics,
        )
        bundle = save_trained(learner, config, data, card)
        write_dice_table(config.out / "dice-test.csv", data.store, data.test, data.findings, chosen)
        pictures = draw_masks(
            config.out / "pictures", data, chosen, config.pictures,
            lambda rows: mask_probabilities(learner, data, rows),
        )  # fmt: skip
        curve = zip(data.findings, map(tuple, global_dice(validation)), strict=True)
        content = {
            **facts,
            "test_metrics": metrics,
            "validation_dice_by_threshold": {name: plain(row) for name, row in curve},
            "pictures": pictures,
        }
        save_report(learner, config, card, content, start)
        return bundle


def fit_segmenter(learner: Learner[Segmenter], config: SegmentConfig, data: MaskedData, log: RunLog) -> int:
    """Trains with the objective of the masks; keeps the checkpoint with the best mean Dice, see fit.

    In the paper's protocol nothing chooses, and the last weights are kept.
    """

    def loss(network: Any, images: Tensor, batch: Batch) -> Tensor:
        films, truth = images[:, :1].float() / 255, images[:, 1:]
        return segmentation_loss(network(learner.preprocess.normalise(films)), truth)

    def evaluate() -> tuple[float, dict[str, Any]]:
        overlaps = overlaps_of(learner, data, data.choosing)
        with_pixels = overlaps.inside.any(axis=0)
        # each finding at its best threshold, as validation will choose it
        best = np.nanmax(global_dice(overlaps)[with_pixels], axis=1)
        macro = macro_mean(best)
        return macro.value, {"dice": macro.value, "findings": macro.entered}

    selection = Selection(
        None if config.protocol == "paper" else evaluate,
        config.validate_every,
        "validation",
        f"Dice of {len(data.choosing)} validation images",
    )
    view = masked_view(data, config.image_size, config.crop, config.distort, config.seed)
    return fit(learner, config, data, log, view=view, loss=loss, selection=selection)


def segmentation_loss(logits: Float[Tensor, "B K h w"], truth: UInt8[Tensor, "B K h w"]) -> Float[Tensor, ""]:
    """Binary cross entropy, the mean over all known pixels of all findings (docs/paper-map.md).

    truth: 1 inside, 0 outside, anything else unknown (left out).
    """
    return known_cross_entropy(logits, (truth == 1).float(), truth <= 1)


def overlaps_of(learner: Learner[Segmenter], data: MaskedData, rows: Int64[np.ndarray, " S"]) -> Overlaps:
    """Overlap of predicted and true masks at the size of the store, in float32."""
    shape = (len(rows), len(data.findings))
    both, called = (np.zeros((*shape, len(THRESHOLDS)), np.int64) for _ in range(2))
    inside = np.zeros(shape, np.int64)
    for at, answer in enumerate(mask_probabilities(learner, data, rows)):
        truth = data.truth(rows[at])
        for k in np.flatnonzero(data.known[rows[at]]):
            both[at, k], called[at, k], inside[at, k] = count_overlap(answer[k], truth[k])
    return Overlaps(both, called, inside, data.store.size**2, data.known[rows])


def mask_probabilities(
    learner: Learner[Segmenter], data: MaskedData, rows: Int64[np.ndarray, " S"]
) -> Iterator[Float[np.ndarray, "K H W"]]:
    """Probability of each pixel of stored images, image by image."""
    store, preprocess = data.store, learner.preprocess
    learner.model.eval()
    for batch in whole_batches(store.pixels, rows, batch_size=BATCH, preprocess=preprocess):
        with torch.inference_mode(), uncompiled():
            images = learner.fabric.to_device(torch.from_numpy(batch)).float() / 255
            answers = torch.sigmoid(learner.model(preprocess.normalise(images)).float()).cpu().numpy()
        for answer in answers:
            yield np.stack([on_film(each, (store.size, store.size)) for each in answer])


def segmenter_protocol(config: SegmentConfig, data: MaskedData) -> dict[str, Any]:
    """What every number of the run must carry."""
    if config.protocol == "paper":
        chosen = {
            "name": "paper",
            "note": "last checkpoint and threshold 0.3, as in the paper's code; validation chose nothing",
            "checkpoint_chosen_on": "nothing: the last one",
            "thresholds_chosen_on": "nothing: 0.3",
        }
    else:
        chosen = {
            "checkpoint_chosen_on": f"mean Dice of {len(data.choosing)} validation images",
            "thresholds_chosen_on": "validation, Dice of all pixels together",
        }
    return protocol_card(
        config, data.store, train=data.train, validation=data.validation, test=data.test, **chosen,
        films_without_the_finding=config.absent, scored_at=f"{data.store.size} x {data.store.size} pixels",
    )  # fmt: skip

"""The answers of classifiers and segmenters on films as deployment sees them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from lightning_fabric import Fabric

from evax.data.loader import whole_batches
from evax.data.masked import MaskedFilms
from evax.data.preprocess import Preprocess, on_film
from evax.data.store import ImageStore
from evax.evaluation.segmentation import THRESHOLDS, Overlaps, count_overlap
from evax.models.classifier import Classifier, probabilities
from evax.models.segmenter import Segmenter
from evax.runs.device import uncompiled

BATCH, MASK_BATCH = 64, 8


def predict_rows(
    model: Classifier,
    store: ImageStore,
    rows: Int64[np.ndarray, " rows"],
    preprocess: Preprocess,
    exclusive: bool,
    fabric: Fabric,
) -> Float[np.ndarray, "rows K"]:
    """Probabilities of films, in float32 as the classifier will be deployed, whatever it is trained in.

    exclusive: softmax instead of sigmoids.
    """
    model.eval()
    results = [np.empty((0, model.head.out_features), np.float32)]  # no rows, no batches
    with torch.inference_mode(), uncompiled():
        for batch in whole_batches(store.pixels, rows, batch_size=BATCH, preprocess=preprocess):
            films = fabric.to_device(torch.from_numpy(batch)).float() / 255
            logits = model(preprocess.normalise(films))
            results.append(probabilities(logits, exclusive).cpu().numpy())
    return np.concatenate(results)


def overlaps_of(
    model: Segmenter,
    films: MaskedFilms,
    rows: Int64[np.ndarray, " S"],
    preprocess: Preprocess,
    fabric: Fabric,
) -> Overlaps:
    """What a segmenter's masks have in common with the true ones, at the size of the store, in float32."""
    shape = (len(rows), len(films.findings))
    both, called = (np.zeros((*shape, len(THRESHOLDS)), np.int64) for _ in range(2))
    inside = np.zeros(shape, np.int64)
    for at, answer in enumerate(mask_probabilities(model, films.store, rows, preprocess, fabric)):
        truth = films.truth(rows[at])
        for k in np.flatnonzero(films.known[rows[at]]):
            both[at, k], called[at, k], inside[at, k] = count_overlap(answer[k], truth[k])
    return Overlaps(both, called, inside, films.store.size**2, films.known[rows])


def mask_probabilities(
    model: Segmenter,
    store: ImageStore,
    rows: Int64[np.ndarray, " S"],
    preprocess: Preprocess,
    fabric: Fabric,
) -> Iterator[Float[np.ndarray, "K H W"]]:
    """How probably each pixel of the stored films lies inside, film by film."""
    model.eval()
    shape = (store.size, store.size)
    for batch in whole_batches(store.pixels, rows, batch_size=MASK_BATCH, preprocess=preprocess):
        with torch.inference_mode(), uncompiled():
            images = fabric.to_device(torch.from_numpy(batch)).float() / 255
            answers = torch.sigmoid(model(preprocess.normalise(images)).float()).cpu().numpy()
        for answer in answers:
            yield np.stack([on_film(each, shape) for each in answer])

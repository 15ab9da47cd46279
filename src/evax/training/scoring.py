"""A classifier's answers on films as deployment sees them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from lightning_fabric import Fabric

from evax.data.loader import whole_batches
from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore
from evax.models.classifier import Classifier, probabilities
from evax.training.runtime import uncompiled

BATCH = 64


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

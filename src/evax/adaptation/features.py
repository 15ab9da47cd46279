"""Frozen features of stored images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from lightning_fabric import Fabric

from evax.data.loader import whole_batches
from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore
from evax.models.encoders import Encoded, Encoder
from evax.runs.device import uncompiled

BATCH = 64


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Images of a split, S of a store, with what a frozen encoder makes of them."""

    rows: Int64[np.ndarray, " S"]
    """Of the store."""
    features: Float[np.ndarray, "S D"]
    labels: Float[np.ndarray, "S K"]
    """1, 0 or NaN."""

    def only(self, rows: Int64[np.ndarray, " _"]) -> EncodedImages:
        """Those of the images that are among these rows."""
        kept = np.isin(self.rows, rows)
        return EncodedImages(self.rows[kept], self.features[kept], self.labels[kept])


def encode_images(
    encoder: Encoder, films: UInt8[np.ndarray, "B 1 H W"], preprocess: Preprocess, fabric: Fabric
) -> Encoded:
    """What the encoder makes of images at its input size, normalised here."""
    images = fabric.to_device(torch.from_numpy(films)).float() / 255
    with fabric.autocast(), uncompiled():
        return encoder.encode(preprocess.normalise(images))


@torch.no_grad()
def image_features(
    encoder: Encoder,
    store: ImageStore,
    rows: Int64[np.ndarray, " rows"],
    preprocess: Preprocess,
    fabric: Fabric,
    on_film: Callable[[], None] = lambda: None,
) -> Float[np.ndarray, "rows D"]:
    """Mean of the patches of images as evaluation sees them. on_film: called after each."""
    was_training = encoder.training
    encoder.eval()
    features = []
    for batch in whole_batches(store.pixels, rows, batch_size=BATCH, preprocess=preprocess):
        patches = encode_images(encoder, batch, preprocess, fabric).patches
        features.append(patches.float().mean(dim=1).cpu().numpy())
        for _ in batch:
            on_film()
    encoder.train(was_training)
    return np.concatenate(features)

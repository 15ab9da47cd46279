"""How good are frozen features? Nearest neighbours and effective rank, on a labelled store."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from lightning_fabric import Fabric

from evax.data.labels import resolve_labels
from evax.data.loader import whole_batches
from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore, open_store
from evax.errors import DataError
from evax.evaluation.embedding import knn_auroc, rank_me
from evax.evaluation.linear import fit_linear_probe
from evax.models.encoders import Encoded, Encoder
from evax.training.runtime import uncompiled

BATCH = 64
STRENGTH = 1e-2  # of the linear probe: in the middle of those that evax probe tries
VOTERS = 1000  # more neighbours to choose from change little and cost time in every probe


@dataclass(frozen=True)
class ProbeResult:
    """Features of the train split vote on the films of the validation split."""

    knn_auc: float
    """Mean AUROC of the findings that are defined; NaN when none is."""
    findings: int
    """How many findings entered the mean."""
    linear_auc: float
    """The same of a linear probe on the films that vote."""
    rankme: float
    """exp(entropy of the singular values) of the validation features, between 1 and the width."""
    store: str
    """Fingerprint of the labelled store: probes on different stores are no common measure."""

    def to_json(self) -> dict[str, float | int | str | None]:
        """Undefined is None."""
        return {
            "knn_auc": None if math.isnan(self.knn_auc) else self.knn_auc,
            "knn_findings": self.findings,
            "linear_auc": None if math.isnan(self.linear_auc) else self.linear_auc,
            "rankme": self.rankme,
            "probe_store": self.store,
        }


@dataclass(frozen=True, eq=False)
class EncodedFilms:
    """Films of a split, S of a store, with what a frozen encoder makes of them."""

    rows: Int64[np.ndarray, " S"]
    """Of the store."""
    features: Float[np.ndarray, "S D"]
    labels: Float[np.ndarray, "S K"]
    """1, 0 or NaN."""

    def only(self, rows: Int64[np.ndarray, " _"]) -> EncodedFilms:
        """Those of the films that are among these rows."""
        kept = np.isin(self.rows, rows)
        return EncodedFilms(self.rows[kept], self.features[kept], self.labels[kept])


def open_probe_store(path: Path) -> ImageStore:
    """A store whose train films can vote on its validation films."""
    store = open_store(path)
    if not store.manifest.findings:
        raise DataError(f"The probe store {path} has no labels; nothing can be probed with it.")
    for split in ("train", "val"):
        if not len(store.rows(split)):
            raise DataError(
                f"The probe store {path} has no {split} films: prepare it with --validation above 0."
            )
    return store


def encode_films(
    encoder: Encoder, films: UInt8[np.ndarray, "B 1 H W"], preprocess: Preprocess, fabric: Fabric
) -> Encoded:
    """What the encoder makes of films at its input size, normalised here."""
    images = fabric.to_device(torch.from_numpy(films)).float() / 255
    with fabric.autocast(), uncompiled():
        return encoder.encode(preprocess.normalise(images))


@torch.no_grad()
def film_features(
    encoder: Encoder,
    store: ImageStore,
    rows: Int64[np.ndarray, " rows"],
    preprocess: Preprocess,
    fabric: Fabric,
    on_film: Callable[[], None] = lambda: None,
) -> Float[np.ndarray, "rows D"]:
    """Mean of the patches of films as evaluation sees them. on_film: called after each."""
    was_training = encoder.training
    encoder.eval()
    features = []
    for batch in whole_batches(store.pixels, rows, batch_size=BATCH, preprocess=preprocess):
        patches = encode_films(encoder, batch, preprocess, fabric).patches
        features.append(patches.float().mean(dim=1).cpu().numpy())
        for _ in batch:
            on_film()
    encoder.train(was_training)
    return np.concatenate(features)


def probe(encoder: Encoder, store: ImageStore, preprocess: Preprocess, fabric: Fabric) -> ProbeResult:
    """KNN and linear AUROC from train to validation films of a labelled store, and RankMe. The test split is
    not touched.
    """
    labels = resolve_labels(store.manifest.labels(), uncertain="ignore", blank="ignore")
    train, val = store.rows("train"), store.rows("val")
    train = train[:: math.ceil(len(train) / VOTERS)]
    train_features = film_features(encoder, store, train, preprocess, fabric)
    val_features = film_features(encoder, store, val, preprocess, fabric)
    macro = knn_auroc(train_features, labels[train], val_features, labels[val])
    linear_auc = math.nan
    if macro.entered:
        fitted = fit_linear_probe(
            train_features, labels[train], val_features, labels[val], store.manifest.exclusive,
            strengths=(STRENGTH,),
        )  # fmt: skip
        linear_auc = fitted.validation_mauc[STRENGTH]
    return ProbeResult(macro.value, macro.entered, linear_auc, rank_me(val_features), store.fingerprint)

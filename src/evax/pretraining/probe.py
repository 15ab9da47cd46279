"""How good are frozen features? Nearest neighbours and effective rank, on a labelled store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric

from evax.adaptation.features import image_features
from evax.data.labels import resolve_labels
from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore, open_store
from evax.errors import DataError
from evax.evaluation.embedding import fit_linear_probe, knn_auroc, rank_me
from evax.models.encoders import Encoder

STRENGTH = 1e-2  # of the linear probe: the middle of those that evax probe tries
VOTERS = 1000  # training images; more change little and cost time


@dataclass(frozen=True)
class ProbeResult:
    """Scores of frozen features on the validation split."""

    knn_auc: float
    """Mean AUROC of the findings that are defined; NaN when none is."""
    findings: int
    """Number of findings in the mean."""
    linear_auc: float
    """The same of a linear probe on the images that vote."""
    rankme: float
    """exp(entropy of the singular values) of the validation features, between 1 and the width."""
    store: str
    """Fingerprint of the labelled store: only probes on one store are comparable."""

    def to_json(self) -> dict[str, float | int | str | None]:
        """Undefined is None."""
        return {
            "knn_auc": None if math.isnan(self.knn_auc) else self.knn_auc,
            "knn_findings": self.findings,
            "linear_auc": None if math.isnan(self.linear_auc) else self.linear_auc,
            "rankme": self.rankme,
            "probe_store": self.store,
        }


def open_probe_store(path: Path) -> ImageStore:
    """A labelled store with training and validation images. Raises DataError for any other."""
    store = open_store(path)
    if not store.manifest.findings:
        raise DataError(f"The probe store {path} has no labels: choose a labelled store.")
    for split in ("train", "val"):
        if not len(store.rows(split)):
            raise DataError(
                f"The probe store {path} has no {split} images: prepare it with --validation above 0."
            )
    return store


def probe_features(
    encoder: Encoder, store: ImageStore, preprocess: Preprocess, fabric: Fabric
) -> ProbeResult:
    """KNN and linear AUROC from train to validation images of a labelled store, and RankMe of the latter."""
    labels = resolve_labels(store.manifest.labels(), uncertain="ignore", blank="ignore")
    train, val = store.rows("train"), store.rows("val")
    train = train[:: math.ceil(len(train) / VOTERS)]
    train_features = image_features(encoder, store, train, preprocess, fabric)
    val_features = image_features(encoder, store, val, preprocess, fabric)
    macro = knn_auroc(train_features, labels[train], val_features, labels[val])
    linear_auc = math.nan
    if macro.entered:
        fitted = fit_linear_probe(
            train_features, labels[train], val_features, labels[val], store.manifest.exclusive,
            strengths=(STRENGTH,),
        )  # fmt: skip
        linear_auc = fitted.validation_mauc[STRENGTH]
    return ProbeResult(macro.value, macro.entered, linear_auc, rank_me(val_features), store.fingerprint)

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


def probe(encoder: Encoder, store: ImageStore, preprocess: Preprocess, fabric: Fabric) -> ProbeResult:
    """KNN and linear AUROC from train to validation films of a labelled store, and RankMe. The test split is
    not touched.
    """
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

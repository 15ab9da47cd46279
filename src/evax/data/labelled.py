"""A labelled store, ready to learn from: its labels after the policies, and the films of each split."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int64

from evax.data.labels import Blank, TrainingUncertain, blank_policy, resolve_labels
from evax.data.split import split_position
from evax.data.store import ImageStore
from evax.errors import ConfigError, DataError, unknown_name
from evax.findings import canonical

Rows = Int64[np.ndarray, " _"]


def with_findings(store: ImageStore, findings: Sequence[str]) -> ImageStore:
    """The store as if its table had only these findings, in this order; no findings: the store as it is.

    Raises ConfigError for an unknown finding, and for a choice among exclusive ones, which would leave films
    without any.
    """
    chosen = tuple(canonical(name) for name in findings)
    if not chosen or chosen == store.manifest.findings:
        return store
    if unknown := [name for name in chosen if name not in store.manifest.findings]:
        raise unknown_name(f"finding of {store.path}", unknown[0], store.manifest.findings)
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"findings must be different ones, got {', '.join(chosen)}.")
    if store.manifest.exclusive and len(chosen) < len(store.manifest.findings):
        raise ConfigError(f"Every film of {store.path} has exactly one of its findings: use all of them.")
    narrowed = copy.copy(store)
    narrowed.manifest = replace(store.manifest, findings=chosen)
    return narrowed


def known_labels(
    store: ImageStore, uncertain: TrainingUncertain, blank: Blank | None, seed: int = 0
) -> Float[np.ndarray, "S K"]:
    """Labels after the policies for uncertain and blank. seed: of the policy "smooth".

    Raises DataError for a store without findings.
    """
    if not store.manifest.findings:
        raise DataError(f"The store {store.path} has no labels: prepare it from a source with findings.")
    policy = blank_policy(store.manifest.source, blank)
    findings = store.manifest.findings
    return resolve_labels(store.manifest.labels(), uncertain, policy, findings=findings, seed=seed)


def split_rows(
    store: ImageStore, label_fraction: float = 1.0, seed: int = 0, *, needs_validation: bool = True
) -> tuple[Rows, Rows, Rows]:
    """Rows of train, val and test; of train only a share of its patients.

    label_fraction: in (0, 1], rounded up to whole patients; those of a smaller share are among those of a
    larger one. seed: another one chooses other patients. needs_validation: False lets val be empty.
    Raises DataError for a split without films.
    """
    train, val, test = (store.rows(name) for name in ("train", "val", "test"))
    for name, rows in (("train", train), ("val", val), ("test", test)):
        if not len(rows) and (name != "val" or needs_validation):
            raise DataError(
                f"The store {store.path} has no {name} films: prepare it with shares for all splits."
            )
    patients = store.manifest.table["patient"].to_numpy(dtype=str)
    people = in_drawn_order(patients[train], seed + 1)  # another order than the one that made the splits
    chosen = people[: math.ceil(label_fraction * len(people))]
    return train[np.isin(patients[train], chosen)], val, test


def capped_rows(store: ImageStore, rows: Rows, cap: int | None) -> Rows:
    """At most `cap` films, all of a patient together, the same ones whatever the seed of the run.

    The first patient is kept whole even when he has more films than that. None: all films.
    """
    patients = store.manifest.table["patient"].to_numpy(dtype=str)[rows]
    if cap is None or cap >= len(rows):
        return rows
    people = in_drawn_order(patients, seed=0)
    films = np.cumsum([np.count_nonzero(patients == patient) for patient in people])
    kept = max(1, int(np.searchsorted(films, cap, side="right")))
    return rows[np.isin(patients, people[:kept])]


def in_drawn_order(patients: np.ndarray, seed: int) -> list[str]:
    """Each patient once, in an order that is a pure function of patient and seed."""
    return sorted(set(patients.tolist()), key=lambda patient: split_position(patient, seed))

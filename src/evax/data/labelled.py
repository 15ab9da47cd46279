"""A labelled store, ready to learn from: its labels after the policies, and the films of each split."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int64

from evax.data.labels import Blank, Uncertain, blank_policy, resolve_labels
from evax.data.split import split_position
from evax.data.store import ImageStore
from evax.errors import DataError

Rows = Int64[np.ndarray, " _"]


def known_labels(store: ImageStore, uncertain: Uncertain, blank: Blank | None) -> Float[np.ndarray, "S K"]:
    """Labels after the policies for uncertain and blank. Raises DataError for a store without findings."""
    if not store.manifest.findings:
        raise DataError(f"The store {store.path} has no labels: prepare it from a source with findings.")
    policy = blank_policy(store.manifest.source, blank)
    return resolve_labels(store.manifest.labels(), uncertain, policy)


def split_rows(store: ImageStore, label_fraction: float = 1.0, seed: int = 0) -> tuple[Rows, Rows, Rows]:
    """Rows of train, val and test; of train only a share of its patients.

    label_fraction: in (0, 1], rounded up to whole patients; those of a smaller share are among those of a
    larger one. seed: another one chooses other patients.
    Raises DataError for a split without films.
    """
    train, val, test = (store.rows(name) for name in ("train", "val", "test"))
    for name, rows in (("train", train), ("val", val), ("test", test)):
        if not len(rows):
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

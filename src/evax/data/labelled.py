"""A labelled store, ready to learn from: its labels after the policies, and the images of each split."""

from __future__ import annotations

import copy
import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from evax.data.labels import Blank, SplitBy, TrainingUncertain, blank_policy, resolve_labels
from evax.data.manifest import SPLITS
from evax.data.sources.tables import read_text_table
from evax.data.split import SPLIT_WORDS, file_key, split_position
from evax.data.store import ImageStore
from evax.errors import ConfigError, DataError, unknown_name
from evax.findings import as_spelled
from evax.rounding import exact

Rows = Int64[np.ndarray, " _"]


def with_findings(store: ImageStore, findings: Sequence[str]) -> ImageStore:
    """The store as if its table had only these findings, in this order; no findings: the store as it is.

    Raises ConfigError for an unknown finding, and for a choice among exclusive ones, which would leave images
    without any.
    """
    chosen = tuple(as_spelled(name, store.manifest.findings) for name in findings)
    if not chosen or chosen == store.manifest.findings:
        return store
    if unknown := [name for name in chosen if name not in store.manifest.findings]:
        raise unknown_name(f"finding of {store.path}", unknown[0], store.manifest.findings)
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"findings must be different ones, got {', '.join(chosen)}.")
    if store.manifest.exclusive and len(chosen) < len(store.manifest.findings):
        raise ConfigError(f"Every image of {store.path} has exactly one of its findings: use all of them.")
    narrowed = copy.copy(store)
    narrowed.manifest = replace(store.manifest, findings=chosen)
    return narrowed


def known_labels(
    store: ImageStore,
    uncertain: TrainingUncertain,
    blank: Blank | None,
    ones: Sequence[str] = (),
    seed: int = 0,
) -> Float[np.ndarray, "S K"]:
    """Labels after the policies for uncertain and blank.

    ones: findings whose uncertain labels count as present. seed: of the policy "smooth".
    Raises DataError for a store without findings, ConfigError for one of ones that it does not have.
    """
    if not store.manifest.findings:
        raise DataError(f"The store {store.path} has no labels: prepare it from a source with findings.")
    policy = blank_policy(store.manifest.source, blank)
    findings, present = store.manifest.findings, [as_spelled(name, store.manifest.findings) for name in ones]
    if unknown := [name for name in present if name not in findings]:
        raise unknown_name(f"finding of {store.path}", unknown[0], findings)
    return resolve_labels(
        store.manifest.labels(), uncertain, policy, findings=findings, ones=present, seed=seed
    )


def split_rows(
    store: ImageStore,
    table: Path | None = None,
    by: SplitBy = "patient",
    *,
    needs_validation: bool = True,
) -> tuple[Rows, Rows, Rows]:
    """Rows of train, val and test: the store's own split, or that of a table.

    table: CSV with the columns image and split (train, val, test); images it does not name are left out.
    by: "film" lets a patient have images in several splits of the table. needs_validation: False lets val be
    empty.
    Raises DataError for a split without images, a table that does not fit the store, and patients in two
    splits.
    """
    if table is None:
        named = store.manifest.table["split"].to_numpy(dtype=str)
    else:
        named = np.array(
            [SPLIT_WORDS.get(word.strip().lower(), word) for word in column_of(store, table, "split")]
        )
        if unknown := sorted(set(named.tolist()) - {"", *SPLITS}):
            raise DataError(f"{table} has the split '{unknown[0]}'; known: {', '.join(SPLITS)}.")
    train, val, test = (np.flatnonzero(named == name) for name in SPLITS)
    for name, rows in (("train", train), ("val", val), ("test", test)):
        if not len(rows) and (name != "val" or needs_validation):
            where = f"{table} names" if table else f"The store {store.path} has"
            mend = "name some" if table else "prepare it with shares for all splits"
            raise DataError(f"{where} no {name} images: {mend}.")
    if table is not None and by == "patient" and (shared := shared_patients(store, (train, val, test))):
        raise DataError(
            f"{table} puts images of {shared} patients into more than one split: what is learned from one "
            "image of a patient is then tested on another. Keep patients together, or give --split-by film, "
            "which every report will say."
        )
    return train, val, test


def column_of(store: ImageStore, table: Path, column: str) -> list[str]:
    """A column of a CSV table, one value per image of the store; "" where the table has none.

    The table's key is its column image or, without one, patient.
    Raises DataError for a table that cannot be read, lacks a column, or names what the store does not hold.
    """
    content = read_text_table(table, next_step="Check the path.")
    key = "image" if "image" in content else "patient"
    for name in (key, column):
        if name not in content:
            raise DataError(
                f"The table {table} lacks the column {name}; it has {', '.join(map(str, content))}."
            )
    keys = store.manifest.table[key]
    spelling = file_key if key == "image" else partial(unicodedata.normalize, "NFC")
    times = Counter(map(spelling, set(keys)))
    known = {spelling(name): name for name in keys if times[spelling(name)] == 1} | dict(
        zip(keys, keys, strict=True)
    )
    content[key] = [known.get(name, known.get(spelling(name), name)) for name in content[key]]
    if len(strange := content[~content[key].isin(keys)]):
        raise DataError(
            f"{len(strange)} of the {len(content)} rows of {table} are of no {key} in {store.path}, "
            f"as {strange[key].iloc[0]}."
        )
    if (twice := content[key].duplicated()).any():
        raise DataError(f"{table} names {content.loc[twice, key].iloc[0]} twice.")
    values: list[str] = keys.map(dict(zip(content[key], content[column], strict=True))).fillna("").tolist()
    return values


def shared_patients(store: ImageStore, parts: Sequence[Rows]) -> int:
    """How many patients have images in more than one of these sets of rows."""
    patients = store.manifest.table["patient"].to_numpy(dtype=str)
    places = Counter(patient for rows in parts for patient in set(patients[rows].tolist()))
    return sum(count > 1 for count in places.values())


def data_fingerprint(store: ImageStore, table: Path | None) -> str:
    """Of images, labels and split: the store's own, followed by that of a table in place of its split."""
    if table is None:
        return store.fingerprint
    try:
        content = table.read_bytes()
    except OSError as error:
        raise DataError(f"The table {table} cannot be read: {error.strerror}.") from error
    return f"{store.fingerprint}+{hashlib.blake2b(content, digest_size=16).hexdigest()}"


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Train, validation and test images of a store with their labels, for one run."""

    store: ImageStore
    labels: Float[np.ndarray, "S K"]
    """What predictions are scored against."""
    train_labels: Float[np.ndarray, "S K"]
    """Labels for training, which may count uncertain ones differently."""
    pool: Rows
    """Rows of the train split; an epoch has as many, whatever share of the labels is used."""
    train: Rows
    """Rows whose labels are used."""
    epochs: Sequence[Rows] | None
    """Which of `train` each epoch shows; None: all of them."""
    choosing: Rows
    """Rows that choose the checkpoint."""
    validation: Rows
    test: Rows
    sources: Sequence[str] | None
    """Where each image of the store comes from, for scores by source; None: not known."""

    @property
    def findings(self) -> tuple[str, ...]:
        return self.store.manifest.findings

    @property
    def patients(self) -> np.ndarray:
        """Of each image of the store."""
        return self.store.manifest.table["patient"].to_numpy(dtype=str)

    @property
    def exclusive(self) -> bool:
        """Exactly one finding is true per image."""
        return self.store.manifest.exclusive


@dataclass(frozen=True, eq=False)
class LabelShare:
    """Which training patients give their labels."""

    fraction: float = 1.0
    """In (0, 1], rounded up to whole patients."""
    count: int | None = None
    """So many patients instead."""
    stratify: Float[np.ndarray, "S K"] | None = None
    """Labels of all images of the store: each finding keeps its share of the patients; None: chance alone."""

    def patients(self, available: int) -> int:
        """How many that are. Raises DataError when fewer are available."""
        if self.count is not None and self.count > available:
            raise DataError(
                f"There are {available} training patients, {self.count} were asked for: ask for fewer."
            )
        return self.count or math.ceil(exact(self.fraction) * available)

    def draw(self, store: ImageStore, rows: Rows, seed: int, epoch: int = 0) -> Rows:
        """Images of the drawn patients; those of a smaller share are among those of a larger one.

        rows: images to draw from. seed, epoch: another one chooses other patients.
        """
        patients = store.manifest.table["patient"].to_numpy(dtype=str)[rows]
        strata = None if self.stratify is None else strata_of(self.stratify[rows])
        purpose = f"epoch {epoch}:" if epoch else ""
        # seed + 1: another order than the one that made the splits
        people = in_drawn_order(patients, seed + 1, strata, purpose)
        return rows[np.isin(patients, people[: self.patients(len(people))])]


def redrawn_epochs(
    store: ImageStore, rows: Rows, share: LabelShare, seed: int, films: int
) -> tuple[Rows, list[Rows]]:
    """A training of so many images that draws its patients anew at each epoch; the first epoch is `draw`'s.

    rows: images to draw from. Returns the images that are shown at all, and of each epoch which of them.
    """
    drawn: list[Rows] = []
    while films > 0:
        drawn.append(share.draw(store, rows, seed, epoch=len(drawn)))
        films -= len(drawn[-1])
    shown = np.unique(np.concatenate(drawn))
    return shown, [np.searchsorted(shown, part) for part in drawn]


def capped_rows(store: ImageStore, rows: Rows, cap: int | None) -> Rows:
    """At most `cap` images, all of a patient together, the same ones whatever the seed of the run.

    The first patient is kept whole even when he has more images than that. None: all images.
    """
    patients = store.manifest.table["patient"].to_numpy(dtype=str)[rows]
    if cap is None or cap >= len(rows):
        return rows
    people = in_drawn_order(patients, seed=0)
    films = np.cumsum([np.count_nonzero(patients == patient) for patient in people])
    kept = max(1, int(np.searchsorted(films, cap, side="right")))
    return rows[np.isin(patients, people[:kept])]


def in_drawn_order(
    patients: np.ndarray,
    seed: int,
    strata: Int64[np.ndarray, " _"] | None = None,
    purpose: str = "",
) -> list[str]:
    """Each patient once, in an order that is a pure function of patient and seed.

    strata: of each image, see strata_of. Every first part of the order then holds about its share of the
    patients of each stratum.
    purpose: keeps orders of one seed that serve different ends apart.
    """
    drawn = sorted(set(patients.tolist()), key=lambda patient: split_position(f"{purpose}{patient}", seed))
    if strata is None:
        return drawn
    stratum_of = stratum_of_each(patients, strata)
    members, dealt = Counter(stratum_of.values()), Counter[int]()
    place = {}
    for patient in drawn:
        stratum = stratum_of[patient]
        # each stratum is spread evenly over (0, 1), from an offset of its own
        offset = split_position(f"{purpose}stratum {stratum}", seed)
        place[patient] = (dealt[stratum] + offset) / members[stratum]
        dealt[stratum] += 1
    return sorted(drawn, key=lambda patient: place[patient])


def stratum_of_each(patients: np.ndarray, strata: Int64[np.ndarray, " _"]) -> dict[str, int]:
    """The stratum of every patient: the rarest of his images."""
    stratum_of: dict[str, int] = {}
    for patient, stratum in zip(patients.tolist(), strata.tolist(), strict=True):
        stratum_of[patient] = min(stratum, stratum_of.get(patient, stratum))
    return stratum_of


def strata_of(labels: Float[np.ndarray, "_ K"]) -> Int64[np.ndarray, " _"]:
    """One class per image, also where images have several findings: the rarest one that is present.

    Returns its rank by number of images, 0 for the rarest finding of all, K for an image with none.
    """
    present = labels == 1
    rank = present.sum(axis=0).argsort(kind="stable").argsort(kind="stable")
    return np.where(present, rank, labels.shape[1]).min(axis=1)

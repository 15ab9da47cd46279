"""Folds of a cross-validation: which films train, choose and are tested, in each of several runs.

Shape legend: S films of the store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from evax.data.labelled import Rows, in_drawn_order, stratum_of_each
from evax.data.manifest import SPLITS
from evax.data.store import ImageStore
from evax.errors import ConfigError, DataError
from evax.files import read_text, write_text
from evax.rounding import exact

MOST_VALUES = 50  # one run each; more values than this are no sites


@dataclass(frozen=True, eq=False)
class Fold:
    """One run of a cross-validation; rows of the store, in order."""

    name: str
    train: Rows
    validation: Rows
    test: Rows


@dataclass(frozen=True, eq=False)
class Divider:
    """Divides films into folds, and carves the validation films of each fold out of its training part."""

    units: np.ndarray
    """(S,) what is kept together: the patient of each film, or the film itself."""
    strata: Int64[np.ndarray, " S"] | None
    """See strata_of: each fold holds its share of every stratum, to within one unit. None: chance alone."""
    divided: Bool[np.ndarray, " S"]
    """Films that are tested, all of a unit or none; the others only train."""
    validation: float
    """Share of a fold's other divided units that choose instead of training, in (0, 1)."""
    seed: int

    def equal_folds(self, folds: int) -> list[Fold]:
        """Folds of nearly as many units each; every divided film is tested exactly once.

        Raises DataError for fewer units than folds, and a fold without films to train on.
        """
        units = self.units[self.divided]
        order = in_drawn_order(units, self.seed, purpose="fold:")
        if len(order) < folds:
            raise DataError(
                f"{len(order)} patients or films are too few for {folds} folds: give fewer folds."
            )
        if self.strata is not None:  # dealt out like cards, one stratum after the other
            stratum_of = stratum_of_each(units, self.strata[self.divided])
            order.sort(key=lambda unit: stratum_of[unit])
        fold_of = {unit: place % folds for place, unit in enumerate(order)}
        number = np.array([fold_of.get(unit, -1) for unit in self.units.tolist()])
        return [self._fold(str(k), number == k, number != k) for k in range(folds)]

    def folds_by_value(self, values: Sequence[str], what: str) -> list[Fold]:
        """One fold per value (a hospital), whose films are tested; films of the other values train.

        values: of each film. what: the name of these values, for errors.
        A patient with films of several values trains nothing where one of them is tested.
        Raises DataError when a film has no value, there are fewer than two values or very many, and for a
        fold without films to train on.
        """
        value = np.array(values)
        if blank := int((value == "").sum()):
            raise DataError(
                f"{blank} of the {len(value)} films have no {what}: name it for all films, or prepare a "
                "store without them."
            )
        known = sorted(set(value[self.divided].tolist()))
        if not 2 <= len(known) <= MOST_VALUES:
            raise DataError(
                f"{what} has {len(known)} values; one is left out at a time, of 2 to {MOST_VALUES}."
            )
        return [
            self._fold(
                name,
                self.divided & (value == name),
                (value != name) & ~np.isin(self.units, self.units[value == name]),
            )
            for name in known
        ]

    def _fold(self, name: str, test: Bool[np.ndarray, " S"], rest: Bool[np.ndarray, " S"]) -> Fold:
        films = rest & self.divided
        strata = None if self.strata is None else self.strata[films]
        order = in_drawn_order(self.units[films], self.seed, strata, "validation:")
        chosen = np.isin(self.units, order[: math.ceil(exact(self.validation) * len(order))])
        train, validation = (np.flatnonzero(rest & part) for part in (~chosen, chosen))
        if not len(train) or not len(validation):
            raise DataError(
                f"Beside the {np.count_nonzero(test)} test films of fold {name} there are {len(train)} films "
                f"to train on and {len(validation)} to choose with. Use more data or another share."
            )
        return Fold(name, train, validation, np.flatnonzero(test))


def write_fold(fold: Fold, store: ImageStore, path: Path) -> None:
    """A table of image and split, as split_rows reads it; one that exists is kept.

    Raises ConfigError when it exists and is of another fold: the run in its folder learned from that one.
    """
    split = np.full(len(store), "", dtype=object)
    for name, rows in zip(SPLITS, (fold.train, fold.validation, fold.test), strict=True):
        split[rows] = name
    table = pd.DataFrame({"image": store.manifest.table["image"], "split": split})
    text = table[table["split"] != ""].to_csv(index=False)
    if path.is_file() and read_text(path) != text:
        raise ConfigError(
            f"{path} holds another fold. Choose another --out, or the data and options of before."
        )
    write_text(text, path)

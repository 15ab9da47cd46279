"""Folds of a cross-validation: train, validation and test images of each of several runs.

Shape legend: S images of the store.
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

MOST_VALUES = 50  # one run each; a column with more values does not hold sites


@dataclass(frozen=True, eq=False)
class Fold:
    """One run of a cross-validation; rows of the store, in order."""

    name: str
    train: Rows
    validation: Rows
    test: Rows


@dataclass(frozen=True, eq=False)
class Divider:
    """Divides images into folds, and takes the validation images of each fold out of its training part."""

    units: np.ndarray
    """(S,) what is kept together: the patient of each image, or the image itself."""
    strata: Int64[np.ndarray, " S"] | None
    """See strata_of: each fold has its share of every stratum, to within one unit. None: random folds."""
    divided: Bool[np.ndarray, " S"]
    """Images that are tested, all of a unit or none; the others only train."""
    validation: float
    """Share of the divided units outside the test part that validate instead of training, in (0, 1)."""
    seed: int

    def equal_folds(self, folds: int) -> list[Fold]:
        """Folds of nearly as many units each; every divided image is tested exactly once.

        Raises DataError for fewer units than folds, and a fold without training or validation images.
        """
        units = self.units[self.divided]
        order = in_drawn_order(units, self.seed, purpose="fold:")
        if len(order) < folds:
            raise DataError(
                f"{len(order)} patients or images are too few for {folds} folds: give fewer folds."
            )
        if self.strata is not None:  # assigned in turn, one stratum after the other
            stratum_of = stratum_of_each(units, self.strata[self.divided])
            order.sort(key=lambda unit: stratum_of[unit])
        fold_of = {unit: place % folds for place, unit in enumerate(order)}
        number = np.array([fold_of.get(unit, -1) for unit in self.units.tolist()])
        return [self._fold(str(k), number == k, number != k) for k in range(folds)]

    def folds_by_value(self, values: Sequence[str], what: str) -> list[Fold]:
        """One fold per value (a hospital), whose images are tested; images of the other values train.

        values: of each image. what: the name of these values, for errors.
        A patient with images of several values does not train where one of them is tested.
        Raises DataError for an image without a value, fewer than two values or very many, and a fold without
        training or validation images.
        """
        value = np.array(values)
        if blank := int((value == "").sum()):
            raise DataError(
                f"{blank} of the {len(value)} images have no {what}: name it for all images, or prepare a "
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
        rows = rest & self.divided
        strata = None if self.strata is None else self.strata[rows]
        order = in_drawn_order(self.units[rows], self.seed, strata, "validation:")
        chosen = np.isin(self.units, order[: math.ceil(exact(self.validation) * len(order))])
        train, validation = (np.flatnonzero(rest & part) for part in (~chosen, chosen))
        if not len(train) or not len(validation):
            raise DataError(
                f"Fold {name} has {np.count_nonzero(test)} test images, {len(train)} training and "
                f"{len(validation)} validation images. Use more data or another share (--validation)."
            )
        return Fold(name, train, validation, np.flatnonzero(test))


def write_fold(fold: Fold, store: ImageStore, path: Path) -> None:
    """Writes a table of image and split, as split_rows reads it; one that exists is kept.

    Raises ConfigError if it exists and is of another fold: the run in its folder was trained on that one.
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

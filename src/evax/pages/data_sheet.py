"""The section of a page that is about a store: what it holds, how it is divided, what it looks like."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from evax.data.leaks import unnamed_patients
from evax.data.manifest import SPLITS
from evax.data.store import ImageStore
from evax.pages.figures import age_histogram
from evax.pages.pictures import data_uri, film_picture

EXAMPLES_IN_A_ROW = 6  # on a screen of 1280 pixels


def data_sheet(name: str, store: ImageStore) -> dict[str, Any]:
    """What a reader must know of a store before believing a number measured on it."""
    table, ages = store.manifest.table, store.manifest.table["age"].to_numpy(dtype=np.float64)
    splits = [split for split in (*SPLITS, "") if (table["split"] == split).any()]  # "": left out of all
    known = ages[np.isfinite(ages)]
    quartiles = np.percentile(known, [25, 50, 75]) if len(known) else None
    return {
        "name": name,
        "store": store,
        "patients": people(table),
        "unnamed": unnamed_patients(store),
        "splits": [
            (split or "no split", len(part), people(part))
            for split in splits
            for part in [table[table["split"] == split]]
        ],
        "findings": [(finding, *prevalence(table, finding, splits)) for finding in store.manifest.findings],
        "views": Counter(view or "not stated" for view in table["view"]).most_common(),
        "sexes": Counter(sex or "not stated" for sex in table["sex"]).most_common(),
        "ages": (len(known), quartiles),
        "age_figure": age_histogram(ages, label=f"Ages in {name}, films") if len(known) else None,
        "boxes": len(store.manifest.boxes),
        "masks": {name: len(store.masked_rows(name)) for name in store.mask_findings()},
        "examples": [example(store, row) for row in example_rows(store)],
    }


def people(table: pd.DataFrame) -> int:
    """Patients of these films; films without a patient are not counted."""
    return int(table.loc[table["patient"] != "", "patient"].nunique())


def prevalence(table: pd.DataFrame, finding: str, splits: Sequence[str]) -> tuple[list[tuple[int, int]], int]:
    """(films with the finding, films where it is known) per split, and the films where it is not known."""
    labels = table[finding]
    known = (labels == 0) | (labels == 1)
    per_split = [
        (
            int(((labels == 1) & (table["split"] == split)).sum()),
            int((known & (table["split"] == split)).sum()),
        )
        for split in splits
    ]
    return per_split, int((~known).sum())


def example_rows(store: ImageStore) -> list[int]:
    """One film per finding (one with a box where there is one), then films spread over the store."""
    table, boxes = store.manifest.table, store.manifest.boxes
    rows: list[int] = []
    for finding in store.manifest.findings:
        present = table[finding] == 1
        boxed = present & table["image"].isin(boxes.loc[boxes["finding"] == finding, "image"])
        candidates = [int(row) for row in np.flatnonzero(boxed if boxed.any() else present)]
        rows += [row for row in candidates if row not in rows][:1]
    wanted = math.ceil(max(len(rows), 2 * EXAMPLES_IN_A_ROW) / EXAMPLES_IN_A_ROW) * EXAMPLES_IN_A_ROW
    spread = np.linspace(0, len(store) - 1, 2 * wanted).astype(int).tolist()
    return list(dict.fromkeys([*rows, *spread]))[:wanted]


def example(store: ImageStore, row: int) -> dict[str, Any]:
    """A film with its boxes as a picture, and what is known of it."""
    film, boxes = store.manifest.table.iloc[row], store.manifest.boxes
    own = boxes.loc[boxes["image"] == film["image"], ["x", "y", "width", "height"]]
    present = [finding for finding in store.manifest.findings if film[finding] == 1]
    corners = [(float(x), float(y), float(width), float(height)) for x, y, width, height in own.to_numpy()]
    return {
        "picture": data_uri(film_picture(store.pixels(row), corners)),
        "findings": ", ".join(present) or "no finding labelled",
        "notes": " · ".join(str(note) for note in (film["view"], film["sex"], film["split"]) if note),
    }

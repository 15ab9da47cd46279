"""What stores are made of, and whether they differ: the heterogeneity table of the paper's supplement."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Int64
from scipy.stats import chi2_contingency, kruskal

from evax.data.manifest import OF_FILM
from evax.data.store import ImageStore

PIXEL_FILMS = 2000  # per store, spread evenly, whose pixels are measured
NOT_STATED = "not stated"


def describe_stores(name: str, store: ImageStore) -> dict[str, Any]:
    """The numbers of one store. Shares are of the images where something is known.

    Source: rows of Supplementary Table 2. Height, width and spacing are those of the images as they were read,
    before the store brought them to one size.
    """
    table = store.manifest.table
    ages = table["age"].to_numpy(np.float64)
    known_ages = ages[np.isfinite(ages)]
    labels, findings = store.manifest.labels(), store.manifest.findings
    present = labels == 1
    pixels = image_pixels(store, measured_rows(store))
    return {
        "name": name,
        "source": store.manifest.source,
        "fingerprint": store.fingerprint,
        "films": len(store),
        "patients": int(table.loc[table["patient"] != "", "patient"].nunique()),
        "films_per_patient": _spread(table.loc[table["patient"] != "", "patient"].value_counts().to_numpy()),
        "splits": _counts(table["split"]),
        "age": _spread(known_ages),
        "sex": _counts(table["sex"]),
        "view": _counts(table["view"]),
        "findings": {
            finding: {"present": int(present[:, k].sum()), "known": int(np.isin(labels[:, k], (0, 1)).sum())}
            for k, finding in enumerate(findings)
        },
        "together": (present.T.astype(np.int64) @ present.astype(np.int64)).tolist(),
        "stored_size": store.size,
        "pixel_mean": store.mean,
        "pixel_std": store.std,
        "pixel_films": store.measured,
        **{name: _spread(of_films(table, name)) for name in OF_FILM},
        "film_mean": _spread(pixels[:, 0]),
        "film_std": _spread(pixels[:, 1]),
    }


def differences(stores: Sequence[ImageStore], names: Sequence[str]) -> list[dict[str, Any]]:
    """Do the stores differ? One test per variable that two or more of them know.

    Images of one patient are not independent, so the first image of each patient stands for the patient.
    Shares: chi-square with Cramer's V; numbers: Kruskal-Wallis with epsilon squared. With
    many images every difference is significant: the effect says how large it is, 0 none, 1 the store tells
    everything.
    """
    firsts = [first_images(store) for store in stores]
    tables = [store.manifest.table.iloc[rows] for store, rows in zip(stores, firsts, strict=True)]
    tests = []
    for variable in ("sex", "view"):
        known = [table.loc[table[variable] != "", variable] for table in tables]
        tests.append(_shares(variable, names, known))
    tests.append(_ranks("age", names, [table["age"].dropna().to_numpy(np.float64) for table in tables]))
    for name in OF_FILM:
        tests.append(_ranks(name, names, [of_films(table, name) for table in tables]))
    for finding in sorted({finding for store in stores for finding in store.manifest.findings}):
        labels = [table.get(finding, pd.Series(dtype=np.float32)) for table in tables]
        tests.append(_shares(finding, names, [known[known.isin((0, 1))] for known in labels]))
    pixels = [image_pixels(store, rows[_even(len(rows))]) for store, rows in zip(stores, firsts, strict=True)]
    for column, variable in enumerate(("image mean", "image standard deviation")):
        tests.append(_ranks(variable, names, [values[:, column] for values in pixels]))
    return [test for test in tests if test is not None]


def of_films(table: pd.DataFrame, name: str) -> Float64[np.ndarray, " _"]:
    """The known values of a column of OF_FILM; none in a store of an earlier evax."""
    return table.get(name, pd.Series(dtype=np.float64)).dropna().to_numpy(np.float64)


def first_images(store: ImageStore) -> Int64[np.ndarray, " rows"]:
    """The first image of each patient; images without a patient stand for themselves."""
    patients = store.manifest.table["patient"]
    return np.flatnonzero((~patients.duplicated() | (patients == "")).to_numpy())


def measured_rows(store: ImageStore) -> Int64[np.ndarray, " rows"]:
    """The images whose pixels are measured."""
    return _even(len(store))


def image_pixels(store: ImageStore, rows: Int64[np.ndarray, " rows"]) -> Float64[np.ndarray, "rows 2"]:
    """Mean and standard deviation of each image's pixels, in [0, 1]."""
    values = [(film.mean() / 255, film.std() / 255) for film in (store.pixels(row) for row in rows)]
    return np.array(values, np.float64).reshape(-1, 2)


def _even(films: int) -> Int64[np.ndarray, " rows"]:
    return np.unique(np.linspace(0, films - 1, min(films, PIXEL_FILMS)).astype(np.int64))


def _counts(column: pd.Series) -> dict[str, int]:
    """Value -> images, the commonest first."""
    return dict(Counter(str(value) or NOT_STATED for value in column).most_common())


def _spread(values: Float[np.ndarray, " n"] | Int64[np.ndarray, " n"]) -> dict[str, Any]:
    """How many values, their mean and quartiles; None where there is none."""
    if not len(values):
        return {"n": 0, "mean": None, "quartiles": None}
    return {
        "n": len(values),
        "mean": float(np.mean(values)),
        "quartiles": [float(value) for value in np.percentile(values, [25, 50, 75])],
    }


def _shares(variable: str, names: Sequence[str], known: Sequence[pd.Series]) -> dict[str, Any] | None:
    """Chi-square over the stores that know the variable; None where there is nothing to compare."""
    used = [(name, values) for name, values in zip(names, known, strict=True) if len(values)]
    if len(used) < 2:
        return None
    table = pd.DataFrame({name: values.value_counts() for name, values in used}).fillna(0).to_numpy()
    if len(table) < 2:
        return None
    result = chi2_contingency(table, correction=False)
    effect = math.sqrt(result.statistic / (table.sum() * (min(table.shape) - 1)))
    return {
        "variable": variable,
        "test": "chi-square",
        "stores": [name for name, _ in used],
        "n": int(table.sum()),
        "statistic": float(result.statistic),
        "p": float(result.pvalue),
        "effect": effect,
        "effect_name": "Cramer's V",
        "note": "expected counts below 5" if result.expected_freq.min() < 5 else "",
    }


def _ranks(
    variable: str, names: Sequence[str], known: Sequence[Float64[np.ndarray, " _"]]
) -> dict[str, Any] | None:
    """Kruskal-Wallis over the stores that know the variable; None where there is nothing to compare."""
    used = [(name, values) for name, values in zip(names, known, strict=True) if len(values)]
    everything = np.concatenate([np.zeros(0), *(values for _, values in used)])
    if len(used) < 2 or len(np.unique(everything)) < 2:
        return None
    result = kruskal(*(values for _, values in used))
    return {
        "variable": variable,
        "test": "Kruskal-Wallis",
        "stores": [name for name, _ in used],
        "n": len(everything),
        "statistic": float(result.statistic),
        "p": float(result.pvalue),
        "effect": float(result.statistic) / (len(everything) - 1),
        "effect_name": "epsilon squared",
        "note": "",
    }

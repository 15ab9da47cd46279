"""Stores -> statistics.json, statistics.csv, statistics.html and figures: what they are made of, and whether
they differ.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evax.data import statistics
from evax.data.leaks import unnamed_patients
from evax.data.manifest import OF_FILM, SPLITS
from evax.data.store import ImageStore, open_store, short_names
from evax.evaluation.comparison import holm
from evax.files import make_folder, open_csv, replaced_whole, write_json
from evax.pages.statistics import write_statistics_page


def write_statistics(out: Path, paths: Sequence[Path]) -> Path:
    """Writes the table, the figures and the page; returns the path of statistics.json. paths: of stores."""
    stores, names = [open_store(path) for path in paths], short_names(paths)
    differences = statistics.differences(stores, names)
    adjusted = holm([each["p"] for each in differences]).tolist()
    content = {
        "kind": "statistics",
        "stores": [described(name, store) for name, store in zip(names, stores, strict=True)],
        "differences": [each | {"p_holm": p} for each, p in zip(differences, adjusted, strict=True)],
    }
    write_json(content, make_folder(out) / "statistics.json")
    path = out / "statistics.csv"
    with replaced_whole(path) as unfinished, open_csv(unfinished) as file:
        csv.writer(file).writerows([("store", "variable", "value", "number", "of"), *lines(content)])
    write_statistics_page(out, content, stores)
    return out / "statistics.json"


def described(name: str, store: ImageStore) -> dict[str, Any]:
    """The numbers of one store; splits in their order, and how many patients are none by name."""
    numbers = statistics.describe(name, store)
    order = (*SPLITS, statistics.NOT_STATED)
    numbers["splits"] = {split: numbers["splits"][split] for split in order if split in numbers["splits"]}
    return numbers | {"unnamed_patients": unnamed_patients(store)}


def lines(content: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The table in long form: store, variable, value, number, and of how many."""
    for store in content["stores"]:
        name, films = store["name"], store["films"]
        yield name, "films", "", films, ""
        yield name, "patients", "", store["patients"], ""
        yield (
            name,
            "patients",
            "films or studies that name nobody",
            store["unnamed_patients"],
            store["patients"],
        )
        for variable in ("splits", "sex", "view"):
            for value, count in store[variable].items():
                yield name, variable, value, count, films
        for finding, counts in store["findings"].items():
            yield name, "finding", finding, counts["present"], counts["known"]
        for row, (first, together) in enumerate(zip(store["findings"], store["together"], strict=True)):
            for second, count in list(zip(store["findings"], together, strict=True))[row + 1 :]:
                yield name, "findings together", f"{first} + {second}", count, films
        for variable in ("age", "films_per_patient", *OF_FILM, "film_mean", "film_std"):
            spread = store[variable]
            if spread["n"]:
                for value, number in zip(
                    ("quartile 1", "median", "quartile 3"), spread["quartiles"], strict=True
                ):
                    yield name, variable, value, f"{number:.6g}", spread["n"]
                yield name, variable, "mean", f"{spread['mean']:.6g}", spread["n"]
        yield name, "stored size", "pixels", store["stored_size"], ""
        yield name, "pixels", "mean", f"{store['pixel_mean']:.6g}", store["pixel_films"]
        yield name, "pixels", "standard deviation", f"{store['pixel_std']:.6g}", store["pixel_films"]

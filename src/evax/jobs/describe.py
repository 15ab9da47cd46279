"""evax describe: what stores are made of, side by side, and whether they differ."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from evax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DescribeConfig:
    """Films, patients, age, sex, view, findings and pixels of stores, with tests of their differences."""

    stores: tyro.conf.Positional[tuple[Path, ...]]
    """Stores made by `evax prepare`."""
    out: Path
    """Folder for statistics.json, statistics.csv, statistics.html and the figures."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("describe needs stores: evax describe STORE... --out DIR.")


def describe(config: DescribeConfig) -> Path:
    """Writes the table, the figures and the page; returns the path of statistics.json."""
    from evax.data import statistics
    from evax.data.store import open_store, short_names
    from evax.evaluation.comparison import holm
    from evax.files import replaced_whole, write_json
    from evax.reporting.statistics_page import write_statistics_page
    from evax.training.tracking import start_run

    stores, names = [open_store(path) for path in config.stores], short_names(config.stores)
    start_run(config.out, config, resume=False)
    differences = statistics.differences(stores, names)
    adjusted = holm([each["p"] for each in differences]).tolist()
    content = {
        "kind": "statistics",
        "stores": [statistics.describe(name, store) for name, store in zip(names, stores, strict=True)],
        "differences": [each | {"p_holm": p} for each, p in zip(differences, adjusted, strict=True)],
    }
    write_json(content, config.out / "statistics.json")
    path = config.out / "statistics.csv"
    with replaced_whole(path) as unfinished, unfinished.open("w", newline="") as file:
        csv.writer(file).writerows([("store", "variable", "value", "number", "of"), *lines(content)])
    write_statistics_page(config.out, content, stores)
    return config.out / "statistics.json"


def lines(content: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The table in long form: store, variable, value, number, and of how many."""
    from evax.data.manifest import OF_FILM

    for store in content["stores"]:
        name, films = store["name"], store["films"]
        yield name, "films", "", films, ""
        yield name, "patients", "", store["patients"], ""
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
        yield name, "pixels", "mean", f"{store['pixel_mean']:.6g}", films
        yield name, "pixels", "standard deviation", f"{store['pixel_std']:.6g}", films

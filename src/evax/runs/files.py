"""The files that commands leave in their folders, read so that one that is damaged is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evax.errors import DataError
from evax.files import read_json, read_lines, write_json

FORMAT = 1  # of reports and results of studies; the next one when an evax of today would misread them
LATER = {"weights_digest": None}  # keys that came after the first reports, with their values for those
EXAMINED = ("calibration", "subgroups", "errors")  # of a classifier, beyond its scores: see examine


class Facts(dict[str, Any]):
    """An object of a JSON file. A key it lacks has its value of LATER, or is a DataError."""

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str) -> Any:
        if key in LATER:
            return LATER[key]
        raise DataError(f"{self.path} has no '{key}' where the report needs it: run that step again.")


def read_facts(path: Path) -> Facts:
    """A JSON file whose objects, at any depth, are Facts.

    Raises DataError naming the file when it cannot be read or is of a newer format.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    if content.get("format", FORMAT) not in range(1, FORMAT + 1):  # none in the first reports
        raise DataError(
            f"{path} has format {content['format']}, this evax reads format {FORMAT}: update evax."
        )
    protocol = content.get("protocol")
    if isinstance(protocol, dict):  # compared entry by entry, and earlier versions said films
        texts = {key: value for key, value in protocol.items() if isinstance(value, str)}
        content["protocol"] = protocol | {key: text.replace("films", "images") for key, text in texts.items()}
    facts: Facts = _as_facts(content, path)
    return facts


def write_report(content: dict[str, Any], path: Path) -> None:
    """Writes report.json with its format."""
    write_json({"format": FORMAT, **content}, path)


def _as_facts(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return Facts({key: _as_facts(item, path) for key, item in value.items()}, path)
    return [_as_facts(item, path) for item in value] if isinstance(value, list) else value


def of_way(report: Facts, way: str) -> Facts:
    """A report of evax probe as that of one of its two classifiers, linear or knn."""
    others = {"strength_chosen_on"} if way == "knn" else set()
    protocol = {key: value for key, value in report["protocol"].items() if key not in others}
    own = {key: report[way][key] for key in ("test_metrics", *EXAMINED) if key in report[way]}
    return Facts(report | own | {"protocol": Facts(protocol, report.path)}, report.path)


def read_log(path: Path) -> dict[str, pd.DataFrame]:
    """The lines of a log.jsonl per kind of event, in order; empty without the file.

    A run that was interrupted repeats steps when it goes on: the last line of a step counts. Raises DataError
    as read_lines does.
    """
    rows = read_lines(path)
    table = pd.DataFrame(rows, columns=list(dict.fromkeys(key for row in rows for key in row)))
    return {
        str(event): part.drop_duplicates("step", keep="last") if "step" in part else part
        for event, part in (table.groupby("event") if len(table) else ())
    }


def read_predictions(path: Path, findings: Sequence[str], films: int) -> pd.DataFrame | None:
    """The table that `write_predictions` wrote, None where it was not kept.

    findings, films: what the report beside it says. Raises DataError unless the table fits them.
    """
    if not path.is_file():
        return None
    table = read_table(path, dtype={"image": str, "patient": str}, na_values=[""])
    wanted = [f"{kind}:{finding}" for finding in findings for kind in ("label", "probability")]
    if missing := [column for column in ("image", "patient", *wanted) if column not in table]:
        raise DataError(f"{path} lacks the column '{missing[0]}': run it again.")
    if len(table) != films:
        raise DataError(f"{path} has {len(table)} images, its report {films}: they are of different runs.")
    return table


def read_suspicious(path: Path) -> pd.DataFrame:
    """suspicious.csv. Raises DataError when it cannot be read."""
    return read_table(path)


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """A CSV table. options: of pandas. Raises DataError when it cannot be read."""
    try:
        return pd.read_csv(path, keep_default_na=False, **options)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}. Run that step again.") from error


def numbers(table: pd.DataFrame, column: str) -> Any:
    """A column of a log as float64, NaN where a line has none."""
    return pd.to_numeric(table[column]).to_numpy(np.float64)


def interval(ends: list[float | None]) -> tuple[float, float] | None:
    """[low, high] of a report, None where it is not defined."""
    low, high = ends
    return None if low is None or high is None else (low, high)


NO_THRESHOLDS = "none: the most probable class is predicted"


def agreed(protocols: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that the protocols of several runs have in common, but for the seed of a single one."""
    first, *others = protocols
    same = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    same.pop("seed", None)
    return same


def tokenizer_in_words(tokenizer: str | Facts) -> str:
    """A tokenizer's name, what of it was predicted, and its weights; of early runs the name alone."""
    if isinstance(tokenizer, str):
        return tokenizer
    name, layer, side, weights = (tokenizer[key] for key in ("name", "layer", "view", "weights"))
    return f"{name}, layer {layer}, sees {side} × {side} pixels, weights {weights}"

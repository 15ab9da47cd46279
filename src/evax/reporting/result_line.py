"""The last words of a command on the terminal: what came out, and the page that shows it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evax.reporting.run_files import read_facts
from evax.reporting.study_page import groups_of
from evax.reporting.study_rows import WAYS
from evax.reporting.template import show_interval, show_number

logger = logging.getLogger("evax")


def tell_result(results: Sequence[Path]) -> None:
    """One line: the mAUC on test with its interval, and where report.html is.

    results: report.json of a fine-tuning or a probe, or the results of a study, see write_study_page.
    """
    contents = [read_facts(path) for path in results]
    first = contents[0]
    scores: list[tuple[str, float | None, Any]]
    parts = (
        {"": first} if "test_metrics" in first else {WAYS[way]: first[way] for way in WAYS if way in first}
    )
    if parts:
        macros = {name: part["test_metrics"]["mauc"] for name, part in parts.items()}
        scores = [(name, macro["value"], macro["interval"]) for name, macro in macros.items()]
        over = "patients"
    else:
        groups = [group for study in contents for group in groups_of(study)]
        scores = [(name, group["mauc"]["mean"], group["mauc"]["interval"]) for name, group, _ in groups]
        over = "folds" if first["kind"] == "crossvalidate" else "seeds"
    said = ", ".join(
        f"{name} {show_number(value)} {show_interval(ends)}".strip() for name, value, ends in scores
    )
    logger.info(
        "mAUC on test, 95 %% interval over %s: %s. Page: %s", over, said, results[0].parent / "report.html"
    )


def tell_dice(report: Path) -> None:
    """The same of evax segment: Dice per finding."""
    metrics = read_facts(report)["test_metrics"]
    parts = [(row["name"], row["dice"], row["dice_interval"]) for row in metrics["findings"]]
    if len(parts) > 1:
        parts.insert(0, ("mean", metrics["mdice"]["value"], metrics["mdice"]["interval"]))
    said = ", ".join(f"{name} {show_number(value)} {show_interval(ends)}" for name, value, ends in parts)
    logger.info(
        "Dice on test, 95 %% interval over patients: %s. Page: %s", said, report.parent / "report.html"
    )

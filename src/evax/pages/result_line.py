"""The last words of a command on the terminal: what came out, and the page that shows it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evax.evaluation.checks import PREDICTED
from evax.evaluation.study_rows import WAYS
from evax.pages.study import failed_checks, groups_of
from evax.pages.template import show_interval, show_number
from evax.runs.files import interval, read_facts

logger = logging.getLogger("evax")


def log_test_scores(results: Sequence[Path]) -> None:
    """Logs the mAUC on test with its interval, or why it has none, and where report.html is; before
    it a warning when runs of a study have collapsed to one class.

    results: report.json of a fine-tuning or a probe, or the results of a study, see write_study_page.
    """
    contents = [read_facts(path) for path in results]
    first, folder = contents[0], results[0].parent
    parts = (
        {"": first} if "test_metrics" in first else {WAYS[way]: first[way] for way in WAYS if way in first}
    )
    groups = [] if parts else [group for study in contents for group in groups_of(study)]
    if parts:
        over, macros = "patients", {name: part["test_metrics"]["mauc"] for name, part in parts.items()}
        scores = [(name, macro["value"], show_interval(macro["interval"])) for name, macro in macros.items()]
    else:
        over = "folds" if first["kind"] == "crossvalidate" else "seeds"
        scores = [(name, group["mauc"]["mean"], show_spread(group["mauc"])) for name, group, _ in groups]
    said = ", ".join(f"{name} {show_number(value)} {ends}".strip() for name, value, ends in scores)
    runs = {run["folder"] for _, _, runs in groups for run in runs}
    collapsed = sum(any(name.startswith(PREDICTED) for name in failed_checks(folder / run)) for run in runs)
    if collapsed:
        logger.warning(
            "CHECK: %d of %d runs predict one class for nearly all images, or a class for none.\n"
            "  -> Their means say little. Each run's page says what to do.", collapsed, len(runs),
        )  # fmt: skip
    logger.info("mAUC on test, 95 %% interval over %s: %s. Page: %s", over, said, folder / "report.html")


def show_spread(spread: Mapping[str, Any]) -> str:
    """The interval of a mean over runs, or why there is none."""
    ends = spread["interval"]
    return f"[{spread['interval_method']}]" if interval(ends) is None else show_interval(ends)


def log_dice(report: Path) -> None:
    """The same of evax segment: Dice per finding."""
    metrics = read_facts(report)["test_metrics"]
    parts = [(row["name"], row["dice"], row["dice_interval"]) for row in metrics["findings"]]
    if len(parts) > 1:
        parts.insert(0, ("mean", metrics["mdice"]["value"], metrics["mdice"]["interval"]))
    said = ", ".join(f"{name} {show_number(value)} {show_interval(ends)}" for name, value, ends in parts)
    logger.info(
        "Dice on test, 95 %% interval over patients: %s. Page: %s", said, report.parent / "report.html"
    )

"""The last line of a command on the terminal: its result, and the page that shows it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evax.evaluation.checks import PREDICTED
from evax.evaluation.study_rows import WAYS
from evax.pages.study import failed_checks, groups_of
from evax.pages.template import show_interval, show_number
from evax.runs.files import Facts, interval, read_facts

logger = logging.getLogger("evax")
Score = tuple[str, float | None, str]  # name, value and interval


def log_test_scores(results: Sequence[Path]) -> None:
    """Logs the mAUC on test with its interval, or why it has none, and the path of report.html.

    results: report.json of a fine-tuning or a probe, or the results of a study, see write_study_page. Warns
    if runs of a study predict one class only.
    """
    contents = [read_facts(path) for path in results]
    first, folder = contents[0], results[0].parent
    if "test_metrics" in first:
        over, scores = "patients", [_mauc_of(first, "")]
    elif "linear" in first:
        over, scores = "patients", [_mauc_of(first[way], name) for way, name in WAYS.items() if way in first]
    else:
        over = "folds" if first["kind"] == "crossvalidate" else "seeds"
        groups = [group for study in contents for group in groups_of(study)]
        scores = [(name, group["mauc"]["mean"], show_spread(group["mauc"])) for name, group, _ in groups]
        _warn_if_collapsed({folder / run["folder"] for _, _, runs in groups for run in runs})
    page = folder / "report.html"
    logger.info("mAUC on test, 95 %% interval over %s: %s. Page: %s", over, _listed(scores), page)


def log_dice(report: Path) -> None:
    """The same for evax segment: Dice of each finding."""
    metrics = read_facts(report)["test_metrics"]
    scores = [(row["name"], row["dice"], show_interval(row["dice_interval"])) for row in metrics["findings"]]
    if len(scores) > 1:
        scores.insert(0, ("mean", metrics["mdice"]["value"], show_interval(metrics["mdice"]["interval"])))
    page = report.parent / "report.html"
    logger.info("Dice on test, 95 %% interval over patients: %s. Page: %s", _listed(scores), page)


def show_spread(spread: Mapping[str, Any]) -> str:
    """The interval of a mean over runs, or why there is none."""
    ends = spread["interval"]
    return f"[{spread['interval_method']}]" if interval(ends) is None else show_interval(ends)


def _mauc_of(classifier: Facts, name: str) -> Score:
    mauc = classifier["test_metrics"]["mauc"]
    return name, mauc["value"], show_interval(mauc["interval"])


def _warn_if_collapsed(runs: set[Path]) -> None:
    collapsed = sum(any(name.startswith(PREDICTED) for name in failed_checks(run)) for run in runs)
    if collapsed:
        logger.warning(
            "CHECK: %d of %d runs predict one class for nearly all images, or a class for none.\n"
            "  -> Their means say little. Each run's page says what to do.", collapsed, len(runs),
        )  # fmt: skip


def _listed(scores: Sequence[Score]) -> str:
    return ", ".join(f"{name} {show_number(value)} {ends}".strip() for name, value, ends in scores)

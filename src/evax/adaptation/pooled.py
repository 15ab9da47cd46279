"""All films that the folds of a cross-validation tested, scored together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evax.evaluation.report import evaluate_classifier
from evax.files import read_json


def pooled_metrics(
    runs: Sequence[Path], findings: Sequence[str], exclusive: bool, resamples: int, seed: int
) -> dict[str, Any]:
    """Scores of all tested films together, each by the classifier that had not learned from it.

    runs: the folders of the folds. findings, exclusive: of their store. resamples, seed: of the intervals.
    There are no thresholds: every fold has its own. A finding that one fold could not learn has no number.
    """
    files = [run / "predictions-test.csv" for run in runs]
    table = pd.concat([pd.read_csv(file, dtype={"patient": str}) for file in files])
    reports = [read_json(run / "report.json")["test_metrics"]["findings"] for run in runs]
    # a run from before this was kept says nothing of it
    learned = np.all([[row.get("learned", True) for row in rows] for rows in reports], axis=0)
    report = evaluate_classifier(
        table[[f"probability:{name}" for name in findings]].to_numpy(dtype=np.float64),
        table[[f"label:{name}" for name in findings]].to_numpy(dtype=np.float64),
        findings,
        table["patient"].tolist(),
        np.full(len(findings), np.nan),
        exclusive,
        resamples=resamples,
        seed=seed,
        learned=learned,
    )
    return report.to_json()

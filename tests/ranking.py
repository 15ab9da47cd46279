"""Intervals of every ranking score at once, for tests that compare them with slower ways."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from evax.evaluation.intervals import macro_interval, percentile_interval, ranking_draws


def ranking_intervals(scores, labels, patients, resamples=2000, seed=0, level=0.95):
    """Of AUROC and average precision per finding, and of their means over findings."""
    drawn, people = ranking_draws(scores, labels, patients, resamples, seed), len(np.unique(patients))
    area, precision = ([percentile_interval(one, people, level) for one in each] for each in drawn)
    macro_area, macro_precision = (macro_interval(each, people, level) for each in drawn)
    return SimpleNamespace(
        auroc=area,
        average_precision=precision,
        macro_auroc=macro_area,
        macro_average_precision=macro_precision,
    )

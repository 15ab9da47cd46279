"""Policies for uncertain and blank labels; applied when loading, never on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from evax.errors import ConfigError
from evax.findings import UNCERTAIN_MEANS_PRESENT

Uncertain = Literal["ones", "zeros", "ignore"]
TrainingUncertain = Literal["ones", "zeros", "ignore", "mixed", "smooth"]
"""mixed, smooth: for training only; their targets are no truth to be tested against."""
Blank = Literal["zeros", "ignore"]
SplitBy = Literal["patient", "film"]
# Sources whose labels were read from reports, where what is not mentioned was left blank.
BLANK_MEANS_ABSENT = frozenset({"chexpert", "mimic_cxr"})
SMOOTH_PRESENT, SMOOTH_ABSENT = (0.7, 0.8), (0.2, 0.3)


def blank_policy(source: str, chosen: Blank | None) -> Blank:
    """What a blank label of a manifest's source counts as, unless something else was chosen.

    Source: the paper's code takes CheXpert's blanks for absent (facts section 3.2); ignoring them would leave
    mostly positives. A blank in any other table is a label that nobody gave.
    """
    return chosen or ("zeros" if source in BLANK_MEANS_ABSENT else "ignore")


def resolve_labels(
    labels: Float[np.ndarray, "S K"],
    uncertain: TrainingUncertain,
    blank: Blank,
    *,
    findings: Sequence[str] = (),
    ones: Sequence[str] = (),
    seed: int = 0,
) -> Float[np.ndarray, "S K"]:
    """1 present, 0 absent, NaN left out of loss and metrics; with "smooth" also values between.

    labels: 1, 0, -1 (uncertain as the source wrote it) or NaN (blank).
    findings: of the columns, K of them; needed by what depends on the finding. ones: of them, those whose
    uncertain labels count as present, whatever the policy of the others.
    seed: of smooth; the same seed gives the same labels in every process.

    mixed: 1 for Atelectasis and Edema, 0 for the others. smooth: the same, softened; every uncertain label is
    drawn by itself, from U(0.7, 0.8) or U(0.2, 0.3).
    Source: facts section 3.2. The released code draws one value per column in every process, unseeded.
    """
    resolved = labels.copy()
    resolved[np.isnan(labels)] = 0.0 if blank == "zeros" else np.nan
    doubtful = labels == -1
    if uncertain in ("mixed", "smooth"):
        if len(findings) != labels.shape[1]:
            raise ConfigError(f"'{uncertain}' needs the {labels.shape[1]} findings, got {len(findings)}.")
        present = np.array([finding in UNCERTAIN_MEANS_PRESENT for finding in findings])
        guess = np.broadcast_to(present.astype(labels.dtype), labels.shape)
        if uncertain == "smooth":
            low, high = (np.where(present, *ends) for ends in zip(SMOOTH_PRESENT, SMOOTH_ABSENT, strict=True))
            guess = low + np.random.default_rng(seed).random(labels.shape) * (high - low)
        resolved[doubtful] = guess[doubtful]
    else:
        resolved[doubtful] = {"ones": 1.0, "zeros": 0.0, "ignore": np.nan}[uncertain]
    if ones:
        resolved[doubtful & np.isin(findings, ones)] = 1.0
    return resolved

"""How good features are before any head is trained: a vote of the nearest neighbours, and RankMe.

Shape legend: N training cases, M test cases, D width, K findings.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import entr

from evax.errors import ConfigError, DataError
from evax.evaluation.classification import Floats, Macro, Reals, check_cases, mean_auroc
from evax.evaluation.learned import learned_findings, only_learned

NEIGHBOURS, TEMPERATURE = 20, 0.07  # DINO's
BLOCK = 256  # test cases compared at once: 80 MB of similarities with 80 000 training cases


def knn_auroc(
    train_features: Reals,
    train_labels: Reals,
    test_features: Reals,
    test_labels: Reals,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Macro:
    """Mean AUROC when the nearest training films vote for each finding.

    train_features: (N, D). train_labels: (N, K), 1, 0 or NaN. test_features: (M, D). test_labels: (M, K).
    neighbours: how many vote; all of them where fewer are known. temperature: above 0.
    Only films on which a finding is known vote for it; one that the training films do not teach is undefined.
    """
    scores = knn_scores(train_features, train_labels, test_features, neighbours, temperature)
    given, known = answered(scores, test_labels)
    return mean_auroc(given, only_learned(known, learned_findings(train_labels)))


def answered(scores: Reals, labels: Reals) -> tuple[Reals, Reals]:
    """Scores and labels in which a finding that could not be learned (its scores are NaN) is unknown."""
    silent = np.isnan(scores)  # whole columns: no training film knows the finding
    scores = np.where(silent, 0.0, scores)
    check_cases(scores, labels)
    return scores, np.where(silent, math.nan, labels)


def knn_scores(
    train_features: Reals, train_labels: Reals, test_features: Reals, neighbours: int, temperature: float
) -> Floats:
    """Share of the neighbours' votes for each finding; a vote weighs exp(cosine similarity / temperature).

    train_features: (N, D). train_labels: (N, K), 1, 0 or NaN. test_features: (M, D).
    Returns (M, K) in [0, 1], NaN for a finding that is known on no training film.
    Source: Wu et al. 2018 (instance discrimination), with the defaults of DINO (Caron et al. 2021).
    """
    if neighbours < 1 or not temperature > 0:
        raise ConfigError(f"neighbours must be >= 1 and temperature > 0, got {neighbours} and {temperature}.")
    train, test = _unit_length(train_features), _unit_length(test_features)
    if train.shape[1] != test.shape[1] or len(train) != len(train_labels):
        raise DataError(
            f"Training features {train.shape}, their labels {train_labels.shape} and test features "
            f"{test.shape} do not belong together; expected (N, D), (N, K) and (M, D)."
        )
    check_cases(np.zeros(train_labels.shape), train_labels)
    scores = np.full((len(test), train_labels.shape[1]), math.nan)
    # findings that are known on the same films share their neighbours: usually one group
    patterns, group = np.unique(~np.isnan(train_labels), axis=1, return_inverse=True)
    for number, known in enumerate(patterns.T):
        if known.any():
            columns = np.flatnonzero(group == number)
            for start in range(0, len(test), BLOCK):
                block = slice(start, start + BLOCK)
                voters = train_labels[np.ix_(known, columns)]
                scores[block, columns] = _vote(test[block] @ train[known].T, voters, neighbours, temperature)
    return scores


def rank_me(features: Reals) -> float:
    """How many directions the features use: exp(entropy of the singular values as shares of their sum).

    features: (N, D), not centred. More cases than D, or the number of cases limits the result.
    Returns a value from 1 (all on one line through the origin) to min(N, D), or NaN when all are zero.
    Source: Garrido et al. 2023 (RankMe), without their 1e-7 beside each share.
    """
    _check_features(features)
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    total = singular.sum()
    return float(np.exp(entr(singular / total).sum())) if total > 0 else math.nan


def _vote(similarities: Reals, labels: Reals, neighbours: int, temperature: float) -> Floats:
    """similarities: (m, n). labels: (n, k), all known. Returns (m, k)."""
    count = min(neighbours, similarities.shape[1])
    nearest = np.argpartition(-similarities, count - 1, axis=1)[:, :count]  # (m, count), in no order
    closeness = np.take_along_axis(similarities, nearest, axis=1).astype(np.float64)
    weights = np.exp((closeness - closeness.max(axis=1, keepdims=True)) / temperature)  # shares are the same
    votes: Floats = np.einsum("mc,mck->mk", weights, labels[nearest]) / weights.sum(axis=1, keepdims=True)
    votes = votes.clip(0, 1)  # a unanimous vote may be rounded to a little above 1
    return votes


def _unit_length(features: Reals) -> Reals:
    _check_features(features)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    if (length == 0).any():
        raise DataError(
            f"{int((length == 0).sum())} of {len(features)} features are all zero; they have no direction."
        )
    unit: Reals = features / length
    return unit


def _check_features(features: Reals) -> None:
    if features.ndim != 2 or features.size == 0 or not np.isfinite(features).all():
        raise DataError(
            f"Features are (cases, width) of finite numbers; these are {features.shape} "
            f"with {int((~np.isfinite(features)).sum())} NaN or infinite values."
        )

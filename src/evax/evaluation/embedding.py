"""How good features are before any head is trained: a vote of the nearest neighbours, and RankMe.

Shape legend: N training cases, M test cases, D width, K findings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import entr
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evax.errors import ConfigError, DataError
from evax.evaluation.classification import (
    Floats,
    Integers,
    Macro,
    Reals,
    balanced_log_loss,
    check_cases,
    learned_findings,
    mean_auroc,
    only_learned,
)

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
    """Mean AUROC when the nearest training images vote for each finding.

    train_features: (N, D). train_labels: (N, K), 1, 0 or NaN. test_features: (M, D). test_labels: (M, K).
    neighbours: how many vote; all of them where fewer are known. temperature: above 0.
    Only images on which a finding is known vote for it; one that the training images do not teach is undefined.
    """
    scores = knn_scores(train_features, train_labels, test_features, neighbours, temperature)
    given, known = answered(scores, test_labels)
    return mean_auroc(given, only_learned(known, learned_findings(train_labels)))


def answered(scores: Reals, labels: Reals) -> tuple[Reals, Reals]:
    """Scores and labels in which a finding that could not be learned (its scores are NaN) is unknown."""
    silent = np.isnan(scores)  # whole columns: no training image knows the finding
    scores = np.where(silent, 0.0, scores)
    check_cases(scores, labels)
    return scores, np.where(silent, math.nan, labels)


def knn_scores(
    train_features: Reals, train_labels: Reals, test_features: Reals, neighbours: int, temperature: float
) -> Floats:
    """Share of the neighbours' votes for each finding; a vote weighs exp(cosine similarity / temperature).

    train_features: (N, D). train_labels: (N, K), 1, 0 or NaN. test_features: (M, D).
    Returns (M, K) in [0, 1], NaN for a finding that is known on no training image.
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
    # findings that are known on the same images share their neighbours: usually one group
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


STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MIDDLE = 1e-2
WEAKER, STRONGER = (1e-6, 1e-7, 1e-8), (1e1, 1e2, 1e3)  # tried in turn while the best lies at that end
MAX_ITERATIONS = 2000


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """The regression whose strength was best on the validation images."""

    strength: float
    """scikit-learn's C, 1 / L2 penalty, for features of unit variance; the same for all findings."""
    validation_mauc: dict[float, float]
    """Of every strength that was tried. Chooses the strength for independent findings."""
    validation_log_loss: dict[float, float]
    """The same, mean of the classes' log losses. Chooses for exclusive classes; else NaN."""
    models: tuple[Any, ...]
    """One binary model per finding (None where no training image knows it), or one for exclusive findings."""
    findings: int
    exclusive: bool

    def probabilities(self, features: Reals) -> Floats:
        """features: (M, D). Returns (M, K), NaN for a finding that is known on no training image."""
        return _probabilities(self.models, features, self.findings, self.exclusive)

    def as_layer(self, width: int, films: int) -> tuple[Floats, Floats]:
        """Weights (K, D) and bias (K,) of the linear layer whose softmax or sigmoids are `probabilities`.

        width: D. films: N. A finding of which the training images showed one side only gets no weights, and
        odds of one in N + 1 for the other side; one that is known on none, a probability of a half.
        """
        weights, bias = np.zeros((self.findings, width)), np.zeros(self.findings)
        rare = -math.log(films + 1)
        if self.exclusive:
            bias[:] = rare
        for k, model in enumerate(self.models):
            if isinstance(model, DummyClassifier):
                bias[int(model.classes_[0]) if self.exclusive else k] = -rare if model.classes_[0] else rare
            elif model is not None:
                scaler, regression = model[0], model[1]
                slopes = regression.coef_ / scaler.scale_
                start = regression.intercept_ - slopes @ scaler.mean_
                if self.exclusive and len(slopes) == 1:  # of two classes scikit-learn keeps one
                    slopes, start = np.vstack([-slopes, slopes]) / 2, np.concatenate([-start, start]) / 2
                rows = regression.classes_ if self.exclusive else [k]
                weights[rows], bias[rows] = slopes, start
        return weights, bias


def fit_linear_probe(
    train_features: Reals,
    train_labels: Reals,
    validation_features: Reals,
    validation_labels: Reals,
    exclusive: bool,
    strengths: Sequence[float] | None = None,
) -> LinearProbe:
    """Logistic regression on standardised features; the validation images choose the strength.

    train_features: (N, D). train_labels: (N, K), 1, 0 or NaN, exactly one 1 per row when exclusive (softmax
    over the classes, else one sigmoid each). strengths: above 0, only these are tried; None: STRENGTHS, and
    WEAKER or STRONGER ones while the best is an end. Of equal ones the nearest to MIDDLE is taken.

    Independent findings choose by mAUC. Exclusive classes choose by the mean of the classes' log losses: an
    AUROC sees the order of the images only, not that one class is the most probable one for all of them. For
    the same reason each class has the same total weight in training. With a strong penalty the unpenalised
    intercepts alone would decide, and predict the most frequent class for every image.

    A finding of which the training images show only one side gets 0 or 1 for every image; it chooses nothing.
    Raises DataError when the validation images define no finding.
    """
    if strengths is not None and not (strengths and all(strength > 0 for strength in strengths)):
        raise ConfigError(f"The strengths of a linear probe are above 0, at least one, got {strengths}.")
    check_cases(np.zeros(train_labels.shape), train_labels)
    if not learned_findings(validation_labels).any():
        raise DataError(
            "No finding has both present and absent images in the validation split: use more data."
        )
    findings = train_labels.shape[1]
    choosing = only_learned(validation_labels, learned_findings(train_labels))
    fitted: dict[float, tuple[Any, ...]] = {}
    mauc: dict[float, float] = {}
    log_loss: dict[float, float] = {}

    def fit(strength: float) -> None:
        fitted[strength] = _fit(train_features, train_labels, exclusive, strength)
        scores = _probabilities(fitted[strength], validation_features, findings, exclusive)
        mauc[strength] = mean_auroc(*answered(scores, choosing)).value
        log_loss[strength] = balanced_log_loss(scores, choosing) if exclusive else math.nan

    def best() -> float:
        from_middle = sorted(fitted, key=lambda strength: abs(math.log(strength / MIDDLE)))
        worth = {strength: -log_loss[strength] if exclusive else mauc[strength] for strength in from_middle}
        return max(worth, key=lambda strength: worth[strength])

    for strength in strengths or STRENGTHS:
        fit(strength)
    if strengths is None and not math.isnan(mauc[best()]):
        for end, further in ((min, WEAKER), (max, STRONGER)):
            for strength in further:
                if best() != end(fitted):
                    break
                fit(strength)
    return LinearProbe(best(), mauc, log_loss, fitted[best()], findings, exclusive)


def _fit(features: Reals, labels: Reals, exclusive: bool, strength: float) -> tuple[Any, ...]:
    if exclusive:
        return (_model(features, labels.argmax(axis=1), strength, class_weight="balanced"),)
    known = ~np.isnan(labels)
    return tuple(
        _model(features[seen], column[seen].astype(np.int64), strength) if seen.any() else None
        for column, seen in zip(labels.T, known.T, strict=True)
    )


def _model(features: Reals, classes: Integers, strength: float, **options: Any) -> Any:
    if len(np.unique(classes)) == 1:
        return DummyClassifier(strategy="prior").fit(features, classes)
    regression = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, **options)
    return make_pipeline(StandardScaler(), regression).fit(features, classes)


def _probabilities(models: Sequence[Any], features: Reals, findings: int, exclusive: bool) -> Floats:
    result = np.zeros((len(features), findings))
    if exclusive:
        result[:, models[0].classes_] = models[0].predict_proba(features)  # an unseen finding keeps 0
        return result
    for k, model in enumerate(models):
        if model is None:
            result[:, k] = math.nan
        elif 1 in model.classes_:
            result[:, k] = model.predict_proba(features)[:, list(model.classes_).index(1)]
    return result

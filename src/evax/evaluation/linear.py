"""A linear probe: logistic regression on frozen features.

Shape legend: N training cases, M other cases, D width, K findings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evax.errors import ConfigError, DataError
from evax.evaluation.classification import Floats, Integers, Reals, check_cases, mean_auroc
from evax.evaluation.embedding import answered
from evax.evaluation.learned import learned_findings, only_learned

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MAX_ITERATIONS = 2000


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """The regression whose strength had the best validation mAUC."""

    strength: float
    """scikit-learn's C, 1 / L2 penalty, for features of unit variance; the same for all findings."""
    validation_mauc: dict[float, float]
    """Of every strength that was tried."""
    models: tuple[Any, ...]
    """One binary model per finding (None where no training film knows it), or one for exclusive findings."""
    findings: int
    exclusive: bool

    def probabilities(self, features: Reals) -> Floats:
        """features: (M, D). Returns (M, K), NaN for a finding that is known on no training film."""
        return _probabilities(self.models, features, self.findings, self.exclusive)

    def as_layer(self, width: int, films: int) -> tuple[Floats, Floats]:
        """Weights (K, D) and bias (K,) of the linear layer whose softmax or sigmoids are `probabilities`.

        width: D. films: N. A finding of which the training films showed one side only gets no weights, and
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
    strengths: Sequence[float] = STRENGTHS,
) -> LinearProbe:
    """Logistic regression on standardised features; the validation films choose the strength.

    train_features: (N, D). train_labels: (N, K), 1, 0 or NaN, exactly one 1 per row when exclusive (softmax
    over the findings, else one sigmoid each). strengths: above 0; of equal ones the first is taken.
    A finding of which the training films show only one side gets 0 or 1 for every film, and chooses nothing.
    Raises DataError when the validation films define no finding.
    """
    if not strengths or not all(strength > 0 for strength in strengths):
        raise ConfigError(f"The strengths of a linear probe are above 0, at least one, got {strengths}.")
    check_cases(np.zeros(train_labels.shape), train_labels)
    findings = train_labels.shape[1]
    fitted = {strength: _fit(train_features, train_labels, exclusive, strength) for strength in strengths}
    choosing, scored = only_learned(validation_labels, learned_findings(train_labels)), {}
    for strength, models in fitted.items():
        scores = _probabilities(models, validation_features, findings, exclusive)
        scored[strength] = mean_auroc(*answered(scores, choosing)).value
    chosen = max(scored, key=lambda strength: scored[strength])
    if not learned_findings(validation_labels).any():
        raise DataError(
            "No finding has both present and absent films in the validation split: use more data."
        )
    return LinearProbe(chosen, scored, fitted[chosen], findings, exclusive)


def _fit(features: Reals, labels: Reals, exclusive: bool, strength: float) -> tuple[Any, ...]:
    if exclusive:
        return (_model(features, labels.argmax(axis=1), strength),)
    known = ~np.isnan(labels)
    return tuple(
        _model(features[seen], column[seen].astype(np.int64), strength) if seen.any() else None
        for column, seen in zip(labels.T, known.T, strict=True)
    )


def _model(features: Reals, classes: Integers, strength: float) -> Any:
    if len(np.unique(classes)) == 1:
        return DummyClassifier(strategy="prior").fit(features, classes)
    regression = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
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

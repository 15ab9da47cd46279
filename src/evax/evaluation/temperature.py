"""One number that makes probabilities less or more extreme, so that they come true as often as they say."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from evax.evaluation.classification import Floats, Reals

LIMITS = (0.05, 20.0)
SMALLEST = 1e-7  # a float32 probability of 0 or 1 has no finite logit


def fit_temperature(probabilities: Reals, positives: Reals, exclusive: bool) -> float:
    """The temperature that makes the truth most likely, for cases the network did not learn from.

    probabilities: (S,) of one finding; (S, K) with a sum of 1 per row when exclusive. positives: the truth in
    the same shape, 1 or 0, without NaN.
    Returns a value within LIMITS, above 1 where the network was too sure; NaN where there is nothing to fit
    (no cases, or all of them alike).
    Source: Guo et al. 2017; for a sigmoid the logit is divided, for a softmax all logits.
    """
    alike = len(positives) == 0 or bool((positives == positives[0]).all())
    if alike:
        return math.nan

    def loss(log_temperature: float) -> float:
        scaled = _logits(probabilities, exclusive) / math.exp(log_temperature)
        if exclusive:
            return -float(np.sum(positives * log_softmax(scaled, axis=1)))
        return float(np.sum(np.logaddexp(0.0, np.where(positives == 1, -scaled, scaled))))

    low, high = (math.log(limit) for limit in LIMITS)
    return float(math.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def with_temperature(probabilities: Reals, temperature: float, exclusive: bool) -> Floats:
    """The probabilities after their logits were divided; the order of the cases stays.

    probabilities, exclusive: as in `fit_temperature`. temperature: above 0.
    """
    scaled = _logits(probabilities, exclusive) / temperature
    result: Floats = softmax(scaled, axis=1) if exclusive else expit(scaled)
    return result


def _logits(probabilities: Reals, exclusive: bool) -> Floats:
    inside = np.clip(probabilities.astype(np.float64), SMALLEST, 1 - SMALLEST)
    result: Floats = np.log(inside) if exclusive else logit(inside)
    return result

"""Linear probing before fine-tuning: a head that starts from what the frozen features already say."""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Float, Int64
from lightning_fabric import Fabric

from evax.adaptation.features import film_features
from evax.data.labelled import LearningFilms
from evax.data.preprocess import Preprocess
from evax.evaluation.linear import fit_linear_probe
from evax.models.classifier import Classifier

logger = logging.getLogger("evax")


def start_from_probe(
    model: Classifier, films: LearningFilms, preprocess: Preprocess, fabric: Fabric
) -> float:
    """Writes a linear probe of the training films into the head; returns its validation mAUC.

    The probe sees what the head will see: the mean of a whole film's patches through the final norm. The
    films that choose the checkpoint choose its strength. Source: Kumar et al. 2022, arXiv:2202.10054.
    Raises DataError when those films define no finding.
    """
    fabric.to_device(model)

    def features(rows: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows D"]:
        means = torch.from_numpy(film_features(model.encoder, films.store, rows, preprocess, fabric))
        with torch.no_grad():
            normed: torch.Tensor = model.encoder.fc_norm(fabric.to_device(means))
        return normed.cpu().numpy()

    train = features(films.train)
    fitted = fit_linear_probe(
        train, films.taught[films.train], features(films.choosing), films.labels[films.choosing],
        films.exclusive,
    )  # fmt: skip
    weights, bias = fitted.as_layer(train.shape[1], len(train))
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weights))
        model.head.bias.copy_(torch.from_numpy(bias))
    score = fitted.validation_mauc[fitted.strength]
    logger.info("The head starts from a linear probe with a validation mAUC of %.3f.", score)
    return score

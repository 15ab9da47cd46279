"""A bundle that answers: film in, probabilities (or a feature vector) out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from evax.data.pictures import read_image
from evax.data.radiograph import Radiograph
from evax.deploy.bundle import Card, read_card
from evax.deploy.published import bundle_of
from evax.errors import DataError, WeightsError, unknown_name
from evax.models.classifier import Classifier, probabilities
from evax.models.encoders import build_encoder
from evax.weights.files import noted_rotary_grid

RUNTIMES = ("torch",)


class Predictor:
    """Runs a bundle on films as they come: the card's preprocessing, then the network in float32."""

    def __init__(self, card: Card, network: nn.Module) -> None:
        self.card = card
        self.network = network.eval().requires_grad_(False)

    def __call__(
        self, film: Radiograph | str | os.PathLike[str]
    ) -> dict[str, float] | Float[np.ndarray, " D"]:
        """Probability per finding for a classifier, a feature vector for an encoder.

        film: a Radiograph or the path of a picture. Raises DataError for a film that cannot be read.
        """
        radiograph = film if isinstance(film, Radiograph) else read_image(film)
        answer = self.predict([radiograph])[0]
        if self.card.kind == "encoder":
            return answer
        return dict(zip(self.card.findings, answer.tolist(), strict=True))

    def predict(self, films: Sequence[Radiograph]) -> Float[np.ndarray, "S outputs"]:
        """The same for several films at once: (S, K) probabilities or (S, D) features."""
        return self.predict_inputs(np.stack([self.network_input(film) for film in films]))

    def predict_inputs(self, inputs: Float[np.ndarray, "S C H W"]) -> Float[np.ndarray, "S outputs"]:
        """The same for what `network_input` made of the films."""
        with torch.inference_mode():
            images = torch.from_numpy(inputs)
            if isinstance(self.network, Classifier):
                return probabilities(self.network(images), self.card.exclusive).numpy()
            return self.network.encode(images).patches.mean(dim=1).numpy()  # type: ignore[operator]

    def network_input(self, film: Radiograph) -> Float[np.ndarray, "C H W"]:
        """The film as the network sees it, native -> store size -> input, normalised."""
        pixels = self.card.preprocess.to_network_input(film)
        return pixels.reshape(-1, *pixels.shape[-2:])


def open_bundle(path: str | os.PathLike[str], runtime: str = "torch") -> Predictor:
    """A predictor from a bundle folder, or from a published file, converted once (see deploy.published).

    path: a bundle folder, a published file under its official file name, or the name of one (`evax zoo
    list`), fetched when it is not on this machine. An existing path goes before a name.
    runtime: "torch". Raises DataError for a folder that is no bundle, ConfigError for an unknown name,
    WeightsError for weights that cannot be had or do not fit their card.
    """
    if runtime not in RUNTIMES:
        raise unknown_name("runtime", runtime, RUNTIMES)
    folder = bundle_of(path)
    card = read_card(folder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise DataError(f"{folder} is not a whole bundle: it has no model.safetensors. Copy it again.")
    grid = noted_rotary_grid(weights)
    rotary: dict[str, Any] = {"ref_feat_shape": (grid, grid)} if grid else {}
    encoder = build_encoder(card.encoder, img_size=card.preprocess.input_size, **rotary)
    network = Classifier(encoder, len(card.findings)) if card.kind == "classifier" else encoder
    try:
        network.load_state_dict(load_file(weights), strict=True)
    except (RuntimeError, SafetensorError, OSError) as error:
        raise WeightsError(f"{weights} does not fit the bundle's card: {error}") from error
    return Predictor(card, network)

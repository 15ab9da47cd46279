"""A bundle in torch: on the machine it was trained on, and where its maps at norm1 are wanted."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped

from evax.data.radiograph import Radiograph
from evax.deploy.bundle import Card
from evax.deploy.predictor import Predictor, check_inputs
from evax.errors import DataError
from evax.explain.gradcam import grad_cam_maps, layers_of
from evax.explain.heatmap import At
from evax.models.classifier import Classifier, probabilities
from evax.models.encoders import CPU, Encoder, build_encoder
from evax.models.segmenter import DECODER_WIDTH, Segmenter
from evax.weights.encoders import fill
from evax.weights.files import read_rotary_grid, read_state_dict


class TorchPredictor(Predictor):
    """An evax Classifier, a Segmenter or an encoder, frozen, in float32, on a device."""

    def __init__(
        self, card: Card, network: Encoder | Classifier | Segmenter, device: torch.device = CPU
    ) -> None:
        self.card, self.device = card, device
        self.network = network.to(device).eval().requires_grad_(False)
        if isinstance(network, Classifier):
            self.layers = layers_of(network.encoder)

    def network_input(self, film: Radiograph) -> Float[np.ndarray, "C H W"]:
        """The image as the network sees it, native -> store size -> input, normalised."""
        pixels = self.card.preprocess.to_network_input(film)
        return pixels.reshape(-1, *pixels.shape[-2:])

    def forward(self, inputs: Shaped[np.ndarray, ...]) -> Float[np.ndarray, "S ..."]:
        """Probabilities, of images or pixels, or features of normalised images, (S, C, H, W)."""
        self._check(inputs)
        with torch.inference_mode(), _full_float32():
            images = torch.from_numpy(inputs).to(self.device)
            if isinstance(self.network, Segmenter):
                answers = torch.sigmoid(self.network(images))
            elif isinstance(self.network, Classifier):
                answers = probabilities(self.network(images), self.card.exclusive)
            else:
                answers = self.network.encode(images).patches.mean(dim=1)
            return answers.cpu().numpy()

    def maps(self, inputs: Shaped[np.ndarray, ...], at: At) -> Float[np.ndarray, "S K h w"]:
        """Grad-CAM of every finding on the patch grid; see evax.explain.gradcam."""
        self._check(inputs)
        assert isinstance(self.network, Classifier)  # grad_cam has refused encoders
        with _full_float32():
            return grad_cam_maps(self.network, torch.from_numpy(inputs).to(self.device), at).cpu().numpy()

    def _check(self, inputs: Shaped[np.ndarray, ...]) -> None:
        chain = self.card.preprocess
        channels = 3 if isinstance(chain.mean, tuple) else 1
        check_inputs(inputs, (channels, chain.input_size, chain.input_size), "float32")


def _full_float32() -> AbstractContextManager[None]:
    """Convolutions of an NVIDIA GPU in float32, as on a CPU; torch's default rounds their inputs to TF32."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def open_torch(folder: Path, card: Card, device: torch.device = CPU) -> TorchPredictor:
    """The bundle's network with its weights on a device.

    Raises DataError without them, WeightsError for unusable ones.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise DataError(f"{folder} is not a whole bundle: it has no model.safetensors. Copy it again.")
    grid = read_rotary_grid(weights)
    rotary: dict[str, Any] = {"ref_feat_shape": (grid, grid)} if grid else {}
    encoder = build_encoder(card.encoder, img_size=card.preprocess.input_size, **rotary)
    network: Encoder | Classifier | Segmenter = encoder
    tensors = read_state_dict(weights)
    if card.kind == "classifier":
        network = Classifier(encoder, len(card.findings))
    elif card.kind == "segmenter":
        network = Segmenter(encoder, len(card.findings), decoder_width_of(tensors))
    fill(network, tensors, "the bundle's card", weights, "Copy the whole bundle again.")
    return TorchPredictor(card, network, device)


def decoder_width_of(tensors: dict[str, torch.Tensor]) -> int:
    """Of a segmenter's weights: what its last layer takes in."""
    last = tensors.get("head.1.weight")
    return DECODER_WIDTH if last is None or last.ndim < 2 else last.shape[1]

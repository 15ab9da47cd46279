"""A bundle that answers: film in, probabilities, masks or features out; once exported, without torch."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped

from evax.data.pictures import read_image
from evax.data.radiograph import Radiograph
from evax.deploy.bundle import Card, read_card
from evax.errors import DataError, ExportError, unknown_name
from evax.explain.heatmap import At

Runtime = Literal["torch", "onnx", "openvino"]
RUNTIMES: dict[str, tuple[str, str]] = {  # name: its package, and what pip is asked for
    "torch": ("torch", "'evax[train]'"),
    "onnx": ("onnxruntime", "onnxruntime"),
    "openvino": ("openvino", "'evax[openvino]'"),
}


class Predictor(ABC):
    """Runs a bundle on films as they come: the card's preprocessing, then the network in float32."""

    card: Card
    layers: tuple[At, ...] = ()
    """Where a classifier can make heat maps, the usual one first (evax.grad_cam)."""

    def __call__(
        self, film: Radiograph | str | os.PathLike[str]
    ) -> dict[str, float] | dict[str, Bool[np.ndarray, "H W"]] | Float[np.ndarray, " D"]:
        """Probability per finding for a classifier, a mask per finding on the film's own pixels for a
        segmenter, a feature vector for an encoder.

        film: a Radiograph or the path of a picture. Raises DataError for a film that cannot be read.
        """
        radiograph = film if isinstance(film, Radiograph) else read_image(film, self.card.preprocess.bits)
        answer = self.predict([radiograph])[0]
        if self.card.kind == "segmenter":
            return self.card.masks(answer, radiograph.pixels.shape)
        if self.card.kind == "encoder":
            return answer
        return dict(zip(self.card.findings, answer.tolist(), strict=True))

    def predict(self, films: Sequence[Radiograph]) -> Float[np.ndarray, "S ..."]:
        """The same for several films at once: (S, K) probabilities, (S, K, h, w) of pixels, or (S, D)
        features.
        """
        return self.predict_inputs(np.stack([self.network_input(film) for film in films]))

    @abstractmethod
    def network_input(self, film: Radiograph) -> Shaped[np.ndarray, ...]:
        """The film as the network sees it, (C, H, W): native -> store size -> input. Normalised in torch, in
        8 bits for an exported network, which normalises itself.
        """

    @abstractmethod
    def predict_inputs(self, inputs: Shaped[np.ndarray, ...]) -> Float[np.ndarray, "S ..."]:
        """The same as predict for what `network_input` made of the films, (S, C, H, W)."""

    @abstractmethod
    def maps(self, inputs: Shaped[np.ndarray, ...], at: At) -> Float[np.ndarray, "S K h w"]:
        """Grad-CAM of a classifier on the patch grid for every finding, not yet scaled; see evax.grad_cam.

        Raises ConfigError for a layer that is not among `layers`.
        """


def check_inputs(inputs: Shaped[np.ndarray, ...], shape: tuple[int, int, int], dtype: str) -> None:
    """Raises DataError unless inputs are finite numbers of this type and (S, *shape), as a network takes."""
    if inputs.shape[1:] != shape or inputs.dtype != dtype or not np.isfinite(inputs).all():
        raise DataError(
            f"The inputs of this bundle are finite {dtype} numbers of shape (images, "
            f"{', '.join(map(str, shape))}), got {inputs.dtype} of shape {inputs.shape} or NaN: "
            "Predictor.network_input makes one of an image, numpy.stack a batch of them."
        )


def default_runtime() -> Runtime:
    """PyTorch where it is installed; else what an exported bundle is made for."""
    return "torch" if find_spec("torch") else "onnx"


def refuse_absent(runtime: str) -> None:
    """Raises ExportError for a runtime that is not installed. runtime: of RUNTIMES."""
    package, wanted = RUNTIMES[runtime]
    if find_spec(package) is None:
        raise ExportError(f"The runtime {runtime} is not installed here: pip install {wanted}")


def open_bundle(path: str | os.PathLike[str], runtime: str | None = None) -> Predictor:
    """A predictor from a bundle folder, or from a published file, converted once (see deploy.published).

    path: a bundle folder, a published file under its official file name, or the name of one (`evax zoo
    list`), fetched when it is not on this machine. An existing path goes before a name.
    runtime: "torch"; or "onnx" or "openvino" for what `evax export` wrote into the bundle, without torch;
    None: torch where it is installed, else onnx. Torch runs on a GPU where it finds one, as in training.
    Raises DataError for a folder that is no bundle, ConfigError for an unknown name, WeightsError for weights
    that cannot be had or do not fit their card, ExportError for a bundle that was not exported or a runtime
    that is not installed.
    """
    runtime = runtime or default_runtime()
    if runtime not in RUNTIMES:
        raise unknown_name("runtime", runtime, RUNTIMES)
    folder = Path(path)
    if not folder.is_dir():
        refuse_without_converter(path)
        from evax.deploy.published import bundle_of

        folder = bundle_of(path)
    card = read_card(folder)
    if card.kind == "segmenter" and runtime != "torch":
        raise ExportError(
            f"{folder} holds a segmenter, which is not exported: it runs in torch only (pip install "
            "'evax[train]')."
        )
    refuse_absent(runtime)
    if runtime == "torch":
        from evax.deploy.torch_runtime import open_torch
        from evax.models.devices import best_device

        return open_torch(folder, card, best_device())
    from evax.deploy.exported import open_exported

    return open_exported(folder, card, runtime)


def refuse_without_converter(path: str | os.PathLike[str]) -> None:
    """Raises ExportError for what is no folder where there is no torch, which converts published files."""
    if find_spec("torch") is None:
        raise ExportError(
            f"There is no bundle folder {path}. A published file is converted to one by torch, which is not "
            "installed here: pip install 'evax[train]', or copy a bundle that `evax export` has written to."
        )

"""A bundle that answers: image in, probabilities, masks or features out; once exported, without torch."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Set
from importlib.util import find_spec
from typing import Any, Literal, get_args, overload

import numpy as np
from jaxtyping import Bool, Float, Shaped

from evax.boxed import located
from evax.data.films import as_radiograph, in_batches
from evax.data.radiograph import Radiograph
from evax.deploy.bundle import Card, read_card
from evax.errors import (
    ConfigError,
    DataError,
    ExportError,
    WeightsError,
    install_command,
    unknown_name,
)
from evax.explain.heatmap import At
from evax.files import checked_path

Film = Radiograph | str | os.PathLike[str]
Answer = dict[str, float] | dict[str, Bool[np.ndarray, "H W"]] | Float[np.ndarray, " D"]
BATCH = 16  # images in memory at a time, where several are given
Runtime = Literal["torch", "onnx", "openvino"]
RUNTIMES: dict[str, tuple[str, str | None]] = {  # name: its package, and the part of evax that brings it
    "torch": ("torch", "train"),
    "onnx": ("onnxruntime", None),  # every installation has it
    "openvino": ("openvino", "openvino"),
}


class Predictor(ABC):
    """Runs a bundle on images as they come: the card's preprocessing, then the network in float32."""

    card: Card
    layers: tuple[At, ...] = ()
    """Where a classifier can make heat maps, the usual one first (evax.grad_cam)."""

    @overload
    def __call__(self, film: Film) -> Answer: ...  # type: ignore[overload-overlap]  # a str is many str

    @overload
    def __call__(self, film: Iterable[Film]) -> list[Answer]: ...

    def __call__(self, film: Film | Iterable[Film]) -> Answer | list[Answer]:
        """Probability per finding for a classifier, a mask per finding on the image's own pixels for a
        segmenter, a feature vector for an encoder.

        film: a Radiograph or the path of a picture; or several of them, read and scored BATCH at a time.
        Returns one answer, or a list of one per image in their order.
        Raises DataError for an image that cannot be read, ConfigError for what is no image.
        """
        if isinstance(film, Radiograph | str | os.PathLike):
            return next(self._answers([film]))
        return [answer for films in in_batches(_several(film), BATCH) for answer in self._answers(films)]

    def _answers(self, films: list[Film]) -> Iterator[Answer]:
        radiographs = [as_radiograph(film, self.card.preprocess.bits) for film in films]
        answers = self.predict(radiographs)
        for radiograph, answer in zip(radiographs, answers, strict=True):
            if self.card.kind == "segmenter":
                yield self.card.masks(answer, radiograph.pixels.shape)
            elif self.card.kind == "encoder":
                yield answer
            else:
                yield dict(zip(self.card.findings, answer.tolist(), strict=True))

    def predict(self, films: Iterable[Film]) -> Float[np.ndarray, "S ..."]:
        """The same for several images as one array: (S, K) probabilities, (S, K, h, w) of pixels, or (S, D)
        features. Raises ConfigError without an image.
        """
        bits = self.card.preprocess.bits
        inputs = (self.network_input(as_radiograph(film, bits)) for film in _several(films))
        parts = [self.predict_inputs(np.stack(batch)) for batch in in_batches(inputs, BATCH)]
        if not parts:
            raise ConfigError("There is no image to score: give at least one.")
        return np.concatenate(parts)

    @abstractmethod
    def network_input(self, film: Radiograph) -> Shaped[np.ndarray, ...]:
        """The image as the network sees it, (C, H, W): native -> store size -> input. Normalised in torch, in
        8 bits for an exported network, which normalises itself.
        """

    def predict_inputs(self, inputs: Shaped[np.ndarray, ...]) -> Float[np.ndarray, "S ..."]:
        """The same as predict for what `network_input` made of the images, (S, C, H, W).

        Raises WeightsError for NaN and infinite answers, which thresholds would take for an absent finding.
        """
        answers = self.forward(inputs)
        if not np.isfinite(answers).all():
            raise WeightsError(
                "The network's answers are NaN or infinite: its weights are damaged. Copy the bundle again."
            )
        return answers

    @abstractmethod
    def forward(self, inputs: Shaped[np.ndarray, ...]) -> Float[np.ndarray, "S ..."]:
        """The network's answers, unchecked."""

    @abstractmethod
    def maps(self, inputs: Shaped[np.ndarray, ...], at: At) -> Float[np.ndarray, "S K h w"]:
        """Grad-CAM of a classifier on the patch grid for every finding, not yet scaled; see evax.grad_cam.

        Raises ConfigError for a layer that is not among `layers`.
        """


def check_inputs(inputs: Shaped[np.ndarray, ...], shape: tuple[int, int, int], dtype: str) -> None:
    """Raises DataError unless inputs are finite numbers of this type and (S, *shape), as a network takes."""
    if not isinstance(inputs, np.ndarray):
        found = f"got {type(inputs).__name__}"
    elif not len(inputs) or inputs.shape[1:] != shape or inputs.dtype != dtype:
        found = f"got {inputs.dtype} of shape {inputs.shape}"
    elif not np.isfinite(inputs).all():
        found = "got NaN or infinite values"
    else:
        return
    raise DataError(
        f"The inputs of this bundle are finite {dtype} numbers of shape (images, "
        f"{', '.join(map(str, shape))}), {found}: Predictor.network_input makes one of an image, numpy.stack "
        "a batch of them."
    )


def _several(films: Any) -> Iterable[Film]:
    """One thing alone becomes a list of itself: what is no image is then refused as one."""
    alone = not isinstance(films, Iterable) or isinstance(films, str | bytes | Set | Mapping)
    return [films] if alone else films


def default_runtime() -> Runtime:
    """PyTorch where it is installed; else what an exported bundle is made for."""
    return "torch" if find_spec("torch") else "onnx"


def check_runtime_installed(runtime: str) -> None:
    """Raises ExportError for a runtime that is not installed. runtime: of RUNTIMES."""
    package, extra = RUNTIMES[runtime]
    if find_spec(package) is None:
        command = install_command(extra) if extra else f"pip install {package}"
        raise ExportError(f"The runtime {runtime} is not installed here: {command}")


def open_bundle(path: str | os.PathLike[str], runtime: str | None = None) -> Predictor:
    """A predictor from a bundle folder, or from a published file, converted once (see deploy.published).

    path: a bundle folder, the name of one that comes with evax, a published file under its official file
    name, or the name of one (`evax zoo list`), fetched when it is not on this machine. An existing path goes
    before a name.
    runtime: "torch"; or "onnx" or "openvino" for what `evax export` wrote into the bundle, without torch;
    None: torch where it is installed, else onnx. Torch runs on a GPU where it finds one, as in training.
    Raises DataError for a folder that is no bundle, ConfigError for an unknown name, WeightsError for weights
    that cannot be had or do not fit their card, ExportError for a bundle that was not exported or a runtime
    that is not installed.
    """
    folder = located(checked_path(path, "A bundle is given by"))
    runtime = default_runtime() if runtime is None else runtime
    if runtime not in get_args(Runtime):
        raise unknown_name("runtime", runtime, RUNTIMES)
    if not folder.is_dir():
        check_torch_converts(path)
        from evax.deploy.published import bundle_of

        folder = bundle_of(path)
    card = read_card(folder)
    if card.kind == "segmenter" and runtime != "torch":
        raise ExportError(
            f"{folder} holds a segmenter, which is not exported: it runs in torch only "
            f"({install_command('train')})."
        )
    check_runtime_installed(runtime)
    if runtime == "torch":
        from evax.deploy.torch_runtime import open_torch
        from evax.models.encoders import best_device

        return open_torch(folder, card, best_device())
    from evax.deploy.exported import open_exported

    return open_exported(folder, card, runtime)


def check_torch_converts(path: str | os.PathLike[str]) -> None:
    """Raises ExportError for what is no folder where there is no torch, which converts published files."""
    if find_spec("torch") is None:
        raise ExportError(
            f"There is no bundle folder {path}. A published file is converted to one by torch, which is not "
            f"installed here: {install_command('train')}, or copy a bundle that `evax export` has written to."
        )

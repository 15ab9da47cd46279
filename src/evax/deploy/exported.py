"""An exported bundle: model.onnx beside its card, run by ONNX Runtime or OpenVINO, without torch.

The graph takes images in 8 bits and normalises them itself. Its answers were compared with torch's when it was
written; onnx.json, the certificate, says how well they agree.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from evax.data.radiograph import Radiograph
from evax.deploy.bundle import Card
from evax.deploy.predictor import Predictor, check_inputs
from evax.download import sha256_of
from evax.errors import ConfigError, DataError, ExportError, install_command
from evax.explain.heatmap import At
from evax.files import read_json

GRAPH, CERTIFICATE = "model.onnx", "onnx.json"
FORMAT = 1  # of the certificate
FILMS, PROBABILITIES, MAPS, FEATURES = "films", "probabilities", "maps", "features"  # names in the graph
Run = Callable[[Shaped[np.ndarray, "..."]], tuple[Shaped[np.ndarray, "..."], ...]]


class ExportedPredictor(Predictor):
    """Answers of a graph; maps at the output, which are part of it."""

    def __init__(self, card: Card, run: Run) -> None:
        self.card = card
        self.run = run
        self.layers = ("output",) if card.kind == "classifier" else ()

    def network_input(self, film: Radiograph) -> UInt8[np.ndarray, "1 H W"]:
        """The image as the graph sees it, native -> store size -> input, in 8 bits."""
        chain = self.card.preprocess
        return chain.view(chain.stored(film))[None]

    def forward(self, inputs: Shaped[np.ndarray, ...]) -> Float[np.ndarray, "S outputs"]:
        """Probabilities or features of images in 8 bits, (S, 1, H, W)."""
        self._check(inputs)
        return self.run(inputs)[0]

    def maps(self, inputs: Shaped[np.ndarray, ...], at: At) -> Float[np.ndarray, "S K h w"]:
        """Grad-CAM at the output; the graph has no gradients for others."""
        if at not in self.layers:
            raise ConfigError(
                f"An exported bundle has maps at its output, not at {at}. Ask for at='output', or open it in "
                "torch."
            )
        self._check(inputs)
        return self.run(inputs)[1]

    def _check(self, inputs: Shaped[np.ndarray, ...]) -> None:
        side = self.card.preprocess.input_size
        check_inputs(inputs, (1, side, side), "uint8")


def open_exported(folder: Path, card: Card, runtime: str) -> ExportedPredictor:
    """The graph of a bundle in ONNX Runtime or OpenVINO.

    Raises ExportError when the bundle was not exported, or its weights, graph or card are not those of the
    certificate, or the runtime is not installed.
    """
    check_certificate(folder, card)
    return ExportedPredictor(card, open_session(folder / GRAPH, runtime))


def graph_contract(card: Card) -> dict[str, Any]:
    """What goes in and what comes out of a graph; thresholds may change without another one."""
    content = {name: getattr(card, name) for name in ("kind", "findings", "exclusive")}
    as_json: dict[str, Any] = json.loads(json.dumps(content | {"preprocess": card.preprocess.to_json()}))
    return as_json  # with lists for tuples, to be compared with what is read


def check_certificate(folder: Path, card: Card) -> None:
    """Raises ExportError unless the bundle's files are those that its certificate was written for."""
    graph, path = folder / GRAPH, folder / CERTIFICATE
    if not (graph.is_file() and path.is_file()):
        raise ExportError(
            f"{folder} was not exported: `evax export {folder}`, where torch is, writes {GRAPH} and "
            f"{CERTIFICATE}; or run it in torch here: {install_command('train')}."
        )
    again = f"run `evax export {folder}` again, where torch is."
    try:
        certificate = read_json(path)
    except DataError as error:
        raise ExportError(f"{error} Copy it again, or {again}") from error
    if not isinstance(certificate, dict) or certificate.get("format") != FORMAT:
        raise ExportError(f"{path} is no certificate of format {FORMAT}: update evax, or {again}")
    if certificate.get("card") != graph_contract(card):
        raise ExportError(f"{folder / 'card.json'} is not the card that {path} was written for: {again}")
    weights = folder / "model.safetensors"  # may be left behind where only the graph is run
    for file, key in ((graph, "graph_sha256"), (weights, "weights_sha256")):
        if file.is_file() and certificate.get(key) != sha256_of(file):
            raise ExportError(f"{file} is not the file that {path} was written for: {again}")


def open_session(graph: Path, runtime: str) -> Run:
    """A function that runs the graph in float32 on this machine's processor, in as many threads as
    OMP_NUM_THREADS says, or as there are cores.
    """
    outermost = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # "4,2" is for nested loops
    threads = int(outermost) if outermost.isdecimal() else 0
    return _openvino(graph, threads) if runtime == "openvino" else _onnx(graph, threads)


def _onnx(graph: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        # as bytes: ONNX Runtime takes every path for UTF-8
        session = onnxruntime.InferenceSession(
            graph.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own exception classes share no base but Exception
        raise ExportError(f"ONNX Runtime cannot read {graph}: {error}") from error

    def run(films: Shaped[np.ndarray, ...]) -> tuple[Shaped[np.ndarray, ...], ...]:
        return tuple(session.run(None, {FILMS: films}))

    return run


def _openvino(graph: Path, threads: int) -> Run:
    import openvino

    # by default OpenVINO computes in bfloat16 where the processor can, which moves logits by some hundredths
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(graph.read_bytes()), "CPU", options)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot read {graph}: {error}") from error

    def run(films: Shaped[np.ndarray, ...]) -> tuple[Shaped[np.ndarray, ...], ...]:
        answer = compiled(films)
        return tuple(np.array(answer[output]) for output in compiled.outputs)

    return run

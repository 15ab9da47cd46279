"""A bundle -> model.onnx, compared with torch on images before it is used."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from evax.data.radiograph import Radiograph
from evax.deploy.bundle import Card
from evax.deploy.exported import (
    CERTIFICATE,
    FEATURES,
    FILMS,
    FORMAT,
    GRAPH,
    MAPS,
    PROBABILITIES,
    ExportedPredictor,
    graph_contract,
    open_session,
)
from evax.deploy.predictor import RUNTIMES
from evax.deploy.torch_runtime import TorchPredictor, open_torch
from evax.download import sha256_of
from evax.errors import ExportError, install_command
from evax.explain.gradcam import output_maps
from evax.files import replaced_whole, write_json
from evax.models.classifier import Classifier, probabilities
from evax.models.segmenter import Segmenter

OPSET = 20  # of ONNX: the first with LayerNormalization and Gelu as torch computes them
MOST_DIFFERENCE = 1e-4  # of a probability, of a map whose largest value is 1, of a feature by the largest one


class Graph(nn.Module):
    """Images in 8 bits -> normalised -> probabilities and maps of a classifier, or features of an encoder."""

    mean: Tensor
    std: Tensor

    def __init__(self, predictor: TorchPredictor) -> None:
        super().__init__()
        chain = predictor.card.preprocess
        for name, values in (("mean", chain.mean), ("std", chain.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1))
        assert not isinstance(predictor.network, Segmenter)  # export_onnx has refused it
        self.network = predictor.network
        self.exclusive = predictor.card.exclusive

    def forward(self, films: UInt8[Tensor, "B 1 H W"]) -> tuple[Float[Tensor, "B ..."], ...]:
        """(B, K) probabilities and (B, K, h, w) maps at the output; or (B, D) features."""
        images = (films.float() / 255 - self.mean) / self.std
        if not isinstance(self.network, Classifier):
            return (self.network.encode(images).patches.mean(dim=1),)
        patches, grid, _ = self.network.encoder.encode(images)
        logits = self.network.read(patches)
        return probabilities(logits, self.exclusive), output_maps(self.network, patches, grid)


def export_onnx(
    folder: Path, card: Card, films: Sequence[Radiograph], source: str, runtimes: Sequence[str]
) -> Path:
    """Writes model.onnx and its certificate into a bundle; returns the path of the certificate.

    films: on which every runtime must agree with torch. source: what they are, for the certificate.
    Raises ExportError when torch cannot write the graph, a runtime is not installed, or one disagrees by more
    than MOST_DIFFERENCE; the bundle is then left as it was.
    """
    if card.kind == "segmenter":
        raise ExportError(f"{folder} holds a segmenter, and only classifiers and encoders are exported.")
    predictor = open_torch(folder, card)
    with replaced_whole(folder / GRAPH) as unfinished:
        write_graph(predictor, unfinished)
        parity = {runtime: measure_parity(predictor, unfinished, runtime, films) for runtime in runtimes}
        for runtime, measured in parity.items():
            if not measured["largest_difference"] <= MOST_DIFFERENCE:
                raise ExportError(
                    f"{runtime} differs from torch by {measured['largest_difference']:.2g} on these images, "
                    f"more than {MOST_DIFFERENCE:g}. Nothing was written; please report it with the versions "
                    "of torch and the runtime."
                )
        certificate = {
            "format": FORMAT,
            "card": graph_contract(card),
            "weights_sha256": sha256_of(folder / "model.safetensors"),
            "graph_sha256": sha256_of(unfinished),
            "opset": OPSET,
            "torch": torch.__version__,
            "films": len(films),
            "films_are": source,
            "most_difference_allowed": MOST_DIFFERENCE,
            "runtimes": parity,
        }
    write_json(certificate, folder / CERTIFICATE)
    return folder / CERTIFICATE


def write_graph(predictor: TorchPredictor, path: Path) -> None:
    """The ONNX file, for any number of images at once; it holds the card and nothing of this machine."""
    try:
        import onnxscript  # noqa: F401  # torch's exporter needs it, and says so late
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    except ModuleNotFoundError as error:
        raise ExportError(f"Exporting needs: {install_command('export')}") from error
    card, graph = predictor.card, Graph(predictor).eval()
    side = card.preprocess.input_size
    names = [PROBABILITIES, MAPS] if card.kind == "classifier" else [FEATURES]
    for noisy in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            graph, (torch.zeros(2, 1, side, side, dtype=torch.uint8),),
            input_names=[FILMS], output_names=names, opset_version=OPSET,
            dynamic_shapes={"films": {0: torch.export.Dim.DYNAMIC}}, dynamo=True, verbose=False,
        )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"torch cannot write {card.encoder} as ONNX: {error}") from error
    assert program is not None  # with dynamo=True
    ClearMetadataAndDocStringPass()(program.model)  # at every node, torch notes the paths of its source
    # how it was trained names folders of who did it
    content = asdict(replace(card, training={})) | {"preprocess": card.preprocess.to_json()}
    program.model.metadata_props["evax_card"] = json.dumps(content)
    program.save(path, external_data=False)


def measure_parity(
    predictor: TorchPredictor, graph: Path, runtime: str, films: Sequence[Radiograph]
) -> dict[str, Any]:
    """How far a runtime is from torch on these images, one at a time and all the way from the native image.

    Differences of probabilities as they are; of maps and features in parts of the largest value of all images.
    """
    card = predictor.card
    pair = {"torch": predictor, runtime: ExportedPredictor(card, open_session(graph, runtime))}
    answers: dict[str, list[Shaped[np.ndarray, ...]]] = {name: [] for name in pair}
    maps: dict[str, list[Shaped[np.ndarray, ...]]] = {name: [] for name in pair}
    seconds = dict.fromkeys(pair, 0.0)
    for film in films:
        for name, each in pair.items():
            inputs = each.network_input(film)[None]
            start = time.perf_counter()
            answers[name].append(each.predict_inputs(inputs)[0])
            seconds[name] += time.perf_counter() - start
            if card.kind == "classifier":
                maps[name].append(each.maps(inputs, "output")[0])
    differences = [_apart(answers["torch"], answers[runtime], scaled=card.kind == "encoder")]
    if card.kind == "classifier":
        differences.append(_apart(maps["torch"], maps[runtime], scaled=True))
    decisions = zip(answers["torch"], answers[runtime], strict=True)
    return {
        "version": version(RUNTIMES[runtime][0]),
        "largest_difference": float(np.max(differences)),  # NaN stays NaN
        "films_with_another_decision": sum(
            card.present(ours) != card.present(theirs) for ours, theirs in decisions
        ),
        "milliseconds_per_film": round(1000 * seconds[runtime] / len(films), 2),
        "milliseconds_per_film_in_torch": round(1000 * seconds["torch"] / len(films), 2),
    }


def _apart(ours: list[Shaped[np.ndarray, ...]], theirs: list[Shaped[np.ndarray, ...]], scaled: bool) -> float:
    """Largest difference; NaN is no agreement."""
    largest = float(np.abs(np.stack(ours) - np.stack(theirs)).max())
    scale = float(np.abs(np.stack(ours)).max()) if scaled else 1.0
    return largest / scale if scale else largest

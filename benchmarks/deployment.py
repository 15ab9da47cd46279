"""Question: how fast does a network score an image in torch, ONNX Runtime and OpenVINO?

EVA-X-Ti, S and B with random weights and 14 findings at 224 pixels, one image and eight at once, on one core,
median of several rounds in which the runtimes take turns, in processor time: other work may run beside.
Reading a film: see read_images.py. Start it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from circumstances import keep
from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, save_bundle
from evax.deploy.predictor import RUNTIMES, open_bundle
from evax.models.classifier import Classifier
from evax.models.encoders import EVA_X, build_encoder

FINDINGS = tuple(f"finding {number}" for number in range(14))
ROUNDS = {"eva_x_tiny_patch16_224": 20, "eva_x_small_patch16_224": 10, "eva_x_base_patch16_224": 5}
BATCHES = (1, 8)


def measure(name: str, folder: Path) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    network = Classifier(build_encoder(name), len(FINDINGS))
    card = Card(kind="classifier", encoder=name, preprocess=Preprocess(), findings=FINDINGS)
    save_bundle(folder, card, network)
    command = [sys.executable, "-m", "evax", "export", str(folder), "--runtimes", "onnx", "openvino"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    predictors = {runtime: open_bundle(folder, runtime) for runtime in RUNTIMES}
    chance = np.random.default_rng(0)
    films = {}
    for batch in BATCHES:
        grey = chance.integers(0, 256, (batch, 1, 224, 224), dtype=np.uint8)
        films[batch] = {runtime: grey for runtime in RUNTIMES} | {"torch": grey.astype(np.float32) / 255}
    seconds: dict[tuple[str, int], list[float]] = {}
    for round_ in range(ROUNDS[name] + 1):
        for batch in BATCHES:
            for runtime, predictor in predictors.items():
                start = time.process_time()
                predictor.predict_inputs(films[batch][runtime])
                if round_:  # the first warms up
                    seconds.setdefault((runtime, batch), []).append(time.process_time() - start)
    return {
        f"{batch} at once": {
            runtime: round(1000 * statistics.median(seconds[runtime, batch]) / batch, 1)
            for runtime in RUNTIMES
        }
        for batch in BATCHES
    }


def main() -> None:
    if torch.get_num_threads() != 1:
        raise SystemExit("OMP_NUM_THREADS=1 is needed: processor time of several threads is no duration.")
    sizes = {}
    for name in EVA_X:
        with tempfile.TemporaryDirectory() as folder:
            sizes[name] = measure(name, Path(folder))
    keep(
        "deployment",
        __doc__.split("\n")[0].removeprefix("Question: "),
        {"milliseconds_per_film": sizes},
    )


if __name__ == "__main__":
    main()

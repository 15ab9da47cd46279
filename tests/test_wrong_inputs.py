"""What a Python caller hands over by mistake is refused in a sentence by every public function.

In a process of its own: the shape checks that the tests switch on would refuse it before evax does.
"""

import json
import subprocess
import sys

import pytest

from bundles import random_bundle

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
import evax

predictor = evax.open_bundle(sys.argv[1])
encoder = evax.create_encoder("eva_x_tiny_patch16_224", img_size=64, depth=1)
cnn = evax.create_encoder("densenet121")
picture = Image.new("L", (8, 8))
image = evax.Radiograph(np.zeros((64, 64), np.float32))
no_paths = [None, 3, b"film.png", np.zeros((8, 8)), picture, torch.zeros(8, 8), ["film.png"], "a\\0b"]
no_films = [*no_paths[:6], "a\\0b", {"film.png"}, {"film.png": 1}]  # a list of images is one
no_images = [
    None, "film.png", np.zeros((1, 1, 64, 64), np.float32), torch.zeros(64, 64), torch.zeros(1, 2, 64, 64),
    torch.zeros(1, 1, 64, 64, dtype=torch.uint8), torch.zeros(1, 1, 64, 64, dtype=torch.float64),
    torch.zeros(1, 1, 64, 64, device="meta"),
]
Image.fromarray(np.array([[0, 5000]], np.uint16)).save("deep.png")
assert evax.read_image("deep.png", np.int64(12)).pixels.tolist() == [[0, 1]]
calls = [
    *((evax.read_image, value) for value in no_paths),
    *((evax.open_store, value) for value in no_paths),
    *((evax.open_bundle, value) for value in no_paths),
    *((predictor, value) for value in no_films),
    *((predictor, [image, value]) for value in no_films),
    *((predictor.predict, value) for value in [*no_films, []]),
    *((evax.grad_cam, predictor, value, "Mass") for value in no_films),
    *((evax.grad_cam, value, image, "Mass") for value in no_paths),
    *((evax.grad_cam, predictor, image, value) for value in (None, 0, [])),
    *((predictor.predict_inputs, value) for value in ([[1]], np.zeros((0, 1, 64, 64), np.float32))),
    *((lambda bits: evax.read_image("deep.png", bits), bits) for bits in ("12", True, 17, 12.5)),
    *((lambda mm: evax.Radiograph(image.pixels, mm), mm) for mm in (0.14, ("a", "b"), (0.1,))),
    (evax.grad_cam, predictor, image, "Mass", "norm2"),
    (evax.open_bundle, sys.argv[1], 3), (evax.open_bundle, sys.argv[1], []),
    *((evax.create_encoder, value) for value in (None, 3, [], "resnet51")),
    *((evax.create_encoder, "eva_x_tiny_patch16_224", value) for value in [*no_paths[1:], {}]),
    *((lambda size: evax.create_encoder("eva_x_tiny_patch16_224", img_size=size), size)
      for size in ("64", None, 0, -16, 64.0, [64])),
    *((lambda option: evax.create_encoder("eva_x_tiny_patch16_224", img_size=64, **option), option)
      for option in ({"droppath": 0.1}, {"depth": "a"}, {"features_only": True}, {"image_size": 64})),
    (lambda option: evax.create_encoder("densenet121", **option), {"droppath": 0.1}),
    *((call, value) for call in (encoder, encoder.encode, cnn, cnn.encode) for value in no_images),
    *((call, torch.zeros(1, 1, 80, 64)) for call in (encoder, encoder.encode)),
]
for function, *arguments in calls:
    try:
        answer = function(*arguments)
    except Exception as error:
        answer = f"{type(error).__module__}: {error}"
    print(json.dumps([getattr(function, "__name__", type(function).__name__), repr(arguments), str(answer)]))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """Function, arguments and answer of every wrong call."""
    folder = random_bundle(tmp_path_factory.mktemp("bundle"), ("Mass",), store_size=80)
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_wrong_inputs_of_every_public_function_end_in_a_sentence_of_evax(refusals):
    assert len(refusals) > 100
    raw = [call for call in refusals if not call[2].startswith("evax.errors: ")]
    assert not raw, raw


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("[None]", "an image by its path (str or pathlib.Path), not by NoneType"),
        ("[[Radiograph(", "evax.Radiograph(pixels)"),
        ("torch.uint8)]", "normalise them, as (pixels / 255 - mean) / std"),
        ("torch.float64)]", "The images are torch.float64 and the encoder torch.float32"),
        ("device='meta'", "The images are on meta and the encoder on cpu"),
        ("{'droppath': 0.1}]", "timm cannot build densenet121 with droppath=0.1"),
        ("'norm2'", "No layer for Grad-CAM is called 'norm2'. Did you mean 'norm1'?"),
    ],
)
def test_the_sentence_says_what_to_give_instead(arguments, sentence, refusals):
    assert any(arguments in call[1] and sentence in call[2] for call in refusals), refusals

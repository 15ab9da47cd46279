"""fp16 with loss scaling, as on a GPU; torch has the scaler on the CPU too, where no one would want it."""

import json

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from evax.adaptation.classify import classification_loss
from evax.data.preprocess import Preprocess
from evax.models.classifier import Classifier
from evax.models.encoders import build_encoder
from evax.options.training import OptimizerConfig
from evax.runs.optimizer import backward_and_step, create_optimizer

FILMS = np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), dtype=np.uint8)
LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.2], [1.0, float("nan")]])


def stepped(clip_norm, **precision):
    fabric = Fabric(accelerator="cpu", devices=1, **precision)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(build_encoder("eva_x_tiny_patch16_224", img_size=32), 2)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    optimizer = create_optimizer(model, OptimizerConfig(), depth=12)
    network, optimizer = fabric.setup(model, optimizer)
    images = Preprocess(32, 32).normalise(torch.from_numpy(FILMS).float() / 255)
    loss = classification_loss(network(images), LABELS, exclusive=False)
    return backward_and_step(loss, network, optimizer, fabric, 1e-3, clip_norm, step=0), model


def half(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return scaler, {"plugins": MixedPrecision("16-mixed", "cpu", scaler)}


def test_a_gradient_is_measured_and_clipped_without_its_loss_scale():
    (single, plain), (scaled, model) = stepped(0.0), stepped(0.0, **half(256.0)[1])
    assert np.isclose(scaled["loss"], single["loss"], rtol=0.02)
    assert np.isclose(scaled["grad_norm"], single["grad_norm"], rtol=0.05)  # not 256 times as large
    assert json.dumps(scaled)
    weights = [network.state_dict()["encoder.blocks.5.mlp.fc2.weight"] for network in (plain, model)]
    assert torch.allclose(*weights, atol=2.1e-3)  # one AdamW step is at most lr either way


def test_a_step_whose_gradient_overflowed_is_skipped():
    scaler, options = half(2.0**40)
    _, untouched = stepped(0.0, precision="32-true")
    measured, model = stepped(1.0, **options)
    assert not np.isfinite(measured["grad_norm"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = Classifier(build_encoder("eva_x_tiny_patch16_224", img_size=32), 2)
    name = "encoder.blocks.5.mlp.fc2.weight"
    assert torch.equal(model.state_dict()[name], fresh.state_dict()[name])
    assert not torch.equal(untouched.state_dict()[name], fresh.state_dict()[name])
    assert scaler.get_scale() < 2.0**40

"""A bundle runs on the device that training would choose, and its answers come back to the CPU."""

import numpy as np
import pytest
import torch

import evax
from bundles import random_bundle
from evax.deploy.bundle import read_card
from evax.deploy.torch_runtime import open_torch
from evax.models.encoders import best_device
from evax.runs.device import start_fabric

META = torch.device("meta")  # stands for a GPU: another device than that of the images


@pytest.fixture(params=["encoder", "classifier", "segmenter"])
def bundle(request, tmp_path):
    findings = () if request.param == "encoder" else ("A", "B")
    return random_bundle(tmp_path / "bundle", findings, kind=request.param)


def test_training_and_prediction_choose_the_same_device(monkeypatch):
    assert start_fabric("fp32").device.type == best_device().type
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert best_device().type == "mps"


def test_network_and_images_are_on_the_device_that_is_chosen(bundle, monkeypatch):
    monkeypatch.setattr("evax.models.encoders.best_device", lambda: META)
    predictor = evax.open_bundle(bundle)
    assert {tensor.device.type for tensor in predictor.network.state_dict().values()} == {"meta"}
    seen = []
    inner = getattr(predictor.network, "encoder", predictor.network)
    inner.patch_embed.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].device.type))
    films = np.zeros((2, 1, 64, 64), np.float32)
    asked = [lambda: predictor.predict_inputs(films)]
    asked += [lambda at=at: predictor.maps(films, at) for at in predictor.layers]
    for ask in asked:
        # the whole network has run when its answer is fetched, and a meta tensor has nothing to fetch
        with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
            ask()
    assert seen == ["meta"] * len(asked)


def test_answers_are_arrays_and_exports_and_conversions_stay_on_the_cpu(bundle):
    predictor = open_torch(bundle, read_card(bundle))
    assert {tensor.device.type for tensor in predictor.network.state_dict().values()} == {"cpu"}
    answer = predictor.predict_inputs(np.zeros((2, 1, 64, 64), np.float32))
    assert isinstance(answer, np.ndarray)
    assert len(answer) == 2

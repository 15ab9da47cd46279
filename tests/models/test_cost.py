"""Counts are the published ones; a time is a time and leaves torch as it was."""

import itertools

import pytest
import torch
from torch import nn

from evax.evaluation.published import EVA_X_B, EVA_X_S, EVA_X_TI
from evax.models.cost import WARM_UP, Kind, milliseconds_per_film, size_of
from evax.models.encoders import EvaX


@pytest.mark.parametrize(
    ("encoder", "findings", "parameters", "multiply_adds"),
    [
        # paper-facts.md 1.1, with the head of 14 outputs
        ("eva_x_tiny_patch16_224", 14, EVA_X_TI, 1.2535e9),
        ("eva_x_small_patch16_224", 14, EVA_X_S, 4.5985e9),
        ("eva_x_base_patch16_224", 14, EVA_X_B, 17.563e9),
    ],
)
def test_parameters_and_multiply_adds_are_the_published_ones(encoder, findings, parameters, multiply_adds):
    size = size_of(Kind(encoder, 224, findings))
    assert size.parameters == parameters
    assert size.multiply_adds == pytest.approx(multiply_adds, rel=1e-3)


def test_a_cnn_s_multiply_adds_are_those_of_its_convolutions_and_its_head():
    kind, counted = Kind("efficientnet_lite0", 224, 1000), []

    def count(layer, _, output):
        places = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        counted.append(layer.weight.numel() * places)

    network = kind.build().eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 1, 224, 224))
    assert size_of(kind).multiply_adds == sum(counted)
    assert size_of(kind).parameters == 4_652_008  # as published for EfficientNet-Lite0


def test_a_larger_image_costs_more_multiply_adds_and_hardly_more_parameters():
    small, large = (size_of(Kind("eva_x_tiny_patch16_224", side, 5)) for side in (64, 128))
    assert large.multiply_adds > 3 * small.multiply_adds
    assert large.parameters - small.parameters == (64 - 16) * 192  # places of the position table


def test_kinds_are_timed_in_turn_and_the_number_of_threads_is_given_back(monkeypatch):
    before, clock, order = torch.get_num_threads(), itertools.count(), []
    kinds = [Kind("eva_x_tiny_patch16_224", side, 5) for side in (32, 48)]
    # a clock of looks, 10 more in the larger network: a real one would time the neighbours on this machine
    monkeypatch.setattr("evax.models.cost.time.perf_counter", lambda: float(next(clock)))
    encode = EvaX.encode

    def slow(encoder, images):
        order.append(images.shape[-1])
        assert torch.get_num_threads() == before + 1
        for _ in range(10 if images.shape[-1] == 48 else 0):
            next(clock)
        return encode(encoder, images)

    monkeypatch.setattr(EvaX, "encode", slow)
    times = milliseconds_per_film(kinds, repeats=3, threads=before + 1)
    assert times == {kinds[0]: 1000.0, kinds[1]: 11000.0}
    assert order == [32, 48] * (WARM_UP + 3)
    assert torch.get_num_threads() == before

"""Counts are the published ones; a time is a time and leaves torch as it was."""

import pytest
import torch

from evax.models.cost import Kind, milliseconds_per_film, size_of
from evax.reporting.published import EVA_X_B, EVA_X_S, EVA_X_TI


@pytest.mark.parametrize(
    ("encoder", "findings", "parameters", "multiply_adds"),
    [
        # facts 1.1, with the head of 14 outputs
        ("eva_x_tiny_patch16_224", 14, EVA_X_TI, 1.2535e9),
        ("eva_x_small_patch16_224", 14, EVA_X_S, 4.5985e9),
        ("eva_x_base_patch16_224", 14, EVA_X_B, 17.563e9),
        # EfficientNet-Lite's page: 4,652,008 parameters with 1,000 outputs, 407 M multiply-adds
        ("efficientnet_lite0", 1000, 4_652_008, 0.407e9),
    ],
)
def test_parameters_and_multiply_adds_are_the_published_ones(encoder, findings, parameters, multiply_adds):
    size = size_of(Kind(encoder, 224, findings))
    assert size.parameters == parameters
    assert size.multiply_adds == pytest.approx(multiply_adds, rel=0.02 if "lite" in encoder else 1e-3)


def test_a_larger_film_costs_more_multiply_adds_and_hardly_more_parameters():
    small, large = (size_of(Kind("eva_x_tiny_patch16_224", side, 5)) for side in (64, 128))
    assert large.multiply_adds > 3 * small.multiply_adds
    assert large.parameters - small.parameters == (64 - 16) * 192  # places of the position table


def test_kinds_are_timed_in_turn_and_the_number_of_threads_is_given_back():
    before = torch.get_num_threads()
    kinds = [Kind("eva_x_tiny_patch16_224", side, 5) for side in (32, 224)]
    times = milliseconds_per_film(kinds, repeats=3, threads=before + 1)
    assert list(times) == kinds
    assert 0 < times[kinds[0]] < times[kinds[1]]
    assert torch.get_num_threads() == before

import pytest
import timm
import torch

from evax.reporting import published


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        ("densenet121", published.DENSENET121),
        ("resnet50", published.RESNET50),
        ("vit_small_patch16_224", published.VIT_S),
        ("vit_base_patch16_224", published.VIT_B),
    ],
)
def test_sizes_of_published_networks_are_those_of_timm_s_with_14_outputs(network, parameters):
    with torch.device("meta"):
        built = timm.create_model(network, num_classes=14)
    assert sum(parameter.numel() for parameter in built.parameters()) == parameters

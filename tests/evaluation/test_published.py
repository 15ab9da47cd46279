import pytest
import timm
import torch

from evax.evaluation import published


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


def test_published_maps_hold_what_a_share_of_984_boxes_can_be():
    """All but the one AP50 that is noted: the mAP printed beside it fits another."""
    for row in published.PUBLISHED_MAPS:
        for score in (row.ap25, row.ap50):
            boxes = round(score / 100 * 984)
            assert abs(100 * boxes / 984 - score) < 0.011 or (row.name, score) == ("Medical MAE ViT-S", 1.0)
        half = (row.ap25 + row.ap50) / 2
        assert abs(half - row.map) < 0.011 or row.name == "Medical MAE ViT-S"

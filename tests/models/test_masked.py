import pytest
import torch

from evax.errors import ConfigError
from evax.models.encoders import build_encoder
from evax.models.masked import MaskedImageModel


def test_the_pre_training_network_has_the_released_files_parameter_count():
    model = MaskedImageModel(build_encoder("eva_x_tiny_patch16_224"), target_width=768)
    assert sum(parameter.numel() for parameter in model.parameters()) == 5_673_600  # facts 1.1


def test_predictions_are_made_at_the_hidden_places_in_the_order_given():
    model = MaskedImageModel(build_encoder("eva_x_tiny_patch16_224", img_size=64), target_width=8).eval()
    images = torch.randn(2, 1, 64, 64)
    positions = torch.tensor([[3, 0, 7], [1, 2, 15]])
    predicted = model(images, positions)
    assert predicted.shape == (2, 3, 8)
    assert torch.allclose(model(images, positions.flip(1)), predicted.flip(1), atol=1e-6)


def test_a_cnn_cannot_be_pre_trained_by_hiding_patches():
    with pytest.raises(ConfigError, match="Only eva_x_tiny_patch16_224, .* can be pre-trained"):
        MaskedImageModel(build_encoder("efficientnet_lite0"), target_width=8)

import pytest
import torch

from evax.errors import ConfigError
from evax.models.encoders import build_encoder
from evax.models.masked import MaskedImageModel


def test_the_pre_training_network_has_the_released_files_parameter_count():
    model = MaskedImageModel(build_encoder("eva_x_tiny_patch16_224"), target_width=768)
    assert sum(parameter.numel() for parameter in model.parameters()) == 5_673_600  # paper-facts.md 1.1


def test_predictions_are_made_at_the_hidden_places_in_the_order_given():
    model = MaskedImageModel(build_encoder("eva_x_tiny_patch16_224", img_size=64), target_width=8).eval()
    images = torch.randn(2, 1, 64, 64)
    positions = torch.tensor([[3, 0, 7], [1, 2, 15]])
    predicted = model(images, positions)
    assert predicted.shape == (2, 3, 8)
    assert torch.allclose(model(images, positions.flip(1)), predicted.flip(1), atol=1e-6)


def gradients(patch_gradient=1.0, grad_checkpointing=False):
    torch.manual_seed(0)
    model = MaskedImageModel(build_encoder("eva_x_tiny_patch16_224", img_size=64), target_width=8)
    model.encoder.patch_gradient, model.encoder.grad_checkpointing = patch_gradient, grad_checkpointing
    predicted = model(torch.randn(2, 1, 64, 64), torch.tensor([[3, 0, 7], [1, 2, 15]]))
    predicted.square().sum().backward()
    return predicted.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def test_activations_computed_again_give_the_same_gradients():
    (predicted, grads), (again, recomputed) = gradients(), gradients(grad_checkpointing=True)
    assert torch.equal(predicted, again)
    assert all(torch.allclose(grads[name], recomputed[name], atol=1e-7) for name in grads)


def test_a_tenth_of_the_gradient_reaches_the_patch_embedding_and_the_rest_is_as_before():
    (predicted, grads), (same, held_back) = gradients(), gradients(patch_gradient=0.1)
    assert torch.allclose(predicted, same, atol=1e-5)
    for name, gradient in grads.items():
        share = 0.1 if "patch_embed" in name else 1.0
        assert torch.allclose(held_back[name], share * gradient, atol=1e-3 * gradient.abs().max().item()), (
            name
        )


def test_a_cnn_cannot_be_pre_trained_by_hiding_patches():
    with pytest.raises(ConfigError, match="Only eva_x_tiny_patch16_224, .* can be pre-trained"):
        MaskedImageModel(build_encoder("efficientnet_lite0"), target_width=8)

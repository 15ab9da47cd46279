import torch

from evax.models.classifier import Classifier, probabilities
from evax.models.encoders import build_encoder


def test_the_head_reads_the_normed_mean_of_the_patch_tokens_without_the_class_token():
    model = Classifier(build_encoder("eva_x_tiny_patch16_224", img_size=64), 3).eval()
    torch.nn.init.normal_(model.head.weight)
    images = torch.randn(2, 1, 64, 64)
    encoded = model.encoder.encode(images)
    pooled = torch.nn.functional.layer_norm(encoded.patches.mean(1), (192,), eps=1e-6)
    assert torch.allclose(model(images), model.head(pooled), atol=1e-5)


def test_exclusive_probabilities_sum_to_one_and_others_are_independent():
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    assert probabilities(logits, exclusive=True).sum().item() == 1.0
    assert torch.allclose(probabilities(logits, exclusive=False), torch.sigmoid(logits))

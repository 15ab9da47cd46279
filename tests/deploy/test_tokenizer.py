import pytest
import torch

from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, save_bundle
from evax.deploy.tokenizer import open_tokenizer
from evax.errors import ConfigError, WeightsError
from evax.models.classifier import Classifier
from evax.models.encoders import build_encoder

CHAIN = Preprocess(store_size=96, input_size=64, mean=0.4, std=0.2)
FILMS = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def bundle(folder, encoder="eva_x_tiny_patch16_224", kind="encoder"):
    torch.manual_seed(0)
    network = build_encoder(encoder, img_size=64).eval()
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    whole = network if kind == "encoder" else Classifier(network, 1)
    findings = () if kind == "encoder" else ("Effusion",)
    save_bundle(folder, Card(kind=kind, encoder=encoder, preprocess=CHAIN, findings=findings), whole)
    return network


def test_a_bundle_gives_its_normed_patches_of_images_normalised_as_its_card_says(tmp_path):
    encoder = bundle(tmp_path)
    tokenizer = open_tokenizer(str(tmp_path), image_size=64)
    expected = encoder.fc_norm(encoder.encode((FILMS - 0.4) / 0.2).patches)
    assert torch.allclose(tokenizer(FILMS), expected, atol=1e-5)
    assert tokenizer.width == 192
    assert tokenizer.identity()["name"] == "bundle of eva_x_tiny_patch16_224"


def test_a_bundle_serves_a_student_of_another_size(tmp_path):
    bundle(tmp_path)
    assert open_tokenizer(str(tmp_path), image_size=96)(torch.rand(1, 1, 96, 96)).shape == (1, 36, 192)
    wide = open_tokenizer(str(tmp_path), image_size=64, view=128)
    assert wide(FILMS).shape == (2, 16, 192)


def test_a_bundle_of_a_cnn_is_brought_to_the_student_s_grid(tmp_path):
    bundle(tmp_path, "efficientnet_lite0")
    assert open_tokenizer(str(tmp_path), image_size=64)(FILMS).shape == (2, 16, 1280)


def test_features_learned_from_labels_are_no_tokenizer(tmp_path):
    bundle(tmp_path, kind="classifier")
    with pytest.raises(WeightsError, match="is a classifier, whose features were learned from labels"):
        open_tokenizer(str(tmp_path), image_size=64)


def test_what_does_not_go_with_a_bundle_is_refused(tmp_path):
    bundle(tmp_path)
    with pytest.raises(WeightsError, match="brings its own weights"):
        open_tokenizer(str(tmp_path), "other.pt", image_size=64)
    with pytest.raises(ConfigError, match="asked for its last features, not for layer 3"):
        open_tokenizer(str(tmp_path), image_size=64, layer="3")
    with pytest.raises(ConfigError, match="A view of 70 pixels is not filled by patches of 16"):
        open_tokenizer(str(tmp_path), image_size=64, view=70)
    with pytest.raises(
        ConfigError, match="No tokenizer is called .*nothing.* the folder of an encoder bundle"
    ):
        open_tokenizer(str(tmp_path / "nothing"), image_size=64)

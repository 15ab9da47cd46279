import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from evax.data.preprocess import Preprocess
from evax.data.radiograph import Radiograph
from evax.deploy.bundle import Card
from evax.deploy.torch_runtime import TorchPredictor
from evax.errors import ConfigError
from evax.explain.gradcam import grad_cam_maps
from evax.explain.heatmap import grad_cam, spread
from evax.models.classifier import Classifier
from evax.models.encoders import build_encoder

FINDINGS = ("Effusion", "Mass", "Nodule")
WHOLE = Preprocess()


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Classifier(build_encoder("eva_x_tiny_patch16_224", img_size=96), len(FINDINGS)).eval()
        torch.nn.init.normal_(network.head.weight)
        for block in network.encoder.blocks:  # random weights barely attend: make the maps differ
            block.attn.qkv.weight.data.mul_(8)
    return network


@pytest.fixture
def predictor(network):
    card = Card(
        kind="classifier",
        encoder="eva_x_tiny_patch16_224",
        preprocess=Preprocess(store_size=112, input_size=96),
        findings=FINDINGS,
    )
    return TorchPredictor(card, network)


@pytest.mark.parametrize("at", ["norm1", "output"])
def test_maps_of_all_findings_at_once_are_those_of_the_grad_cam_library_one_by_one(network, at):
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    ours = grad_cam_maps(network, images, at)  # (B, K, h, w)
    block = network.encoder.blocks[-1]
    layer = block.norm1 if at == "norm1" else block
    library = GradCAM(
        network, [layer], reshape_transform=lambda x: x[:, 1:].transpose(1, 2).unflatten(2, (6, 6))
    )
    for column in range(len(FINDINGS)):
        theirs = library(images, [ClassifierOutputTarget(column)] * 2)  # (B, H, W), min-max scaled
        for film in range(2):
            mine = spread(ours[film, column].numpy(), (96, 96), WHOLE)
            assert np.abs(mine - theirs[film]).max() < 0.02  # they resize with OpenCV, we with Pillow
            assert np.corrcoef(mine.ravel(), theirs[film].ravel())[0, 1] > 0.999


def test_a_plain_vit_s_map_is_the_library_s_at_its_last_norm1():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Classifier(build_encoder("vit_small_patch16_224", img_size=96, depth=2), 2).eval()
        torch.nn.init.normal_(network.head.weight)
        for block in network.encoder.blocks:
            block.attn.qkv.weight.data.mul_(8)
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    library = GradCAM(
        network, [network.encoder.blocks[-1].norm1],
        reshape_transform=lambda x: x[:, 1:].transpose(1, 2).unflatten(2, (6, 6)),
    )  # fmt: skip
    ours = spread(grad_cam_maps(network, images, "norm1")[0, 1].numpy(), (96, 96), WHOLE)
    assert np.corrcoef(ours.ravel(), library(images, [ClassifierOutputTarget(1)])[0].ravel())[0, 1] > 0.999
    card = Card(kind="classifier", encoder="x", preprocess=Preprocess(), findings=FINDINGS[:2])
    assert TorchPredictor(card, network).layers == ("norm1", "output")


def test_the_two_layers_give_different_maps(network):
    images = torch.randn(1, 3, 96, 96)
    maps = [grad_cam_maps(network, images, at)[0, 0].flatten() for at in ("norm1", "output")]
    assert torch.corrcoef(torch.stack(maps))[0, 1] < 0.9


def test_nothing_stays_on_the_network(network):
    network.zero_grad()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    grad_cam_maps(network, torch.randn(1, 3, 96, 96))
    assert all(not module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_map_lies_on_the_image_s_own_pixels_in_0_to_1(predictor):
    film = Radiograph(np.random.default_rng(0).random((120, 90)).astype(np.float32), None, None, ())
    heatmap = grad_cam(predictor, film, "Mass")
    assert heatmap.shape == (120, 90)
    assert heatmap.dtype == np.float32
    assert heatmap.min() >= 0
    assert heatmap.max() == pytest.approx(1.0)


def test_an_unknown_finding_and_an_encoder_are_refused(predictor):
    film = Radiograph(np.zeros((32, 32), np.float32), None, None, ())
    with pytest.raises(ConfigError, match="No finding is called 'Efusion'. Did you mean 'Effusion'"):
        grad_cam(predictor, film, "Efusion")
    encoder = TorchPredictor(
        Card(kind="encoder", encoder="x", preprocess=Preprocess()), build_encoder("eva_x_tiny_patch16_224")
    )
    with pytest.raises(ConfigError, match="needs a classifier bundle"):
        grad_cam(encoder, film, "Mass")


def test_a_flat_map_stays_flat():
    assert not spread(np.zeros((3, 3), np.float32), (10, 10), WHOLE).any()


def test_the_map_of_a_central_crop_lies_where_the_network_looked():
    chain = Preprocess(store_size=256, input_size=224, resize_size=256)
    grid = np.zeros((14, 14), np.float32)
    grid[0, 13] = 1.0  # the patch at the right end of the first row of the crop
    heatmap = spread(grid, (512, 1024), chain)
    rows, columns = np.nonzero(heatmap == heatmap.max())
    # by hand: the crop is pixels 16 to 240 of 256; that patch is 16 to 32 down and 224 to 240 across
    assert (rows.mean() + 0.5) * 256 / 512 == pytest.approx((16 + 32) / 2, abs=6)
    assert (columns.mean() + 0.5) * 256 / 1024 == pytest.approx((224 + 240) / 2, abs=6)
    assert not heatmap[:32].any()
    assert not heatmap[:, 960:].any()
    assert heatmap.max() == 1.0


def test_an_image_s_bright_spot_seen_through_a_central_crop_is_where_the_map_puts_it(predictor):
    class Bright:  # a network whose map is its input: what is spread must fit the image
        preprocess = Preprocess(store_size=112, input_size=96, resize_size=112)

    film = np.zeros((140, 224), np.float32)
    film[60:68, 120:130] = 1.0
    seen = Bright.preprocess.to_network_input(Radiograph(film, None, None, ()))
    seen = seen.reshape(12, 8, 12, 8).mean(axis=(1, 3))  # patches of 8 pixels
    back = spread(seen - seen.min(), film.shape, Bright.preprocess)
    row, column = np.unravel_index(back.argmax(), back.shape)
    assert abs(row - 64) <= 8
    assert abs(column - 125) <= 12


def test_a_cnn_s_map_is_the_library_s_at_its_last_layer_and_it_has_no_norm1():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Classifier(build_encoder("efficientnet_lite0"), 2).eval()
        torch.nn.init.normal_(network.head.weight)
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    ours = spread(grad_cam_maps(network, images, "output")[0, 1].numpy(), (96, 96), WHOLE)
    theirs = GradCAM(network, [network.encoder.network.bn2])(images, [ClassifierOutputTarget(1)])[0]
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
    card = Card(
        kind="classifier", encoder="efficientnet_lite0", preprocess=Preprocess(), findings=FINDINGS[:2]
    )
    assert TorchPredictor(card, network).layers == ("output",)
    with pytest.raises(ConfigError, match="has no norm1 .*--at output"):
        grad_cam_maps(network, images, "norm1")

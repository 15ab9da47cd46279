"""Every baseline's file beside the network of its own library: the same features on random images."""

import json

import pytest
import torch

from baseline_files import (
    biovil,
    densenet121,
    densenet121_maps,
    dinov2,
    fine_tuned,
    mae,
    medklip,
    mgca,
    moco,
    old_densenet,
    resnet50,
    resnet50_maps,
    shaken,
    smp,
    torchxrayvision,
    vit,
)
from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, save_bundle, starting_preprocess
from evax.errors import ConfigError, WeightsError
from evax.models.encoders import EVA_X
from evax.published import IMAGENET_MEAN, IMAGENET_STD
from evax.weights.encoders import EncoderWeights, create_encoder, create_published
from evax.weights.released import CLIP, IMAGENET, MEDICAL_MAE, RELEASED
from official_files import forward_as_released, official_mim, official_rope


def own_normalisation(name, weights):
    return EncoderWeights(name, weights).normalisation()


TINY = next(iter(EVA_X))
VIT_S, VIT_B = "vit_small_patch16_224", "vit_base_patch16_224"
NETWORKS = {"resnet50": (resnet50, resnet50_maps), "densenet121": (densenet121, densenet121_maps)}
FILMS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def network():
    """A network of torchvision by name, made once."""
    made = {}
    return lambda name: made.setdefault(name, NETWORKS[name][0]())


@pytest.fixture
def weights(tmp_path):
    """Where a file of weights lies until the test ends: some are 100 MB."""
    yield tmp_path / "weights.pth"
    for path in tmp_path.glob("*.pth"):
        path.unlink()


def assert_maps(encoder, maps, films=FILMS):
    """encoder: what is tested. maps: the library's network up to its last map."""
    with torch.inference_mode():
        expected = maps(films)  # (B, D, h, w)
        patches, grid, cls = encoder.eval().encode(films)
    assert grid == expected.shape[2:]
    assert cls is None
    expected = expected.flatten(2).transpose(1, 2)
    assert torch.allclose(patches, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)


def assert_tokens(encoder, tokens, films=FILMS):
    """tokens: class token and patches of the library's network, final norm applied."""
    with torch.inference_mode():
        encoded = encoder.eval().encode(films)
        ours = torch.cat([encoded.cls[:, None], encoded.patches], dim=1)
        assert torch.allclose(encoder.fc_norm(ours), tokens, atol=1e-5)
        assert not torch.allclose(ours, tokens, atol=1e-2)  # the norm is the head's, not the encoder's


@pytest.mark.parametrize(
    ("name", "wrap", "expected"),
    [
        ("resnet50", biovil, (0.0, 1.0)),
        ("resnet50", mgca, (0.5, 0.5)),
        ("resnet50", moco, None),
        ("resnet50", dict, IMAGENET),  # a head of 1000 classes tells it
        ("densenet121", old_densenet, IMAGENET),
        ("densenet121", smp, MEDICAL_MAE),
        ("densenet121", moco, None),
    ],
)
def test_a_cnn_s_published_file_computes_what_torchvision_s_network_computes(
    name, wrap, expected, network, weights
):
    reference = network(name)
    state = reference.state_dict()
    if wrap is mgca:  # without the head
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    torch.save(wrap(state), weights)
    assert_maps(create_encoder(name, weights, drop_path_rate=0.1), NETWORKS[name][1](reference))
    assert own_normalisation(name, weights) == expected


def test_medklip_s_file_is_a_resnet_up_to_layer3_and_says_so_to_who_wants_layer4(network, weights):
    reference = network("resnet50")
    torch.save(medklip(reference.state_dict()), weights)
    encoder = create_encoder("resnet50_layer3", weights)
    assert (encoder.num_features, encoder.stride) == (1024, 16)
    assert_maps(encoder, resnet50_maps(reference)[:-1])
    assert own_normalisation("resnet50_layer3", weights) == IMAGENET
    with pytest.raises(
        WeightsError,
        match=r"layout medklip: \d+ missing .*ask for resnet50_layer3",
    ):
        create_encoder("resnet50", weights)


def test_torchxrayvision_s_grey_network_is_the_same_function_of_images_in_its_range(weights):
    with torchxrayvision() as package:
        reference = shaken(package.models.DenseNet(weights=None))
        pixels = torch.rand(2, 1, 64, 64)
        films = torch.from_numpy(package.utils.normalize(pixels.numpy() * 255, 255))
    assert films.min() < -1000
    torch.save(reference.state_dict(), weights)
    mean, std = own_normalisation("densenet121", weights)
    ours = Preprocess(mean=mean, std=std).normalise(pixels)
    assert torch.allclose(ours, films, atol=1e-3)
    encoder = create_encoder("densenet121", weights)
    assert_maps(encoder, lambda _: torch.relu(reference.features(films)), ours)


def test_the_authors_fine_tuned_cnns_are_classifiers(weights, network):
    reference = network("densenet121")
    head = torch.nn.Linear(1024, 14)
    state = reference.state_dict() | {f"classifier.{key}": value for key, value in head.state_dict().items()}
    torch.save(fine_tuned(state), weights)
    classifier = create_published(RELEASED["densenet121_mocov2_cxr14"], weights).eval()
    with torch.inference_mode():
        expected = head(densenet121_maps(reference)(FILMS).mean(dim=(2, 3)))
        assert torch.allclose(classifier(FILMS), expected, atol=1e-4)
    with pytest.raises(WeightsError, match="does not fit resnet50 as a file of the layout torchvision"):
        create_published(RELEASED["resnet50_mgca_cxr14"], weights)


@pytest.mark.parametrize(
    ("name", "wrap", "expected"),
    [
        (VIT_S, lambda state: {"model": state}, IMAGENET),  # DeiT
        (VIT_S, mae, None),  # of ImageNet or of films: only the file's name tells
        (VIT_B, mgca, (0.5, 0.5)),
    ],
)
def test_a_vit_s_published_file_computes_what_timm_s_network_computes(name, wrap, expected, weights):
    options = {"depth": 2 if name == VIT_S else 1}
    reference = vit(name, **options)
    state = reference.state_dict()
    if wrap is mgca:
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
    torch.save(wrap(state), weights)
    encoder = create_encoder(name, weights, img_size=64, **options)
    assert encoder.depth == options["depth"]
    with torch.inference_mode():
        assert_tokens(encoder, reference.forward_features(FILMS))
    assert own_normalisation(name, weights) == expected
    assert create_encoder(name, weights, img_size=96, **options).pos_embed.shape[1] == 37  # resampled


def test_a_vit_tuned_with_mean_pooling_keeps_its_norm(weights):
    reference = vit(global_pool="avg", num_classes=14)
    torch.save({"model": reference.state_dict()}, weights)
    encoder = create_encoder(VIT_S, weights, img_size=64, depth=2).eval()
    with torch.inference_mode():
        pooled = reference.forward_head(reference.forward_features(FILMS), pre_logits=True)
        assert torch.allclose(encoder.fc_norm(encoder.encode(FILMS).patches.mean(dim=1)), pooled, atol=1e-5)


def test_a_folder_of_transformers_dinov2_computes_what_transformers_computes(tmp_path):
    reference = dinov2(tmp_path / "rad-dino")
    numbers = {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}
    (tmp_path / "rad-dino" / "preprocessor_config.json").write_text(json.dumps(numbers))
    name, films = "vit_base_patch14_dinov2", torch.randn(2, 3, 56, 56)
    encoder = create_encoder(name, tmp_path / "rad-dino", img_size=56, depth=1)
    assert encoder.encode(films).grid == (4, 4)
    with torch.inference_mode():
        assert_tokens(encoder, reference(films).last_hidden_state, films)
    assert own_normalisation(name, tmp_path / "rad-dino") == (0.5307, 0.2583)
    alone = tmp_path / "rad-dino" / "model.safetensors"
    assert own_normalisation(name, alone) is None  # any DINOv2 of transformers has these names
    assert create_encoder(name, alone, img_size=112, depth=1).pos_embed.shape[1] == 65
    (tmp_path / "rad-dino" / "preprocessor_config.json").write_text('{"image_mean": [0.5, "x", 1]}')
    with pytest.raises(WeightsError, match="has no image_mean of three numbers"):
        own_normalisation(name, tmp_path / "rad-dino")


def test_eva02_with_patches_of_14_pixels_becomes_a_network_of_16_that_sees_enlarged_images_alike(weights):
    chance = torch.Generator().manual_seed(5)
    state = official_mim(TINY, target_width=1024, dtype=torch.float32, rotary_grid=14)
    rope = official_rope(16, 16, torch.float32)
    state |= {key: rope[key[key.index("rope.") :]] for key in state if "rope." in key}
    state["patch_embed.proj.weight"] = torch.randn(192, 3, 14, 14, generator=chance) * 0.02
    state["pos_embed"] = torch.randn(1, 257, 192, generator=chance) * 0.02
    torch.save({"module": state}, weights)
    encoder = create_encoder(TINY, weights, img_size=256).eval()
    assert encoder.rotary_grid == 16  # the positions it was trained with
    films = torch.randn(1, 3, 224, 224, generator=chance)
    squares = films.unfold(2, 14, 14).unfold(3, 14, 14)  # (1, 3, 16, 16, 14, 14)
    enlarged = torch.nn.functional.interpolate(
        squares.flatten(0, 3)[:, None], size=(16, 16), mode="bicubic", antialias=True
    )
    enlarged = enlarged.view(1, 3, 16, 16, 16, 16).transpose(3, 4).reshape(1, 3, 256, 256)
    with torch.inference_mode():
        patches = encoder.encode(enlarged).patches
    reference = forward_as_released(state, films)[:, 1:]
    assert torch.allclose(patches.double(), reference, atol=1e-4)
    small = create_encoder(TINY, weights)  # at 224 pixels, as the paper's baseline
    assert small.pos_embed.shape == (1, 197, 192)
    assert RELEASED["eva02_small"].mean == CLIP[0]


def test_a_bundle_of_every_kind_of_network_is_read_back(tmp_path):
    for name, options in (("densenet121", {}), (VIT_S, {"depth": 2, "img_size": 64})):
        encoder = create_encoder(name, **options)
        card = Card(kind="encoder", encoder=name, preprocess=Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD))
        again = create_encoder(name, save_bundle(tmp_path / name, card, encoder), **options).state_dict()
        assert all(torch.equal(tensor, again[key]) for key, tensor in encoder.state_dict().items())
        assert starting_preprocess(name, tmp_path / name, None, 64).mean == IMAGENET_MEAN


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"norm.weight": None}, r"layout mae: 1 missing \['fc_norm.weight'\], 0 unused"),
        ({"blocks.0.attn.rel_pos": torch.zeros(2)}, r"0 missing .*1 unused \['blocks.0.attn.rel_pos'\]"),
        ({"text_encoder.weight": torch.zeros(2)}, r"1 unused \['text_encoder.weight'\]"),
        ({"pos_embed": torch.zeros(1, 1, 384).expand(1, 10**9 + 1, 384)}, r"1 of another size \['pos_embed"),
        ({"fc_norm.weight": torch.zeros(384)}, "1 unused"),  # two norms for one place
    ],
)
def test_a_file_that_lacks_or_adds_a_tensor_is_refused_by_name(change, reason, weights):
    state = mae(vit().state_dict())["model"] | change
    torch.save({"model": {key: value for key, value in state.items() if value is not None}}, weights)
    with pytest.raises(WeightsError, match=reason):
        create_encoder(VIT_S, weights, img_size=64, depth=2)


def test_parts_of_attention_that_do_not_fit_are_refused_and_not_joined(tmp_path):
    from safetensors.torch import load_file

    dinov2(tmp_path / "dino")
    state = load_file(tmp_path / "dino" / "model.safetensors")
    state["encoder.layer.0.attention.attention.key.bias"] = torch.zeros(1).expand(10**9)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"1 missing \['blocks.0.attn.qkv.bias'\], 3 unused"):
        create_encoder("vit_base_patch14_dinov2", tmp_path / "odd.pth", img_size=56, depth=1)


def test_a_file_of_no_known_layout_or_of_another_network_is_refused(weights):
    torch.save({"state_dict": {"visual.stem.weight": torch.zeros(2)}}, weights)
    with pytest.raises(WeightsError, match=r"none of the layouts .*names like \['visual.stem.weight'\]"):
        create_encoder("resnet50", weights)
    torch.save(mae(vit().state_dict()), weights)
    with pytest.raises(WeightsError, match="does not fit densenet121 as a file of the layout mae"):
        create_encoder("densenet121", weights)


class Malice:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('owned').touch()",))


def test_a_baseline_that_would_run_code_is_refused_and_nothing_runs(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(mae(vit().state_dict()) | {"callback": Malice()}, weights)
    for read in (create_encoder, own_normalisation):
        with pytest.raises(WeightsError, match="runs no code from weight files"):
            read(VIT_S, weights)
    assert not (tmp_path / "owned").exists()


def test_a_pickled_network_of_torchxrayvision_is_refused_with_the_way_out(weights):
    with torchxrayvision() as package:
        torch.save(package.models.DenseNet(weights=None, block_config=(1, 1, 1, 1)), weights)
    with pytest.raises(WeightsError, match="runs no code from weight files.*save its state_dict"):
        create_encoder("densenet121", weights)


def test_an_official_file_name_tells_the_normalisation_that_the_tensors_do_not(tmp_path, caplog):
    caplog.set_level("INFO", logger="evax")
    path = tmp_path / RELEASED["medical_mae_small"].file
    torch.save(mae(vit().state_dict()), path)
    chain = starting_preprocess(VIT_S, path, None, 64)
    assert (chain.mean, chain.std) == MEDICAL_MAE
    assert not caplog.messages
    path.rename(tmp_path / "mine.pth")
    chain = starting_preprocess(VIT_S, tmp_path / "mine.pth", None, 64)
    assert chain == Preprocess(input_size=64)
    assert "mine.pth does not say how its images were normalised" in caplog.text


def test_a_name_brings_its_published_normalisation_and_imagenet_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAX_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("EVAX_WEIGHTS_MIRROR", "http://127.0.0.1:9")  # nobody listens
    assert own_normalisation("resnet50", "resnet50_biovil") == (0.0, 1.0)
    assert own_normalisation("resnet50", "imagenet") == IMAGENET
    assert own_normalisation("resnet50", None) is None
    with pytest.raises(WeightsError, match=r"9/resnet50-19c8e357.pth could not be fetched"):
        create_encoder("resnet50", "imagenet")
    with pytest.raises(ConfigError, match="No weight file or published weight is called 'imagenet'"):
        create_encoder(VIT_B, "imagenet")
    (tmp_path / "resnet50-19c8e357.pth").write_bytes(b"another file")
    with pytest.raises(WeightsError, match="expected 19c8e357…: it is not the file that was published"):
        create_encoder("resnet50", "imagenet")

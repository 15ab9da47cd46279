import pytest
import timm
import torch

from evax.errors import ConfigError
from evax.models.tokenizers import TOKENIZERS, build_tokenizer, final_norm

VIT = "timm:vit_tiny_patch16_224"


def test_the_tokenizer_is_frozen_in_eval_mode_and_gives_one_vector_per_student_patch():
    tokenizer = build_tokenizer("efficientnet_lite0")
    tokenizer.train()
    assert not any(module.training for module in tokenizer.modules())
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())
    films = torch.rand(2, 1, 224, 224)
    before = tokenizer.identity()
    targets = tokenizer(films)
    assert targets.shape == (2, 196, 112)
    assert not targets.requires_grad
    assert torch.equal(tokenizer(films), targets)
    assert tokenizer.identity() == before


def test_a_compiled_tokenizer_gives_the_same_targets_and_they_can_be_learned_from():
    tokenizer = build_tokenizer(VIT, image_size=32, depth=1)
    films, prediction = torch.rand(1, 1, 32, 32), torch.ones(1, 4, 192, requires_grad=True)
    targets = torch.compile(tokenizer, backend="aot_eager")(films)
    assert torch.allclose(targets, tokenizer(films), atol=1e-5)
    (prediction * targets).sum().backward()
    assert torch.equal(prediction.grad, targets)


@pytest.mark.parametrize("image_size", [64, 224])
@pytest.mark.parametrize(
    ("name", "options", "stride"),
    [
        ("efficientnet_lite0", {}, None),
        ("timm:swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}, None),
        ("timm:vit_small_patch14_dinov2", {"depth": 1}, 14),
        ("timm:vit_small_patch16_dinov3", {"depth": 1}, 16),
        ("timm:vit_small_patch32_224", {"depth": 1}, 32),
    ],
)
def test_the_grid_is_the_student_s_whatever_the_network(name, options, stride, image_size):
    tokenizer = build_tokenizer(name, image_size=image_size, **options)
    assert tokenizer.view == (image_size // 16 * stride if stride else image_size)
    assert tokenizer(torch.rand(1, 1, image_size, image_size)).shape[1] == (image_size // 16) ** 2


def test_a_view_of_another_grid_is_interpolated_to_the_student_s():
    tokenizer = build_tokenizer(VIT, image_size=64, view=96, depth=1)
    films = torch.rand(1, 1, 64, 64)
    view = torch.nn.functional.interpolate(films, (96, 96), mode="bicubic", antialias=True).clamp(0, 1)
    tokens = tokenizer.features.network.forward_features(((view - 0.5) / 0.5).expand(-1, 3, -1, -1))[:, 1:]
    maps = tokens.transpose(1, 2).unflatten(2, (6, 6))
    expected = torch.nn.functional.interpolate(maps, (4, 4), mode="bilinear", antialias=True)
    assert torch.allclose(tokenizer(films), expected.flatten(2).transpose(1, 2), atol=1e-5)


def test_several_layers_stand_side_by_side_at_equal_weight():
    torch.manual_seed(0)
    films = torch.rand(2, 1, 128, 128)
    both, fine, coarse = (
        build_tokenizer("efficientnet_lite0", image_size=64, layer=layer, view=128)
        for layer in ("4+3", "3", "4")
    )
    for each in (fine, coarse):
        each.load_state_dict(both.state_dict())
    assert (both.width, both.features.layer) == (112 + 320, "3+4")
    expected = [torch.nn.functional.normalize(each(films), dim=-1) for each in (fine, coarse)]
    assert torch.allclose(both(films), torch.cat(expected, dim=-1), atol=1e-6)


def test_every_named_tokenizer_has_the_architecture_and_width_of_the_facts():
    published = {  # paper-facts.md 2.2 and 2.3: blocks, width inside, width given, patch
        "mgca_vit_base_patch16": (12, 768, 768, 16), "eva_clip_base_patch16": (12, 768, 512, 16),
        "eva_clip_large_patch14": (24, 1024, 768, 14), "eva_clip_giant_patch14": (40, 1408, 1024, 14),
    }  # fmt: skip
    for name, (depth, inside, given, patch) in published.items():
        with torch.device("meta"):
            network = timm.create_model(TOKENIZERS[name].network)
        assert (len(network.blocks), network.embed_dim) == (depth, inside)
        assert network.patch_embed.patch_size == (patch, patch)
        assert (network.head.out_features if "clip" in name else inside) == given
        assert final_norm(network).eps == 1e-6


def test_the_normalisation_is_the_tokenizer_s_own():
    for name, mean, std in [
        ("mgca_vit_base_patch16", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("eva_clip_base_patch16", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ("timm:vit_tiny_patch16_224.augreg_in21k", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ]:
        tokenizer = build_tokenizer(name, image_size=64, depth=1)
        assert tokenizer.mean.flatten().tolist() == pytest.approx(mean)
        assert tokenizer.std.flatten().tolist() == pytest.approx(std)


def test_the_identity_follows_weights_layer_and_view():
    def identity(seed=0, **options):
        torch.manual_seed(seed)
        return build_tokenizer(VIT, image_size=64, depth=2, **options).identity()

    first = identity()
    assert identity() == first
    others = [identity(seed=1), identity(layer="0"), identity(view=96)]
    assert all(other != first for other in others)
    assert first | {"weights": ""} == {"name": VIT, "layer": "last", "view": 64, "weights": ""}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:vit_tiny_patch16_223", {}, "has no model called.*Did you mean vit_tiny_patch16_224"),
        ("timm:hf-hub:timm/resnet18", {}, "has no model called"),  # nothing is ever fetched
        (VIT + ".no_such_tag", {}, "timm cannot make vit_tiny_patch16_224.no_such_tag"),
        (
            VIT,
            {"layer": "12"},
            "no layer '12': give auto, last, projected, a number from 0 to 11, or several",
        ),
        (VIT, {"layer": "norm"}, "no layer 'norm'"),
        (VIT, {"layer": "3+"}, r"no layer '3\+'"),
        (VIT, {"view": 100}, "A view of 100 pixels is not filled by the patches of .* 16 each"),
        ("timm:resnet18", {"layer": "projected"}, "no output layer that could act on single patches"),
    ],
)
def test_what_does_not_exist_is_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_tokenizer(name, image_size=64, **options)

import sys

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

import evax.models  # registers EVA-X in timm
from evax.errors import ConfigError
from evax.models.encoders import ENCODERS, EVA_X, build_encoder

# paper-facts.md 1.1: backbone + final LN, no head; multiply-adds at 224
PARAMETERS = {"tiny": 5_525_184, "small": 21_667_200, "base": 85_850_880}
MULTIPLY_ADDS = {"tiny": 1.2535e9, "small": 4.5985e9, "base": 17.563e9}


VIT = "vit_base_patch14_dinov2"


def name_of(size):
    return f"eva_x_{size}_patch16_224"


@pytest.mark.parametrize("size", PARAMETERS)
def test_every_size_has_the_published_number_of_parameters_and_multiply_adds(size):
    with torch.device("meta"):
        encoder = build_encoder(name_of(size))
        assert sum(parameter.numel() for parameter in encoder.parameters()) == PARAMETERS[size]
        for block in encoder.blocks:
            block.attn.fused_attn = False  # so that attention is counted as the matrix products it is
        with FlopCounterMode(display=False) as counter:
            encoder.encode(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == pytest.approx(MULTIPLY_ADDS[size], rel=1e-4)


def test_timm_knows_every_encoder_with_the_paper_s_normalisation():
    for name in EVA_X:
        assert name in timm.list_models("eva_x*")
        configuration = timm.get_pretrained_cfg(name)
        assert configuration.mean[0] == pytest.approx(0.49185243)
        assert configuration.std[0] == pytest.approx(0.28509309)
    assert timm.create_model(name_of("tiny"), num_classes=14).get_classifier().out_features == 14


def test_rotary_positions_are_the_published_ones_and_leave_the_class_token_alone():
    encoder = build_encoder(name_of("tiny"))
    cosine = encoder.rope.get_embed().chunk(2, dim=-1)[1]  # (196, 64)
    assert torch.allclose(cosine[0], torch.ones(64))
    assert cosine[1, 32].item() == pytest.approx(torch.cos(torch.tensor(1.0)).item())  # one step right
    assert cosine[14, 0].item() == pytest.approx(torch.cos(torch.tensor(1.0)).item())  # one step down
    larger = build_encoder(name_of("tiny"), img_size=480).rope.get_embed().chunk(2, dim=-1)[1]
    assert larger[1, 32].item() == pytest.approx(torch.cos(torch.tensor(14 / 30)).item())
    assert encoder.num_prefix_tokens == 1


def test_encode_gives_the_last_block_s_raw_output_on_the_patch_grid():
    encoder = build_encoder(name_of("tiny")).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    encoded = encoder.encode(images)
    assert encoded.patches.shape == (2, 196, 192)
    assert encoded.grid == (14, 14)
    tokens = encoder.forward_features(images)  # timm's own way; no final norm with average pooling
    assert torch.equal(tokens[:, 1:], encoded.patches)
    assert torch.equal(tokens[:, 0], encoded.cls)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["eva_x_tiny_patch16_224", "vit_small_patch16_224", "efficientnet_lite0"])
def test_every_way_into_an_encoder_treats_one_grey_channel_alike(name, channels):
    encoder = build_encoder(name, img_size=64, in_chans=channels).eval()
    grey = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    full = grey.expand(-1, channels, -1, -1)
    with torch.no_grad():
        assert torch.equal(encoder(grey), encoder(full))
        assert torch.equal(encoder.encode(grey).patches, encoder.encode(full).patches)
        pooled = encoder.fc_norm(encoder.encode(grey).patches.mean(dim=1))
        assert torch.allclose(encoder(grey), pooled, atol=1e-4)  # timm's forward pools, then normalises


@pytest.mark.parametrize(("indices", "count"), [(None, 3), ((11,), 1), ((0, 5, 11), 3), ([-1], 1), (2, 2)])
def test_timm_s_feature_maps_are_the_patches_that_encode_gives(indices, count):
    options = {} if indices is None else {"out_indices": indices}
    maps = timm.create_model(name_of("tiny"), features_only=True, img_size=64, **options).eval()
    encoder = build_encoder(name_of("tiny"), img_size=64).eval()
    left = maps.model.load_state_dict(encoder.state_dict(), strict=False)
    assert left.missing_keys == []
    assert left.unexpected_keys == ["fc_norm.weight", "fc_norm.bias"]  # maps are not pooled
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        found, encoded = maps(images), encoder.encode(images)
    assert len(found) == count
    assert found[-1].shape == (2, 192, 4, 4)
    assert torch.equal(found[-1].flatten(2).transpose(1, 2), encoded.patches)
    assert maps.feature_info.channels() == [192] * len(found)
    assert maps.feature_info.reduction() == [16] * len(found)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"pretrained": False}, (2, 192)),
        ({"num_classes": 5}, (2, 5)),
        ({"global_pool": "token", "num_classes": 5}, (2, 5)),
        ({"global_pool": ""}, (2, 17, 192)),
        ({"drop_path_rate": 0.2}, (2, 192)),
        ({"dynamic_img_size": True}, (2, 192)),
        ({"class_token": False}, (2, 192)),
        ({"num_reg_tokens": 4}, (2, 192)),
        ({"out_indices": (3,)}, (2, 192)),  # without features_only it has no meaning, as in timm
    ],
)
def test_the_ways_of_timm_to_make_an_encoder_work(options, shape):
    model = timm.create_model(name_of("tiny"), img_size=64, **options).eval()
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert model(images).shape == shape
        patches, grid, cls = model.encode(images)
        tokens = model.forward_features(images)
    assert (patches.shape, grid) == ((2, 16, 192), (4, 4))
    assert (cls is None) == ("class_token" in options)
    if "global_pool" not in options:  # with another pooling timm normalises the tokens
        assert torch.equal(patches, tokens[:, tokens.shape[1] - 16 :])
    again = timm.create_model(name_of("tiny"), img_size=64, **options).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("size", [(80, 80), (64, 112)])
def test_an_encoder_of_dynamic_size_sees_other_sizes_as_one_that_was_made_for_them(size):
    dynamic = timm.create_model(name_of("tiny"), img_size=64, dynamic_img_size=True).eval()
    fixed = timm.create_model(name_of("tiny"), img_size=size).eval()
    state = dynamic.state_dict()
    grid = [side // 16 for side in size]
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=grid, num_prefix_tokens=1)
    fixed.load_state_dict(state)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        patches, found, _ = dynamic.encode(images)
        assert torch.allclose(patches, fixed.encode(images).patches, atol=1e-4)
    assert list(found) == grid


def test_an_encoder_says_of_how_many_blocks_and_how_large_patches_it_is():
    encoder = build_encoder(name_of("tiny"), img_size=64, depth=2, patch_size=8)
    assert (encoder.depth, encoder.stride, len(encoder.blocks)) == (2, 8, 2)


@pytest.mark.parametrize("name", ["eva_x_tiny_patch16_224", "vit_small_patch16_224"])
def test_images_of_another_size_are_refused_with_how_to_make_the_encoder(name):
    encoder = build_encoder(name, img_size=64, depth=1)
    for call in (encoder, encoder.encode):
        with pytest.raises(ConfigError, match="have 128 x 128 pixels, this encoder takes 64 x 64.*=128"):
            call(torch.zeros(1, 1, 128, 128))
    dynamic = build_encoder(name, img_size=64, depth=1, dynamic_img_size=True)
    with pytest.raises(ConfigError, match="72 x 64 pixels, which are not whole patches of 16 x 16"):
        dynamic(torch.zeros(1, 1, 72, 64))


def test_images_of_half_the_precision_pass_under_autocast_only():
    encoder = build_encoder(name_of("tiny"), img_size=64, depth=1)
    images = torch.zeros(1, 1, 64, 64, dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="torch.bfloat16 and the encoder torch.float32"):
        encoder.encode(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder.encode(images).patches.shape == (1, 16, 192)
    assert encoder.to(torch.bfloat16).encode(images).patches.dtype == torch.bfloat16


def test_a_hidden_patch_cannot_be_seen_by_the_encoder():
    encoder = build_encoder(name_of("tiny")).eval()
    images = torch.randn(1, 3, 224, 224)
    changed = images.clone()
    changed[..., :16, 16:32] += 5  # patch 1
    hidden = torch.zeros(1, 196, dtype=torch.bool)
    mask_token = torch.zeros(1, 1, 192)
    assert not torch.equal(
        encoder.encode(images, hidden, mask_token).patches,
        encoder.encode(changed, hidden, mask_token).patches,
    )
    hidden[0, 1] = True
    assert torch.equal(
        encoder.encode(images, hidden, mask_token).patches,
        encoder.encode(changed, hidden, mask_token).patches,
    )


def test_the_mask_token_is_placed_before_the_position_table():
    encoder = build_encoder(name_of("tiny")).eval()
    hidden = torch.ones(1, 196, dtype=torch.bool)  # every patch is the same mask token ...
    patches = encoder.encode(torch.randn(1, 3, 224, 224), hidden, torch.ones(1, 1, 192)).patches
    assert (patches[0, 0] - patches[0, 100]).abs().max() > 1e-3  # ... and positions still tell them apart


def test_an_unknown_encoder_is_refused_with_the_nearest_name():
    with pytest.raises(
        ConfigError,
        match="No encoder is called 'eva_x_smal_patch16_224'. Did you mean 'eva_x_small_patch16_224'",
    ):
        build_encoder("eva_x_smal_patch16_224")
    assert evax.models


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_of_the_zoo_says_truly_how_wide_and_how_fine_its_patches_are(name):
    with torch.device("meta"):
        encoder = build_encoder(name, img_size=224).eval()
        patches, grid, cls = encoder.encode(torch.empty(2, 1, 224, 224))
        assert grid == (224 // encoder.stride, 224 // encoder.stride)
        assert patches.shape == (2, grid[0] * grid[1], encoder.num_features)
        assert encoder.fc_norm(patches.mean(dim=1)).shape == (2, encoder.num_features)
        assert cls is None or cls.shape == (2, encoder.num_features)


def test_a_size_that_is_not_whole_patches_is_refused_with_the_nearest():
    for name, size, nearest in ((name_of("tiny"), 518, "512 and 528"), (VIT, 128, "126 and 140")):
        with pytest.raises(ConfigError, match=rf"{size} is no multiple of. The nearest sizes are {nearest}"):
            build_encoder(name, img_size=size)
    with torch.device("meta"):
        assert build_encoder(VIT, img_size=518).patch_embed.grid_size == (37, 37)


def test_a_cnn_gives_the_map_that_timm_s_own_classifier_pools():
    encoder = build_encoder("efficientnet_lite0").eval()
    images = torch.randn(2, 1, 64, 96)
    patches, grid, cls = encoder.encode(images)
    assert grid == (2, 3)  # any size, not only squares
    assert cls is None
    with torch.no_grad():
        pooled = encoder.network(images.expand(-1, 3, -1, -1))  # no head: timm's pooled map
        assert torch.allclose(encoder.fc_norm(patches.mean(dim=1)), pooled, atol=1e-5)


@pytest.mark.parametrize("name", ["eva_x_tiny_patch16_224", "vit_small_patch16_224"])
def test_a_weight_at_the_cut_of_timm_s_distribution_is_brought_near_the_others(name, monkeypatch):
    family = sys.modules[(Eva if name.startswith("eva") else VisionTransformer).__module__]
    draw = family.trunc_normal_

    def draw_with_its_rare_value(tensor, std):
        draw(tensor, std=std)
        tensor.data.view(-1)[0] = -2  # what one number of torch's in 2^24 becomes

    torch.manual_seed(0)
    expected = build_encoder(name, img_size=64, depth=2).state_dict()
    monkeypatch.setattr(family, "trunc_normal_", draw_with_its_rare_value)
    torch.manual_seed(0)
    weights = build_encoder(name, img_size=64, depth=2).state_dict()
    weight = weights["blocks.1.attn.proj.weight"].view(-1)
    assert weight[0].item() == pytest.approx(-0.12)
    assert torch.equal(weight[1:], expected["blocks.1.attn.proj.weight"].view(-1)[1:])


def test_residual_outputs_start_smaller_in_later_blocks():
    blocks = build_encoder("eva_x_tiny_patch16_224", img_size=64).blocks
    for layer in (lambda block: block.attn.proj, lambda block: block.mlp.fc2):
        spread = [layer(block).weight.std().item() for block in blocks]
        assert spread == pytest.approx([0.02 / (2 * (i + 1)) ** 0.5 for i in range(12)], rel=0.05)

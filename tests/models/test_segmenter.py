"""Decoders on every kind of encoder: sizes, scales, and that the encoder's own weights are untouched."""

import pytest
import torch

from evax.errors import ConfigError
from evax.models.encoders import build_encoder
from evax.models.segmenter import PatchPyramid, Segmenter, StagePyramid

TINY = "eva_x_tiny_patch16_224"


@pytest.mark.parametrize(
    "name", [TINY, "vit_small_patch16_224", "efficientnet_lite0", "resnet50", "densenet121"]
)
def test_every_encoder_gets_logits_of_every_pixel(name):
    model = Segmenter(build_encoder(name, img_size=64), 3, decoder_width=16)
    logits = model(torch.zeros(2, 1, 64, 64))
    assert logits.shape == (2, 3, 64, 64)
    logits.sum().backward()
    assert all(
        parameter.grad is not None for parameter in model.decoder.parameters() if parameter.requires_grad
    )


def test_a_transformer_s_pyramid_is_its_last_block_s_raw_output_at_four_scales():
    encoder = build_encoder(TINY, img_size=64).eval()
    images = torch.randn(2, 1, 64, 64)
    maps = PatchPyramid(encoder).eval()(encoder, images)
    assert [tuple(each.shape[1:]) for each in maps] == [(192, 16, 16), (192, 8, 8), (192, 4, 4), (192, 2, 2)]
    patches = encoder.encode(images).patches
    # row by row: patch 5 of a grid of 4 is in row 1, column 1
    torch.testing.assert_close(maps[2][:, :, 1, 1], patches[:, 5])
    torch.testing.assert_close(maps[3], torch.nn.functional.max_pool2d(maps[2], 2))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet50", "densenet121"])
def test_a_cnn_s_pyramid_ends_with_the_map_that_its_classifier_pools(name):
    encoder = build_encoder(name).eval()
    images = torch.randn(1, 1, 64, 64)
    maps = StagePyramid(encoder)(encoder, images)
    assert [64 // each.shape[-1] for each in maps] == [2, 4, 8, 16, 32]
    assert [each.shape[1] for each in maps] == StagePyramid(encoder).widths
    if name == "resnet50":  # the others have a convolution or a norm behind the last stage
        torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), encoder.encode(images).patches)


def test_the_paper_s_decoder_of_a_transformer_has_its_sizes():
    model = Segmenter(build_encoder("eva_x_small_patch16_224", img_size=512), 1)
    assert (model.head[0].p, model.head[1].in_channels, model.head[1].out_channels) == (0.1, 256, 1)
    assert [
        block.in_channels for block in (model.pyramid.up4[0], model.pyramid.up4[3], model.pyramid.up2)
    ] == [384] * 3
    assert [block[0].output_size for block in model.decoder.psp.blocks] == [1, 2, 3, 6]


def test_a_cut_cnn_has_no_stages_for_a_u_net():
    with pytest.raises(ConfigError, match="whole"):
        Segmenter(build_encoder("resnet50_layer3"), 1)

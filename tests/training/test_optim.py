import itertools

import pytest
import torch

from evax.models.classifier import Classifier
from evax.models.encoders import build_encoder
from evax.training.optim import create_optimizer, layer_of, lr_at_step, set_lr
from evax.training.options import OptimizerConfig


def test_the_learning_rate_rises_linearly_and_falls_to_its_final_value():
    config = OptimizerConfig(lr=1.0, final_lr=0.1, warmup=0.1)
    rates = [lr_at_step(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert all(earlier >= later for earlier, later in itertools.pairwise(rates[10:]))
    assert lr_at_step(0, 1, config) == pytest.approx(1.0)


def test_layers_are_numbered_as_in_the_released_code():
    assert [layer_of(name, 12) for name in ("encoder.pos_embed", "encoder.blocks.0.norm1.weight")] == [0, 1]
    assert [
        layer_of(name, 12)
        for name in ("encoder.blocks.11.mlp.fc2.bias", "encoder.fc_norm.bias", "head.weight")
    ] == [12, 13, 13]


def test_layer_decay_scales_from_the_embeddings_to_the_head():
    model = Classifier(build_encoder("eva_x_tiny_patch16_224", img_size=64), 2)
    optimizer = create_optimizer(model, OptimizerConfig(lr=1.0), depth=12, layer_decay=0.55)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    set_lr(optimizer, 2.0)
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(names)
    assert rates["head.weight"] == pytest.approx(2.0)
    assert rates["encoder.patch_embed.proj.weight"] == pytest.approx(2.0 * 0.55**13)
    assert rates["encoder.blocks.3.attn.qkv.weight"] == pytest.approx(2.0 * 0.55**9)


def test_layers_of_a_plain_vit_decay_like_those_of_eva_x():
    model = Classifier(build_encoder("vit_small_patch16_224", img_size=64, depth=2), 2)
    optimizer = create_optimizer(model, OptimizerConfig(lr=1.0), model.encoder.depth, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    set_lr(optimizer, 1.0)
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates["head.weight"] == rates["encoder.fc_norm.weight"] == 1.0
    assert rates["encoder.blocks.1.mlp.fc1.weight"] == 0.5
    assert rates["encoder.pos_embed"] == rates["encoder.patch_embed.proj.bias"] == 0.125
    assert not any("encoder.norm." in name for name in rates)


def test_biases_norms_positions_and_class_token_are_not_decayed():
    model = Classifier(build_encoder("eva_x_tiny_patch16_224", img_size=64), 2)
    optimizer = create_optimizer(model, OptimizerConfig(weight_decay=0.05), depth=12)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {
        names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]
    }
    assert "encoder.blocks.0.mlp.fc1.weight" in decayed
    assert not decayed & {"encoder.pos_embed", "encoder.cls_token", "encoder.fc_norm.weight", "head.bias"}
    assert all(dict(model.named_parameters())[name].ndim > 1 for name in decayed)
    assert isinstance(optimizer, torch.optim.AdamW)


def test_a_cnn_has_one_learning_rate_whatever_its_blocks_are_called():
    model = Classifier(build_encoder("efficientnet_lite0"), 2)
    optimizer = create_optimizer(model, OptimizerConfig(lr=1.0), model.encoder.depth, layer_decay=0.55)
    set_lr(optimizer, 2.0)
    assert {group["lr"] for group in optimizer.param_groups} == {2.0}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))

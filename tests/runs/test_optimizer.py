import itertools
import math

import pytest
import torch

from evax.models.classifier import Classifier
from evax.models.encoders import build_encoder
from evax.options.training import OptimizerConfig
from evax.runs.optimizer import create_optimizer, layer_of, lr_at_step, set_lr


def test_the_learning_rate_rises_linearly_and_falls_to_its_final_value():
    config = OptimizerConfig(lr=1.0, final_lr=0.1, warmup=0.1)
    rates = [lr_at_step(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert all(earlier >= later for earlier, later in itertools.pairwise(rates[10:]))
    assert lr_at_step(0, 1, config) == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_rate_is_that_of_the_released_scripts_at_the_same_epoch(schedule):
    per_epoch, epochs, warm, lr, low = 73, 45, 5, 1e-3, 1e-5
    config = OptimizerConfig(lr=lr, final_lr=low, warmup=warm / epochs, schedule=schedule)
    for step in range(0, per_epoch * epochs, 7):
        ours = lr_at_step(step, per_epoch * epochs, config)
        epoch = step / per_epoch  # facts 4.1: per iteration, e the fractional epoch
        if epoch < warm:
            step_up = lr / (warm * per_epoch)  # ours ends a step, theirs starts it
            assert abs(ours - lr * epoch / warm) <= step_up * 1.001
        elif schedule == "constant":
            assert ours == lr
        else:
            expected = low + (lr - low) * (1 + math.cos(math.pi * (epoch - warm) / (epochs - warm))) / 2
            assert ours == pytest.approx(expected, rel=5e-3, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.pos_embed", 0), ("encoder.blocks.0.norm1.weight", 1),
        ("encoder.blocks.11.mlp.fc2.bias", 12), ("encoder.fc_norm.bias", 13), ("head.weight", 13),
        # decoders have blocks, too, and learn at the head's rate (facts 5.4)
        ("decoder.psp.blocks.0.1.0.weight", 13), ("decoder.blocks.3.conv1.0.weight", 13),
        ("pyramid.up2.weight", 13),
    ],
)  # fmt: skip
def test_layers_are_numbered_as_in_the_released_code(name, layer):
    assert layer_of(name, 12) == layer


def test_the_linear_schedule_of_segmentation_falls_to_zero_by_equal_steps():
    config = OptimizerConfig(lr=1.0, final_lr=0.0, warmup=0.1, schedule="linear")
    rates = [lr_at_step(step, 101, config) for step in range(101)]
    assert rates[9:11] == pytest.approx([1.0, 1.0])
    assert rates[-1] == 0
    assert [a - b for a, b in itertools.pairwise(rates[10:])] == pytest.approx([1 / 90] * 90)


@pytest.mark.parametrize("encoder", ["eva_x_tiny_patch16_224", "vit_small_patch16_224"])
def test_a_transformer_has_the_14_rates_of_the_released_scripts(encoder):
    model = Classifier(build_encoder(encoder, img_size=32), 2)
    optimizer = create_optimizer(model, OptimizerConfig(lr=1.0), model.encoder.depth, layer_decay=0.55)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    set_lr(optimizer, 2.0)
    layers = {}
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(2.0 * group["lr_scale"])
        layers.setdefault(group["lr_scale"], set()).update(names[id(p)] for p in group["params"])
    assert sum(map(len, layers.values())) == len(names)
    scales = sorted(layers)
    assert scales == pytest.approx([0.55 ** (13 - layer) for layer in range(14)])
    assert scales[0] == pytest.approx(4.2e-4, rel=0.01)  # as the facts write it
    embeddings = {"encoder.cls_token", "encoder.pos_embed"}
    embeddings |= {"encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"}
    assert layers[scales[0]] == embeddings
    norm = {"encoder.fc_norm.weight", "encoder.fc_norm.bias"}
    assert layers[scales[-1]] == norm | {"head.weight", "head.bias"}
    for block in range(12):
        assert all(name.startswith(f"encoder.blocks.{block}.") for name in layers[scales[block + 1]])


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

"""Options of evax finetune that decide before the first step, each against an independent statement."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from bundles import TINY, random_card, random_network
from evax.deploy.bundle import save_bundle
from evax.errors import ConfigError
from evax.jobs.finetune import FinetuneConfig
from evax.models.classifier import Classifier
from evax.models.encoders import build_encoder
from evax.options.training import OptimizerConfig
from evax.runs.optimizer import create_optimizer, lr_at_step
from evax.weights.encoders import starting_encoder


def config_of(**options):
    return FinetuneConfig(store=Path("s"), out=Path("o"), **({"image_size": 32, "drop_path": 0.0} | options))


def bundle_of(folder, name):
    """An encoder of 32-pixel images whose final norm is told from a new one."""
    encoder = random_network(encoder=name, size=32)
    torch.nn.init.constant_(encoder.fc_norm.weight, 3.0)
    return save_bundle(folder / "encoder", random_card(encoder=name, size=32, store_size=48), encoder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundle_of(tmp_path_factory.mktemp("weights"), TINY)


def test_epochs_and_warm_up_epochs_become_steps():
    """The released schedule: 45 epochs of 75,312 images, 1,024 at a time, 5 of them warming up."""
    optimizer = OptimizerConfig(lr=1e-3, schedule="constant")
    config = config_of(epochs=45, warmup_epochs=5, batch_size=1024, optimizer=optimizer)
    steps, schedule = config.in_steps(75_312)
    assert steps == math.ceil(45 * 75_312 / 1024) == 3310
    rates = [lr_at_step(step, steps, schedule) for step in range(steps)]
    per_epoch = 75_312 / 1024
    assert rates.index(1e-3) == pytest.approx(5 * per_epoch, abs=1)
    assert rates[int(2.5 * per_epoch)] == pytest.approx(0.5e-3, rel=0.01)
    assert set(rates[round(5 * per_epoch) :]) == {1e-3}
    assert config_of(steps=7).in_steps(75_312) == (7, config_of().optimizer)
    assert config_of().in_steps(75_312)[0] == 500


def test_the_final_norm_is_the_one_of_the_weights_or_a_new_one(bundle):
    kept = starting_encoder(config_of(weights=bundle)).fc_norm
    new = starting_encoder(config_of(weights=bundle, fc_norm="new")).fc_norm
    assert set(kept.weight.tolist()) == {3.0}
    assert (set(new.weight.tolist()), set(new.bias.tolist())) == ({1.0}, {0.0})


@pytest.mark.parametrize("name", [TINY, "vit_small_patch16_224"])
@pytest.mark.parametrize("antialias", [True, False])
def test_positions_of_another_image_size_are_resampled_with_or_without_antialias(name, antialias, tmp_path):
    options = {"encoder": name, "weights": bundle_of(tmp_path, name)}
    before = starting_encoder(config_of(**options)).pos_embed  # class token and 2 x 2 patches
    after = starting_encoder(config_of(**options, image_size=64, position_antialias=antialias)).pos_embed
    grid = before[:, 1:].transpose(1, 2).unflatten(2, (2, 2))
    expected = interpolate(grid, (4, 4), mode="bicubic", antialias=antialias).flatten(2).transpose(1, 2)
    assert torch.allclose(after[:, 1:], expected, atol=1e-6)
    other = interpolate(grid, (4, 4), mode="bicubic", antialias=not antialias).flatten(2).transpose(1, 2)
    assert not torch.allclose(after[:, 1:], other, atol=1e-4)


def one_step(encoder, detach):
    model = Classifier(encoder, 2)
    torch.nn.init.normal_(
        model.head.weight, std=0.05, generator=torch.Generator().manual_seed(1)
    )  # no saturated logit
    if detach:
        encoder.patch_embed.register_forward_hook(lambda module, inputs, output: output.detach())
    optimizer = create_optimizer(model, OptimizerConfig(lr=0.1), depth=12)
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.binary_cross_entropy_with_logits(model(images), torch.eye(2)).backward()
    optimizer.step()
    return model.state_dict()


def test_a_frozen_patch_embedding_is_the_released_code_s_detached_one(bundle):
    frozen = one_step(starting_encoder(config_of(weights=bundle, freeze_patch_embed=True)), detach=False)
    detached = one_step(starting_encoder(config_of(weights=bundle)), detach=True)
    assert all(torch.equal(frozen[name], detached[name]) for name in frozen)
    before = starting_encoder(config_of(weights=bundle)).state_dict()
    assert torch.equal(frozen["encoder.patch_embed.proj.weight"], before["patch_embed.proj.weight"])
    assert not torch.equal(frozen["encoder.pos_embed"], before["pos_embed"])


def test_a_new_head_starts_as_the_released_ones_do():
    """EVA-X: truncated normal 0.02 times 0.001; the ViT baselines: 2e-5. They are the same."""
    for name in (TINY, "vit_small_patch16_224"):
        head = Classifier(build_encoder(name, img_size=32), 14).head
        assert head.weight.std().item() == pytest.approx(0.02 * 0.001, rel=0.1)
        assert not head.bias.any()


def test_what_a_cnn_does_not_have_is_refused():
    cnn = {"encoder": "efficientnet_lite0"}
    with pytest.raises(ConfigError, match="has no final norm: leave fc_norm out"):
        starting_encoder(config_of(**cnn, fc_norm="new"))
    with pytest.raises(ConfigError, match="has no patch embedding: leave freeze_patch_embed out"):
        starting_encoder(config_of(**cnn, freeze_patch_embed=True))


def test_epochs_are_rounded_up_to_whole_steps_in_exact_arithmetic():
    assert config_of(epochs=0.07, batch_size=1).in_steps(100)[0] == 7  # 7.000000000000001 in floats
    assert config_of(epochs=1.1, batch_size=10).in_steps(100)[0] == 11
    assert config_of(epochs=1.1, batch_size=10).in_steps(101)[0] == 12

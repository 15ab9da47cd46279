import numpy as np
import pytest
import torch

from evax.data.loader import Batch
from evax.data.preprocess import Preprocess
from evax.errors import ConfigError
from evax.models.encoders import build_encoder
from evax.models.masked import MaskedImageModel
from evax.models.tokenizers import build_tokenizer
from evax.options.pretraining import MaskedImageConfig
from evax.options.training import OptimizerConfig
from evax.pretraining.hidden_patches import hidden_positions
from evax.pretraining.objective import masked_cosine_loss, relative_spread
from evax.pretraining.step import MaskedImageLearner, masked_image_step
from evax.runs.device import (
    decided_precision,
    forward_operations,
    on_first_process,
    start_fabric,
    start_shared_fabric,
)
from evax.runs.optimizer import Diverged, create_optimizer


def step_of(model, optimizer, fabric):
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32), dtype=np.uint8)
    batch = Batch(step=3, epochs=np.zeros(2, np.int64), films=np.arange(2), images=images)
    tokenizer = build_tokenizer("efficientnet_lite0", image_size=32)
    learner = MaskedImageLearner(
        fabric.setup_module(model), tokenizer, optimizer, fabric, Preprocess(input_size=32)
    )
    return masked_image_step(learner, batch, MaskedImageConfig(image_size=32, mask_ratio=0.5), lr=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gradient_that_is_no_number_ends_the_run_but_in_fp16_only_halves_the_scale(precision):
    torch.manual_seed(0)
    model = MaskedImageModel(build_encoder("eva_x_tiny_patch16_224", img_size=32), 112)
    optimizer = create_optimizer(model, OptimizerConfig(), depth=12)
    fabric = start_shared_fabric(precision)
    optimizer = fabric.setup_optimizers(optimizer)
    model.lm_head.bias.register_hook(lambda gradient: gradient * torch.inf)
    before = model.lm_head.weight.detach().clone()
    if precision == "fp32":
        with pytest.raises(Diverged, match=r"The gradient of step 3 is (inf|nan); the step was not taken"):
            step_of(model, optimizer, fabric)
    else:
        scale = fabric.strategy.precision.scaler.get_scale()
        assert np.isnan(step_of(model, optimizer, fabric)["grad_norm"])
        assert fabric.strategy.precision.scaler.get_scale() == scale / 2
    assert torch.equal(model.lm_head.weight, before)


def test_a_teacher_with_a_larger_view_sees_the_crop_in_more_detail_than_the_student():
    torch.manual_seed(0)
    model = MaskedImageModel(build_encoder("eva_x_tiny_patch16_224", img_size=32), 112)
    tokenizer = build_tokenizer("efficientnet_lite0", image_size=32, view=64)
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64), dtype=np.uint8)
    films, preprocess = torch.from_numpy(images).float() / 255, Preprocess(input_size=32)
    positions = torch.from_numpy(
        hidden_positions(np.arange(2), np.zeros(2, int), patches=4, ratio=0.5, seed=0)
    )
    small = torch.nn.functional.interpolate(films, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        predicted = model(preprocess.normalise(small), positions)
        expected = masked_cosine_loss(predicted, tokenizer(films), positions).item()
    fabric = start_shared_fabric("fp32")
    optimizer = fabric.setup_optimizers(create_optimizer(model, OptimizerConfig(), depth=12))
    batch = Batch(step=0, epochs=np.zeros(2, np.int64), films=np.arange(2), images=images)
    learner = MaskedImageLearner(fabric.setup_module(model), tokenizer, optimizer, fabric, preprocess)
    measured = masked_image_step(learner, batch, MaskedImageConfig(image_size=32, mask_ratio=0.5), lr=1e-3)
    assert measured["loss"] == pytest.approx(expected, abs=1e-5)


def test_spread_is_0_for_one_answer_to_everything_and_1_for_the_features_themselves():
    torch.manual_seed(0)
    wanted = torch.randn(3, 5, 7)
    assert relative_spread(wanted, wanted).item() == pytest.approx(1.0)
    assert relative_spread(wanted * 100, wanted).item() == pytest.approx(1.0)
    assert relative_spread(torch.ones(3, 5, 7), wanted).item() == pytest.approx(0.0, abs=1e-5)


def test_operations_of_a_forward_pass_are_twice_the_published_multiply_adds():
    model = MaskedImageModel(build_encoder("eva_x_tiny_patch16_224"), 112)
    counted = forward_operations(model, torch.zeros(1, 1, 224, 224), torch.arange(59)[None])
    assert counted == pytest.approx(2 * 1.2535e9, rel=0.02)  # facts 1.1


def test_jobs_that_do_not_share_their_work_refuse_torchrun(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="torchrun started 4 processes, and only evax pretrain shares"):
        start_fabric("fp32")


def test_a_run_that_goes_on_keeps_the_precision_it_found_faster():
    assert decided_precision("auto", earlier="fp16") == "fp16"
    assert decided_precision("bf16", earlier="fp32") == "bf16"
    assert decided_precision("auto") in ("fp32", "bf16")


def test_an_error_of_the_first_process_is_that_of_all():
    fabric = start_shared_fabric("fp32")
    assert on_first_process(fabric, lambda: 3) == 3

    def fail():
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        on_first_process(fabric, fail)

import re

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from evax.errors import ConfigError
from evax.models.encoders import CPU
from evax.options.pretraining import PretrainConfig
from evax.runs import plan
from evax.runs.plan import Length, check_memory, compared_sizes, estimate_step

TINY, SMALL, BASE = (f"eva_x_{size}_patch16_224" for size in ("tiny", "small", "base"))


@pytest.mark.parametrize(
    ("images", "batch_size", "steps"), [(36, 8, 5), (112_120, 128, 1), (7, 128, 3), (999, 10, 100_000)]
)
def test_a_number_of_steps_is_kept_as_few_decimals_of_an_epoch(images, batch_size, steps):
    config = PretrainConfig(stores=("store",), out="run", batch_size=batch_size, epochs=3.0)
    chosen = config.with_steps(steps, images)
    assert chosen.steps(images) == steps
    assert len(str(chosen.epochs)) <= len(str(steps * batch_size / images))


def test_memory_of_a_large_batch_is_told_from_small_ones(monkeypatch):
    network = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    sizes = []

    def step(images):
        sizes.append(len(images))
        network(images).sum().backward()

    def batches(size):
        return iter([torch.rand(size, 64)])

    fabric = Fabric(accelerator="cpu", devices=1)
    whole = estimate_step(step, batches, 512, network, fabric)
    assert max(sizes) == 512
    monkeypatch.setattr(plan, "QUICK", 0)
    sizes.clear()
    part = estimate_step(step, batches, 512, network, fabric)
    assert max(sizes) == 4
    assert part.bytes == whole.bytes
    assert estimate_step(step, batches, 1, network, fabric).bytes < part.bytes


def test_a_plan_counts_what_is_no_step_and_names_its_end(caplog):
    caplog.set_level("INFO", logger="evax")
    length = Length.fitting(100, around=20, each=0.5, batch_size=128, images=1280)
    assert (length.steps, length.seconds) == (160, 100)
    length.log(224, memory=3_400_000_000)
    assert re.search(
        r"Plan: 160 steps of 128 images, 20,480 views, 16 epochs of 1,280 images. Expected end "
        r"\d\d:\d\d:\d\d, in 0:01:40. A step needs about 3.4 GB of memory.",
        caplog.text,
    )
    assert "Fewer than 200 optimizer steps fit. --batch-size 32 makes more of them." in caplog.text
    assert "epochs fit" not in caplog.text


@pytest.mark.parametrize(("image_size", "remedy"), [(224, "--image-size 128"), (128, "a smaller --encoder")])
def test_a_plan_of_few_epochs_says_what_to_change(image_size, remedy, caplog):
    Length(1000, 16, 4000, 60.0).log(image_size, memory=1)
    assert f"Fewer than 5 epochs fit. Give more time, or {remedy}." in caplog.text


def test_a_time_without_a_step_and_a_step_without_memory_are_refused():
    with pytest.raises(ConfigError, match="Not one step fits: 10 s are left, a step takes 4.0 s"):
        Length.fitting(10, around=9, each=4, batch_size=8, images=100)
    with pytest.raises(ConfigError, match="needs about 1000000.0 GB of memory, .* are free: give less."):
        check_memory(10**15, CPU, "give less")
    check_memory(1, CPU, "give less")


def test_a_table_has_the_sizes_that_suit_and_what_was_asked_for():
    whole = [(size, name) for size in (128, 224) for name in (TINY, SMALL, BASE)]
    assert compared_sizes(224, SMALL) == whole
    assert compared_sizes(196, "vit_small_patch14") == [*whole, (196, "vit_small_patch14")]
    assert (96, BASE) in compared_sizes(96, TINY)

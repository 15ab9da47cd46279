import subprocess
import sys

import pytest
import torch

from evax.errors import WeightsError
from evax.runs.checkpoint import checkpoint_paths, last_good, load_newest_checkpoint, save_checkpoint


def trained(steps, seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train(model, optimizer, range(steps))
    return model, optimizer


def train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        model(torch.full((2, 4), float(step))).sum().backward()
        optimizer.step()


def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    whole, _ = trained(6)
    first_half = trained(3)
    save_checkpoint(tmp_path, 3, *first_half, {"seed": 1})
    model, optimizer = trained(0, seed=99)
    assert load_newest_checkpoint(tmp_path, model, optimizer, {"seed": 1}) == 3
    train(model, optimizer, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


def test_only_the_two_newest_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, *trained(1), {})
    assert [path.stem for path in checkpoint_paths(tmp_path)] == ["step-0000003", "step-0000004"]


def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(tmp_path):
    save_checkpoint(tmp_path, 1, *trained(1), {"seed": 1, "mask_ratio": 0.3})
    with pytest.raises(WeightsError, match=r"belongs to another run \(mask_ratio was 0.3, is 0.5\)"):
        load_newest_checkpoint(tmp_path, *trained(0), {"seed": 1, "mask_ratio": 0.5})


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: content[:-5] + b"wrong"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(tmp_path, damage, caplog):
    for step in (1, 2):
        path = save_checkpoint(tmp_path, step, *trained(step), {})
    path.write_bytes(damage(path.read_bytes()))
    model, optimizer = trained(0)
    assert load_newest_checkpoint(tmp_path, model, optimizer, {}) == 1
    assert torch.equal(model[0].weight, trained(1)[0][0].weight)
    assert "step-0000002.safetensors" in caplog.text
    assert "Going on from the one before it" in caplog.text


def test_damaged_checkpoints_alone_are_named(tmp_path):
    path = save_checkpoint(tmp_path, 1, *trained(1), {})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WeightsError, match=r"No checkpoint in .* can be read \(step-0000001.safetensors"):
        load_newest_checkpoint(tmp_path, *trained(0), {})


def test_the_place_to_go_on_from_is_named(tmp_path):
    assert last_good(tmp_path) == "No checkpoint had been written before."
    path = save_checkpoint(tmp_path, 1, *trained(1), {})
    assert last_good(tmp_path) == f"The last good checkpoint is {path}; --resume goes on from it."


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from evax.errors import DataError
from evax.runs.checkpoint import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing past the limit fails as on a full disk
folder = Path(sys.argv[1])
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.AdamW(model.parameters())
save_checkpoint(folder, 1, model, optimizer, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
model = torch.nn.Linear(500, 500)
try:
    save_checkpoint(folder, 2, model, torch.optim.AdamW(model.parameters()), {})
except DataError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_half_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "step-0000002.safetensors could not be written" in done.stdout
    assert "Free some space" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000001.safetensors"]

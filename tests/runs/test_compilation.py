"""What is compiled: blocks that are alike once, other networks whole, a look at a few images not at all."""

import pytest
import torch
from torch._dynamo.utils import counters

from evax.models.classifier import Classifier
from evax.models.encoders import build_encoder
from evax.runs.device import TOKENS_THAT_PAY_FOR_COMPILING, is_compiled, maybe_compile, uncompiled

CPU = torch.device("cpu")


@pytest.fixture
def graphs(monkeypatch):
    """How many functions torch's compiler has made since; not translated to C++, which takes long."""
    torch.compiler.reset()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda each, **options: compile_(each, backend="eager", **options))
    before = counters["stats"]["unique_graphs"]
    yield lambda: counters["stats"]["unique_graphs"] - before
    torch.compiler.reset()


def encoder(**options):
    return build_encoder("eva_x_tiny_patch16_224", img_size=32, depth=3, **options)


def test_blocks_that_are_alike_are_compiled_once_and_compute_the_same(graphs):
    network, films = encoder(), torch.randn(2, 1, 32, 32)
    before = network.encode(films).patches
    names = list(network.state_dict())
    assert maybe_compile(network, "on", 0, CPU) is network
    assert is_compiled(network)
    assert list(network.state_dict()) == names
    after = network.encode(films).patches
    assert graphs() == 1
    assert torch.allclose(after, before, atol=1e-5)


def test_a_look_at_a_few_images_compiles_nothing_anew(graphs):
    network = encoder()
    maybe_compile(network, "on", 0, CPU)
    network.encode(torch.randn(4, 1, 32, 32))
    with uncompiled():
        network.encode(torch.randn(3, 1, 32, 32))
    assert graphs() == 1


def test_blocks_that_differ_in_their_drop_path_are_compiled_with_the_whole(graphs):
    network = Classifier(encoder(drop_path_rate=0.1), 2)
    compiled = maybe_compile(network, "on", 0, CPU)
    assert is_compiled(compiled)
    assert not is_compiled(network)


def test_a_run_too_short_to_earn_compiling_back_is_left_as_it_is(graphs):
    network = encoder()
    assert not is_compiled(maybe_compile(network, "auto", TOKENS_THAT_PAY_FOR_COMPILING - 1, CPU))
    assert not is_compiled(maybe_compile(network, "off", 10**9, CPU))


def test_another_size_in_the_same_process_is_compiled_for_itself(graphs):
    for side in (32, 48, 64):
        network = build_encoder("eva_x_tiny_patch16_224", img_size=side, depth=3)
        maybe_compile(network, "on", 0, CPU)
        network.encode(torch.randn(2, 1, side, side))
        assert graphs() == side // 16 - 1

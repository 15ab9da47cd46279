"""Bundles whose card or weights were damaged: refused with a sentence, or answering with numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bundles import TINY, random_bundle
from evax.data.radiograph import Radiograph
from evax.deploy.bundle import read_card
from evax.deploy.exported import ExportedPredictor
from evax.deploy.predictor import open_bundle
from evax.errors import EvaxError, WeightsError
from evax.models.encoders import EvaX, build_encoder
from evax.weights.encoders import create_encoder

KINDS = ("encoder", "classifier", "segmenter")
FILM = Radiograph(np.linspace(0, 1, 80 * 70, dtype=np.float32).reshape(80, 70))
OTHER_VALUES = (
    None, True, -1, 3, 10**9, 0.5, float("nan"), "x", "", [], ["a", "a"], [1], {}, {"a": 1}, [[]], "1",
)  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """Networks of one block, which are made in milliseconds."""
    monkeypatch.setattr(EvaX, "depth", 1)


def make_bundle(folder, kind):
    findings = () if kind == "encoder" else ("Effusion", "Mass")
    thresholds = dict.fromkeys(findings, 0.5)
    return random_bundle(folder, findings, kind=kind, store_size=80, thresholds=thresholds)


def opened_or_refused(folder) -> bool:
    """Whether the bundle answers, with numbers; nothing but an EvaxError refuses it."""
    try:
        answers = open_bundle(folder).predict([FILM])
        create_encoder(TINY, folder)
    except EvaxError:
        return False
    assert np.isfinite(answers).all()
    return True


def places(content, inside=()):
    """The path of every value at any depth."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*inside, key)
        if isinstance(value, dict | list):
            yield from places(value, (*inside, key))


def test_a_card_with_a_value_of_another_type_is_refused_or_harmless(tmp_path, small):
    folder = make_bundle(tmp_path, "classifier")
    text, rng = (folder / "card.json").read_text(), np.random.default_rng(0)
    refused = 0
    for place in places(json.loads(text)):
        for value in [OTHER_VALUES[i] for i in rng.permutation(len(OTHER_VALUES))[:4]] + [...]:
            content = json.loads(text)
            *way, last = place
            target = content
            for key in way:
                target = target[key]
            if value is ...:
                del target[last]
            else:
                target[last] = value
            (folder / "card.json").write_text(json.dumps(content))
            refused += not opened_or_refused(folder)
    assert refused > 40


@pytest.mark.parametrize("content", ["[]", "1", "null", '"card"', "{}", "{", "", "\x00", "NaN", "[" * 5000])
def test_a_card_that_is_no_table_is_refused(content, tmp_path, small):
    folder = make_bundle(tmp_path, "encoder")
    (folder / "card.json").write_text(content)
    assert not opened_or_refused(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_weights_are_refused_or_answer_with_numbers(kind, tmp_path, small):
    folder = make_bundle(tmp_path, kind)
    whole, rng = (folder / "model.safetensors").read_bytes(), np.random.default_rng(KINDS.index(kind))
    header = 8 + int.from_bytes(whole[:8], "little")
    for number in range(40):
        data = bytearray(whole)
        reach = header if number % 4 else len(data)  # where most faults show
        start, length = int(rng.integers(reach)), int(rng.integers(1, 40))
        match number % 3:
            case 0:
                data[start : start + length] = rng.bytes(length)
            case 1:
                del data[start:]
            case 2:
                data[start] ^= 1 << int(rng.integers(8))
        (folder / "model.safetensors").write_bytes(data)
        opened_or_refused(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_with_the_tensor_s_name(kind, value, tmp_path, small):
    folder = make_bundle(tmp_path, kind)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("blocks.0.mlp.fc2.weight"))
    tensors[name][3, 5] = value
    save_file(tensors, folder / "model.safetensors")
    for load in (open_bundle, lambda path: create_encoder(TINY, path)):
        with pytest.raises(WeightsError, match="values that are no numbers, in 1 tensors .*mlp.fc2.weight"):
            load(folder)


def test_a_pytorch_file_of_weights_that_are_no_numbers_is_refused(tmp_path, small):
    state = build_encoder(TINY, img_size=64).state_dict()
    state["pos_embed"] = state["pos_embed"].double()
    state["pos_embed"][0, 0, 0] = 1e300  # a number, but none of float32
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"no numbers, in 1 tensors \['pos_embed'\]"):
        create_encoder(TINY, tmp_path / "a.pth", img_size=64)


def test_answers_that_are_no_numbers_are_refused_in_every_runtime(tmp_path, small):
    card = read_card(make_bundle(tmp_path, "classifier"))
    broken = ExportedPredictor(card, lambda films: (np.full((len(films), 2), np.nan, np.float32),))
    with pytest.raises(WeightsError, match="answers are NaN or infinite"):
        broken(FILM)
    ours = open_bundle(tmp_path)
    ours.network.head.bias[0] = float("nan")
    with pytest.raises(WeightsError, match="answers are NaN or infinite"):
        ours([FILM, FILM])

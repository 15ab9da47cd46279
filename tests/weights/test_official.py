"""The authors' names and rotary tables."""

import pytest
import torch

from evax.models.encoders import EVA_X, build_encoder
from evax.weights.official import rotary_tables, to_official_names, to_timm_names
from official_files import official_fine_tuned, official_mim

TINY, _, BASE = EVA_X


@pytest.mark.parametrize("name", [TINY, BASE])
def test_official_names_survive_the_way_to_timm_and_back(name):
    official = {
        key: value
        for key, value in official_mim(name).items()
        if not key.startswith(("mask_token", "lm_head."))
    }
    back = to_official_names(to_timm_names(official), grid=14, rotary_grid=14, mim=True)
    assert back.keys() == official.keys()
    for key, value in back.items():
        assert "rope." in key or value is official[key]
        assert torch.allclose(value.float(), official[key].float(), atol=5e-4), key


def test_a_classifier_keeps_the_name_of_its_norm():
    official = official_fine_tuned(TINY, 2, rotary_grid=16)
    back = to_official_names(to_timm_names(official), grid=14, rotary_grid=16, mim=False)
    assert back.keys() | {"head.weight", "head.bias"} == official.keys()
    assert torch.allclose(back["rope.freqs_cos"], official["rope.freqs_cos"], atol=1e-5)


@pytest.mark.parametrize(("grid", "rotary_grid"), [(14, 14), (14, 16), (30, 14)])
def test_rotary_tables_are_timm_s(grid, rotary_grid):
    encoder = build_encoder(TINY, img_size=16 * grid, ref_feat_shape=(rotary_grid, rotary_grid))
    sine, cosine = encoder.rope.get_embed().chunk(2, dim=-1)
    ours = rotary_tables(grid, rotary_grid)
    assert torch.allclose(ours[0], cosine, atol=1e-5)
    assert torch.allclose(ours[1], sine, atol=1e-5)


def test_rotary_tables_have_the_published_golden_numbers():
    cosine, _ = rotary_tables(14, 14)
    assert torch.equal(cosine[0], torch.ones(64))
    assert cosine[1, 32] == cosine[14, 0] == pytest.approx(0.5403, abs=1e-4)  # cos 1; paper-facts.md 1.3
    assert rotary_tables(14, 16)[0][1, 32] == pytest.approx(0.4149, abs=1e-4)

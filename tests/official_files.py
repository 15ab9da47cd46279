"""Files with random tensors under the exact official names, dtypes and nesting (paper-facts.md 1.4, 1.5), and
the released network written out once more.
"""

import argparse

import numpy as np
import torch

from evax.models.encoders import EVA_X


def official_rope(grid, rotary_grid, dtype):
    """The rotary buffers of a network with grid x grid patches."""
    t = torch.arange(grid) / grid * rotary_grid
    angles = 10000.0 ** (-2 * torch.arange(16.0) / 32)
    angles = (t[:, None] * angles).repeat_interleave(2, dim=1)  # (grid, 32): pairs share a frequency
    shape = (grid, grid, 32)
    table = torch.cat([angles[:, None].expand(shape), angles[None].expand(shape)], dim=-1).reshape(-1, 64)
    return {"rope.freqs_cos": table.cos().to(dtype), "rope.freqs_sin": table.sin().to(dtype)}


def official_mim(name, target_width=768, dtype=torch.float16, rotary_grid=14):
    """The table under `module` of a released MIM bundle."""
    width, _, split = EVA_X[name]
    ffn = int(width * 4 * 2 / 3)
    chance = torch.Generator().manual_seed(3)

    def table(*shape):
        return torch.randn(*shape, generator=chance).mul(0.02).to(dtype)

    rope = official_rope(14, rotary_grid, dtype)
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


def official_fine_tuned(name, outputs, input_size=224, rotary_grid=14):
    """The table under `model` of a released fine-tuned file."""
    chance, side = torch.Generator().manual_seed(4), input_size // 16
    state = {
        key: value
        for key, value in official_mim(name, dtype=torch.float32).items()
        if not key.startswith(("mask_token", "lm_head.", "norm."))
    }
    width = state["cls_token"].shape[-1]
    rope = official_rope(side, rotary_grid, torch.float32)
    state |= {key: rope[key[key.index("rope.") :]] for key in state if "rope." in key}
    state["pos_embed"] = torch.randn(1, side * side + 1, width, generator=chance) * 0.02
    return state | {
        "fc_norm.weight": torch.rand(width, generator=chance) + 0.5,
        "fc_norm.bias": torch.randn(width, generator=chance) * 0.02,
        "head.weight": torch.randn(outputs, width, generator=chance),
        "head.bias": torch.randn(outputs, generator=chance),
    }


def write_mim(path, name, rotary_grid=14, **changes):
    """A released MIM bundle: DeepSpeed, ZeRO 0, 14 bytes per parameter. Returns its exact float32 weights.

    changes: replace entries of `optimizer`.
    """
    exact = official_mim(name, dtype=torch.float32, rotary_grid=rotary_grid)
    parameters = {key: value for key, value in exact.items() if "rope." not in key}
    groups = {}
    for key, value in parameters.items():  # in the network's order, split by weight decay
        decayed = value.ndim > 1 and key not in ("pos_embed", "cls_token")
        groups.setdefault(decayed, []).append(value.flatten())
    flat = [torch.cat(values) for values in groups.values()]
    moments = {i: {"step": 5, "exp_avg": group * 0, "exp_avg_sq": group * 0} for i, group in enumerate(flat)}
    optimizer = {
        "dynamic_loss_scale": True, "cur_scale": 65536.0, "cur_iter": 5, "clip_grad": 3.0,
        "optimizer_state_dict": {"state": moments, "param_groups": [{"lr": np.float64(1e-3)}] * 2},
        "fp32_groups_flat": flat,
    } | changes  # fmt: skip
    content = {
        "module": {key: value.half() for key, value in exact.items()},
        "buffer_names": [key for key in exact if "rope." in key],
        "optimizer": optimizer, "lr_scheduler": None, "csr_tensor_module_names": set(), "skipped_steps": 0,
        "global_steps": np.int64(5), "global_samples": 640, "dp_world_size": 8, "mp_world_size": 1,
        "ds_config": {"train_batch_size": 128}, "ds_version": "0.6.5", "epoch": 1,
    }  # fmt: skip
    torch.save(content, path)
    return exact


def write_fine_tuned(path, name, outputs, input_size=224, rotary_grid=14):
    """A released fine-tuned file. Returns its weights."""
    state = official_fine_tuned(name, outputs, input_size, rotary_grid)
    args = argparse.Namespace(lr=1e-3, model=name, input_size=input_size, best=np.float32(0.8))
    scaler = {"scale": 65536.0, "growth_tracker": 3}
    torch.save(
        {"model": state, "optimizer": {"state": {}}, "epoch": "best", "scaler": scaler, "args": args}, path
    )
    return state


def forward_as_released(state, images):
    """The released network written out once more, from paper-facts.md 1.2, with the released names."""
    state = {key: value.double() for key, value in state.items()}
    width = state["cls_token"].shape[-1]
    heads = width // 64
    x = torch.nn.functional.conv2d(
        images.double(), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"],
        stride=state["patch_embed.proj.weight"].shape[-1],
    )  # fmt: skip
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

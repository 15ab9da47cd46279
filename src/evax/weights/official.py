"""The authors' names for an encoder's tensors, and their rotary tables (paper-facts.md 1.2, 1.3, 1.5)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from evax.errors import WeightsError

# official part of a name <-> timm's; applied in this order to every key
OFFICIAL_TO_TIMM = (
    ("mlp.ffn_ln.", "mlp.norm."),
    ("mlp.w12.", "mlp.fc1."),
    ("mlp.w1.", "mlp.fc1_g."),
    ("mlp.w2.", "mlp.fc1_x."),
    ("mlp.w3.", "mlp.fc2."),
)
SPLIT_BIASES = (("attn.q_bias", "attn.q_proj.bias"), ("attn.v_bias", "attn.v_proj.bias"))
# Parts of a file that an encoder does not have: the MIM projection and mask token, a classifier's head.
NOT_ENCODER = ("mask_token", "lm_head.", "head.")
ROTARY_GRIDS = (14, 16)  # the authors' code names both for the base model; paper-facts.md 1.3
ROPE_TOLERANCE = 2e-3  # the released buffers are float16; 14 against 16 differs by 0.1
LARGEST_GRID = 256  # patches on a side: 4096 pixels


def to_timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an encoder under timm's names; rotary tables, heads and the mask token are left out."""
    if any(key.startswith("encoder.") for key in state):  # one of our classifiers or pre-training checkpoints
        state = {key.removeprefix("encoder."): value for key, value in state.items()}
    names = OFFICIAL_TO_TIMM + (SPLIT_BIASES if "blocks.0.attn.q_proj.weight" in state else ())
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if "rope.freqs" in key or key.startswith(NOT_ENCODER):
            continue
        for official, ours in names:
            key = key.replace(official, ours)
        # MIM: the norm before lm_head serves as the norm after pooling (paper-map)
        renamed[f"fc_{key}" if key.startswith("norm.") else key] = value
    return renamed


def to_official_names(state: dict[str, Tensor], grid: int, rotary_grid: int, mim: bool) -> dict[str, Tensor]:
    """An encoder's tensors under the authors' names, with the rotary tables their files hold.

    grid: patches on a side. rotary_grid: see rotary_tables. mim: the final norm is `norm`, else `fc_norm`.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for official, ours in (*OFFICIAL_TO_TIMM, *SPLIT_BIASES):
            key = key.replace(ours, official)
        renamed[key.removeprefix("fc_") if mim and key.startswith("fc_norm.") else key] = value
    blocks = sorted({key.split(".")[1] for key in state if key.startswith("blocks.")}, key=int)
    cosine, sine = rotary_tables(grid, rotary_grid)
    for place in ("rope", *(f"blocks.{block}.attn.rope" for block in blocks)):
        renamed |= {f"{place}.freqs_cos": cosine, f"{place}.freqs_sin": sine}
    return renamed


def rotary_tables(grid: int, rotary_grid: float) -> tuple[Float[Tensor, "N 64"], Float[Tensor, "N 64"]]:
    """Cosine and sine by which patches are turned, row by row; channels 0-31 by row, 32-63 by column.

    grid: patches on a side. rotary_grid: positions run from 0 over i * rotary_grid / grid, whatever the grid.
    Source: paper-facts.md 1.2.
    """
    positions = torch.arange(grid, dtype=torch.float64) / grid * rotary_grid
    frequencies = 10_000.0 ** (-torch.arange(16, dtype=torch.float64) / 16)
    angles = torch.outer(positions, frequencies).repeat_interleave(2, dim=1)  # (grid, 32): pairs share one
    rows, columns = angles[:, None].expand(grid, grid, 32), angles[None].expand(grid, grid, 32)
    table = torch.cat([rows, columns], dim=-1).reshape(grid * grid, 64)
    return table.cos().float(), table.sin().float()


def rotary_grid_of(state: dict[str, Tensor], path: Path) -> int | None:
    """The grid that a file's rotary tables were made for, read from all of them; None without tables.

    Raises WeightsError when they fit no grid of ROTARY_GRIDS: other positions must not pass unnoticed.
    """
    tables = {key: value for key, value in state.items() if "rope.freqs" in key}
    if not tables:
        return None
    sizes = {tuple(table.shape) for table in tables.values()}
    size = next(iter(sizes))
    if len(sizes) > 1 or len(size) != 2 or size[1] != 64 or (grid := square_grid(size[0])) is None:
        raise WeightsError(f"{path} has rotary tables of the sizes {sorted(sizes)}, expected (N, 64) each.")
    for rotary_grid in ROTARY_GRIDS:
        cosine, sine = rotary_tables(grid, rotary_grid)
        if all(
            torch.allclose(table.float(), cosine if key.endswith("cos") else sine, atol=ROPE_TOLERANCE)
            for key, table in tables.items()
        ):
            return rotary_grid
    known = " and ".join(map(str, ROTARY_GRIDS))
    raise WeightsError(
        f"{path} was trained with other rotary positions than those of the grids {known}: no encoder of evax "
        "computes what it learned."
    )


def square_grid(patches: int) -> int | None:
    """The side of a square grid of so many patches; None without one, or above LARGEST_GRID."""
    side = math.isqrt(max(patches, 0))
    return side if side * side == patches and 0 < side <= LARGEST_GRID else None

"""Encoders with weights, strictly: ours, timm's, the authors' MIM and fine-tuned layouts (facts 1.4-1.5), and
those of the paper's baselines (facts 7).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

from evax.errors import ConfigError, WeightsError, unknown_name
from evax.files import checked_path
from evax.models.classifier import Classifier
from evax.models.encoders import ENCODERS, EVA_X, Cnn, Encoder, EvaX, PlainVit, build_encoder
from evax.weights.download import weights_path
from evax.weights.files import check_finite, noted_input_size, noted_rotary_grid, read_state_dict
from evax.weights.foreign import LAYOUTS, head_of, layout_of, to_timm, unwrapped
from evax.weights.names import IMAGENET_WEIGHTS, is_packaged
from evax.weights.official import rotary_grid_of, square_grid, to_timm_names
from evax.weights.packaged import imagenet_state
from evax.weights.released import Released

PATCH_WEIGHT = "patch_embed.proj.weight"
EVA02_PATCH = 14  # pixels; EVA-02 is the network of EVA-X with smaller patches


def create_encoder(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    full_precision: bool = False,
    position_antialias: bool = True,
    **options: Any,
) -> Encoder:
    """An encoder by name, with `encode(images) -> Encoded(patches, grid, cls)`.

    name: one of evax.models.encoders.ENCODERS. weights: None for random weights; a path: a bundle folder, a
    .safetensors file, or a file in a layout of the authors or of a baseline, told by its tensors; the name
    of a published file (`evax zoo list`), fetched when it is not on this machine; "imagenet". An existing
    path goes before a name.
    full_precision: the float32 weights of a DeepSpeed bundle instead of its float16 copies.
    position_antialias: False resamples a position table without antialias, as the authors' loaders do.
    options: timm's (img_size, drop_path_rate, ...). Without img_size a bundle's own size, else 224 pixels.
    A position table of another resolution is resampled; the rotary positions are those the file was trained
    with; anything else that does not fit is refused. Films are normalised as weights.normalisation says.
    Raises ConfigError for an unknown name, WeightsError for a file that cannot be had or read or does not
    fit.
    """
    if not isinstance(name, str):
        raise unknown_name("encoder", name, ENCODERS)
    if weights is not None:
        checked_path(weights, "Weights are given by their name or")
    if "image_size" in options:
        raise ConfigError(f"Here timm's word is used: img_size={options['image_size']}, not image_size.")
    if weights is None:
        if full_precision:
            raise ConfigError("full_precision chooses among the weights of a file: give weights too.")
        return build_encoder(name, **options)
    if is_packaged(name, weights):
        cnn = build_encoder(name, **options)
        state = {f"network.{key}": tensor for key, tensor in imagenet_state(name).items()}
        fill(cnn, {key: state[key] for key in cnn.state_dict()}, name, Path(IMAGENET_WEIGHTS))
        return cnn
    path = weights_path(name, weights)
    if "img_size" not in options and (size := noted_input_size(path)):
        options["img_size"] = size
    state = _without_decoder(read_state_dict(path, full_precision))
    return _filled_encoder(name, path, state, options, position_antialias)


def _without_decoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a segmenter of evax its encoder; any other weights as they are."""
    parts = {name.partition(".")[0] for name in state}
    if not {"encoder", "decoder", "head"} <= parts:
        return state
    return {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}


def create_published(row: Released, path: Path, full_precision: bool = False) -> Encoder | Classifier:
    """The encoder of a file without findings, the classifier of a fine-tuned one.

    row: what the table says about the file, of a layout that evax loads; head, number of outputs and input
    size must be those of the file. Raises WeightsError otherwise, and as create_encoder does.
    """
    state = read_state_dict(path, full_precision)
    table, kernel = state.get("pos_embed"), state.get("patch_embed.proj.weight")
    patch = EVA02_PATCH if kernel is not None and kernel.shape[2:] == (EVA02_PATCH,) * 2 else EvaX.stride
    tokens = (row.input_size // patch) ** 2 + 1
    if table is not None and table.shape[1:2] != (tokens,):
        raise WeightsError(
            f"{path} has a position table of {tuple(table.shape)}, expected {tokens} tokens for "
            f"{row.input_size} pixels. Is it another published file?"
        )
    head = head_of(unwrapped(state))
    if head and row.layout == "mim":
        raise WeightsError(f"{path} has a head, so it was fine-tuned; {row.file} has none.")
    encoder = _filled_encoder(row.encoder, path, state, {"img_size": row.input_size})
    if not row.findings:
        return encoder
    classifier = Classifier(encoder, len(row.findings))
    fill(classifier.head, head, f"a head of {len(row.findings)} findings ({', '.join(row.findings)})", path)
    return classifier


def _filled_encoder(
    name: str, path: Path, state: dict[str, Tensor], options: dict[str, Any], antialias: bool = True
) -> Encoder:
    if name in EVA_X:
        return _filled_eva_x(name, path, state, options, antialias)
    encoder = build_encoder(name, **options)
    network = encoder.network if isinstance(encoder, Cnn) else encoder
    state = unwrapped(state)
    layout = layout_of(state)
    if layout is None:
        raise WeightsError(
            f"{path} has none of the layouts that evax knows ({', '.join(LAYOUTS)}); its tensors have names "
            f"like {sorted(state)[:3]}. Is it the file of an image encoder?"
        )
    given = to_timm(state, LAYOUTS[layout], network.state_dict())
    if isinstance(encoder, PlainVit) and "pos_embed" in given:
        given["pos_embed"] = _resample_positions(given["pos_embed"], encoder, antialias)
    fill(network, given, f"{name} as a file of the layout {layout}", path, LAYOUTS[layout].hint)
    return encoder


def _filled_eva_x(
    name: str, path: Path, state: dict[str, Tensor], options: dict[str, Any], antialias: bool
) -> EvaX:
    grid = rotary_grid_of(state, path) or noted_rotary_grid(path)
    if grid:
        asked = options.get("ref_feat_shape")
        if asked is not None and tuple(asked) != (grid, grid):
            raise WeightsError(
                f"{path} was trained with rotary positions of a {grid} x {grid} grid, which "
                f"ref_feat_shape={tuple(asked)} contradicts: leave the option out."
            )
        options = options | {"ref_feat_shape": (grid, grid)}
    encoder = build_encoder(name, **options)
    assert isinstance(encoder, EvaX)  # name is a key of EVA_X
    given = to_timm_names(state)
    if "pos_embed" in given:
        given["pos_embed"] = _resample_positions(given["pos_embed"], encoder, antialias)
    if PATCH_WEIGHT in given:
        given[PATCH_WEIGHT] = _resample_patches(given[PATCH_WEIGHT])
    fill(encoder, given, name, path)
    return encoder


def fill(network: nn.Module, given: dict[str, Tensor], name: str, path: Path, hint: str = "") -> None:
    """Copies tensors into a network; every one of the network must be given, none may be left over.

    Raises WeightsError for those that do not fit, and for values that are no numbers.
    """
    wanted = network.state_dict()
    missing, unused = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    other_shape = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    if missing or unused or other_shape:
        raise WeightsError(
            f"{path} does not fit {name}: {len(missing)} missing {missing[:3]}, "
            f"{len(unused)} unused {unused[:3]}, {len(other_shape)} of another size {other_shape[:3]}. "
            f"{hint or 'Was it made for another one?'}"
        )
    converted = {key: value.to(wanted[key].dtype) for key, value in given.items()}
    check_finite(converted, path)
    network.load_state_dict(converted, strict=True)


def _resample_positions(table: Tensor, encoder: EvaX | PlainVit, antialias: bool) -> Tensor:
    """Only a table that another resolution explains is resampled; any other is left to be refused."""
    height, width = encoder.patch_embed.grid_size
    known = table.ndim == 3 and len(table) == 1 and table.shape[-1] == encoder.embed_dim
    if not known or table.shape[1] == height * width + 1 or square_grid(table.shape[1] - 1) is None:
        return table
    return resample_abs_pos_embed(
        table.float(), new_size=[height, width], num_prefix_tokens=1, antialias=antialias
    )  # bicubic


def _resample_patches(weight: Tensor) -> Tensor:
    """EVA-02's 14-pixel patches for ours of 16, by the pseudo-inverse: a film enlarged by as much gives the
    same embeddings.
    """
    if weight.ndim != 4 or weight.shape[2:] != (EVA02_PATCH, EVA02_PATCH):
        return weight
    return resample_patch_embed(weight.float(), new_size=[EvaX.stride, EvaX.stride])

"""Tokenizers with their weights, strictly: packaged, MGCA's, EVA-CLIP's, timm's and transformers' files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from evax.errors import ConfigError, DataError, WeightsError, install_command
from evax.files import read_json
from evax.models.encoders import CNNS, EvaX
from evax.models.tokenizers import AUTO, TRANSFORMERS, Tokenizer, TransformersFeatures, build_tokenizer
from evax.weights.encoders import fill, imagenet_state
from evax.weights.files import check_finite, read_state_dict
from evax.weights.foreign import LAYOUTS

MGCA = "mgca_vit_base_patch16"
MGCA_IMAGE_TOWER, MGCA_OTHER_PARTS = LAYOUTS["mgca"].prefix, LAYOUTS["mgca"].left_over
NOT_READ = ("pooler.",)  # of a transformers model: acts after the patches


def create_tokenizer(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    image_size: int = 224,
    layer: str = AUTO,
    view: int | None = None,
    **options: Any,
) -> Tokenizer:
    """A frozen tokenizer with its pre-trained weights.

    name: of models.tokenizers.TOKENIZERS, `timm:NAME`, or `transformers:FOLDER`. weights: its file; not
    needed where a package brings it, not allowed for a folder. image_size: side of the student's input.
    layer, view, options: see build_tokenizer. A position table of another resolution is resampled.
    Raises ConfigError for a wrong name or choice, WeightsError for a file that cannot be read or does not
    fit.
    """
    if name.startswith(TRANSFORMERS):
        if weights is not None or options:
            raise ConfigError(f"{name} brings its own weights: leave --tokenizer-weights out.")
        return _from_transformers(Path(name.removeprefix(TRANSFORMERS)), image_size, layer, view)
    tokenizer = build_tokenizer(name, image_size=image_size, layer=layer, view=view, **options)
    network: Any = tokenizer.features.network
    if weights is not None:
        path = Path(weights)
        given = _timm_names(name, path, network)
    elif name in CNNS:
        path, given = Path(name), imagenet_state(name)
    else:
        raise ConfigError(f"The tokenizer {name} needs its weights: --tokenizer-weights FILE.")
    classifiers = network.pretrained_cfg["classifier"]
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers or ())
    unread = tuple(f"{each}." for each in classifiers)
    wanted = network.state_dict()
    given = {key: value for key, value in given.items() if key in wanted or not key.startswith(unread)}
    fill(network, given, name, path)
    return tokenizer


def _timm_names(name: str, path: Path, network: Any) -> dict[str, Tensor]:
    """The tensors of a file under the names of a timm network, converted by timm's own rules for it."""
    state = read_state_dict(path)
    if name == MGCA:
        state = _mgca_image_tower(path, state)
    kernel = network.state_dict().get("patch_embed.proj.weight")
    for key, table in state.items():
        other = kernel is not None and key.endswith("patch_embed.proj.weight") and table.ndim == 4
        if other and table.shape[-2:] != kernel.shape[-2:]:  # timm would resample it without a word
            raise WeightsError(
                f"{path} reads patches of {table.shape[-1]} pixels, {name} of {kernel.shape[-1]}. "
                "Was it made for another one?"
            )
    # each family of timm keeps the rules for foreign files of its kind under this name
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted: dict[str, Tensor] = convert(state, network)
    except (RuntimeError, ValueError, LookupError, AttributeError, AssertionError, TypeError) as error:
        raise WeightsError(f"{path} does not fit {name}: {error!r}. Was it made for another one?") from error
    return converted


def _mgca_image_tower(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of an MGCA checkpoint; paper-facts.md 2.3. Parts that no MGCA model has are refused."""
    if strange := [key for key in state if not key.startswith((MGCA_IMAGE_TOWER, *MGCA_OTHER_PARTS))]:
        raise WeightsError(
            f"{path} is not an MGCA checkpoint: it holds {strange[0]}, expected {MGCA_IMAGE_TOWER}... and "
            "the other parts of MGCA. Give timm:vit_base_patch16_224 for a plain ViT-B/16."
        )
    tower = {
        key.removeprefix(MGCA_IMAGE_TOWER): value
        for key, value in state.items()
        if key.startswith(MGCA_IMAGE_TOWER)
    }
    if not tower:
        raise WeightsError(
            f"{path} holds no image tower ({MGCA_IMAGE_TOWER}...). Give MGCA's ViT checkpoint."
        )
    return tower


def _from_transformers(folder: Path, image_size: int, layer: str, view: int | None) -> Tokenizer:
    """A vision model of a local folder with config.json, model.safetensors and preprocessor_config.json.

    Nothing is fetched and no code of the folder is run.
    """
    try:
        from transformers import AutoModel
    except ModuleNotFoundError as error:
        raise ConfigError(f"{TRANSFORMERS}FOLDER needs: {install_command('transformers')}") from error
    try:
        config, chain = (read_json(folder / name) for name in ("config.json", "preprocessor_config.json"))
        mean, std = (tuple(float(each) for each in chain[key]) for key in ("image_mean", "image_std"))
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{folder} is not the folder of a transformers vision model with its normalisation "
            f"(config.json; image_mean and image_std in preprocessor_config.json): {error}."
        ) from error
    if len(mean) != 3 or len(std) != 3:
        raise WeightsError(f"{folder} normalises {len(mean)} channels, expected 3.")
    if "attn_implementation" in config:  # may name a repository whose code would be fetched and run
        raise WeightsError(f"{folder}/config.json names an attn_implementation. Remove that line.")
    try:
        network, report = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"{folder} cannot be read: {reason} Expected a model that transformers knows, in safetensors."
        ) from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(NOT_READ))
    other_shape = sorted(str(key) for key in report["mismatched_keys"])
    if missing or other_shape:
        raise WeightsError(
            f"{folder} does not fit its config.json: {len(missing)} missing {missing[:3]}, "
            f"{len(other_shape)} of another size {other_shape[:3]}. Copy it again."
        )
    check_finite(network.state_dict(), folder)
    features = TransformersFeatures(getattr(network, "vision_model", network), layer)
    return Tokenizer(
        features,
        name=f"{TRANSFORMERS}{network.config.model_type}",
        image_size=image_size,
        view=view or (image_size // EvaX.stride * features.patch if features.patch else image_size),
        mean=mean,
        std=std,
    )

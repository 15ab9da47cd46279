"""One finding's map on the image's own pixels, from whatever can make maps; needs no torch."""

from __future__ import annotations

import os
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Float

from evax.data.films import as_radiograph
from evax.data.preprocess import Preprocess, on_film
from evax.data.radiograph import Radiograph
from evax.errors import ConfigError, unknown_name
from evax.findings import as_spelled

At = Literal["norm1", "output"]


@runtime_checkable
class Explainable(Protocol):
    """What a map needs of a predictor."""

    card: Any
    """Has `kind`, `findings` in the order of the outputs, and the `preprocess` of the images."""
    layers: tuple[At, ...]
    """Where it can make maps, the usual one first."""

    def network_input(self, film: Radiograph) -> Any:
        """The image as the network sees it."""
        ...

    def maps(self, inputs: Any, at: At) -> Float[np.ndarray, "S K h w"]:
        """Grad-CAM on the patch grid for every finding, not yet normalised, of what network_input made."""
        ...


def grad_cam(
    predictor: Explainable,
    radiograph: Radiograph | str | os.PathLike[str],
    finding: str,
    at: At | None = None,
) -> Float[np.ndarray, "H W"]:
    """Map of one finding on the original pixels, in [0, 1]; all zero where nothing speaks for the finding.

    radiograph: or the path of a picture.
    at: "norm1", the normed input of the last block, as the paper; "output", the last block's output. They are
    different maps and must not be compared with each other. Without it, the predictor's usual one: norm1 of a
    transformer in torch, else output.
    Raises ConfigError for a finding the bundle does not know, a bundle that is no classifier, or a layer at
    which this predictor makes no maps.
    """
    if not isinstance(predictor, Explainable):
        raise ConfigError(
            f"Grad-CAM needs a classifier that evax.open_bundle has opened, not {type(predictor).__name__}."
        )
    findings = tuple(predictor.card.findings)
    if predictor.card.kind != "classifier":
        raise ConfigError(
            f"Grad-CAM needs a classifier bundle; this is one of kind {predictor.card.kind}. Fine-tune it."
        )
    finding = as_spelled(finding, findings) if isinstance(finding, str) else finding
    if finding not in findings:
        raise unknown_name("finding", finding, findings)
    if at not in (None, *get_args(At)):
        raise unknown_name("layer for Grad-CAM", at, get_args(At))
    radiograph = as_radiograph(radiograph, predictor.card.preprocess.bits)
    maps = predictor.maps(predictor.network_input(radiograph)[None], at or predictor.layers[0])
    return spread(maps[0, findings.index(finding)], radiograph.pixels.shape, predictor.card.preprocess)


def spread(
    grid: Float[np.ndarray, "h w"], shape: tuple[int, ...], preprocess: Preprocess
) -> Float[np.ndarray, "H W"]:
    """A patch map on the image's own pixels: bilinear, then scaled so that its largest value is 1 (all zero
    stays zero).

    preprocess: the image's way to the network. What a central crop left out was not seen and is zero.
    """
    (top, bottom), (left, right) = ([round(end * side) for end in preprocess.seen] for side in shape)
    large = on_film(grid, (bottom - top, right - left))
    low, high = large.min(), large.max()
    film = np.zeros(shape, np.float32)
    if high > low:
        film[top:bottom, left:right] = (large - low) / (high - low)
    return film

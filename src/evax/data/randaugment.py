"""What training with labels sees of a film, and RandAugment as in the paper's recipe: timm's operations,
numbers drawn by us (facts 4.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from evax.data.augment import AUGMENT, Augmentation, CropConfig, TrainingView, film_chance, random_crops
from evax.data.preprocess import Preprocess

RECIPE = "rand-m6-mstd0.5-inc1"  # 2 of 15 operations, each with chance 0.5 and a magnitude from N(6, 0.5)
LARGEST_MAGNITUDE = 10.0
# Operations whose strength goes either way: (what changes nothing, how far the largest magnitude goes). timm
# draws the direction from Python's one global stream, which threads would share, so it is drawn here.
TWO_SIDED = {
    "Rotate": (0.0, 30.0),  # degrees
    **dict.fromkeys(("ShearX", "ShearY"), (0.0, 0.3)),
    **dict.fromkeys(("TranslateXRel", "TranslateYRel"), (0.0, 0.45)),  # of the side
    **dict.fromkeys(
        ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"), (1.0, 0.9)
    ),
}


class RandAugment:
    """timm's RandAugment whose chance is an argument.

    fill: 8-bit grey of what rotation, shear and translation uncover.
    """

    def __init__(self, fill: int) -> None:
        options = {"img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
        policy = rand_augment_transform(RECIPE, options)
        self.operations: list[Any] = policy.ops
        self.layers: int = policy.num_layers

    def __call__(
        self, crop: UInt8[np.ndarray, "s s"], chance: np.random.Generator
    ) -> UInt8[np.ndarray, "s s"]:
        """The crop after `layers` operations, drawn with replacement, each of them left out half the time."""
        picture = Image.fromarray(crop)
        for _ in range(self.layers):
            operation = self.operations[chance.integers(len(self.operations))]
            is_left_out, sign = chance.random() > operation.prob, chance.choice((-1.0, 1.0))
            magnitude = chance.normal(operation.magnitude, operation.magnitude_std)
            if not is_left_out:
                picture = applied(operation, picture, magnitude, sign)
        return np.asarray(picture)


def applied(operation: Any, picture: Image.Image, magnitude: float, sign: float) -> Image.Image:
    """The picture after one of timm's operations.

    magnitude: cut to [0, 10]. sign: 1 or -1, which way a two-sided operation goes.
    """
    level = min(max(magnitude, 0.0), LARGEST_MAGNITUDE)
    if operation.name in TWO_SIDED:
        neutral, reach = TWO_SIDED[operation.name]
        strength = [neutral + sign * level / LARGEST_MAGNITUDE * reach]
    else:
        strength = [*operation.level_fn(level, operation.hparams)] if operation.level_fn else []
    changed: Image.Image = operation.aug_fn(picture, *strength, **operation.kwargs)
    return changed


def augmented(view: TrainingView, seed: int, fill: int) -> TrainingView:
    """RandAugment after another view; keyed by (seed, epoch, film) like the crops."""
    augment = RandAugment(fill)

    def augmented_view(film: UInt8[np.ndarray, "S S"], epoch: int, number: int) -> UInt8[np.ndarray, "s s"]:
        return augment(view(film, epoch, number), film_chance(seed, epoch, number, AUGMENT))

    return augmented_view


def training_view(
    augmentation: Augmentation, crop: CropConfig, preprocess: Preprocess, seed: int
) -> TrainingView:
    """What training sees of a film: what evaluation sees, random crops, or crops after RandAugment."""
    if augmentation == "none":
        return lambda film, epoch, number: preprocess.view(film)
    crops = random_crops(preprocess.input_size, crop, seed)
    if augmentation == "crop":
        return crops
    return augmented(crops, seed, fill=round(255 * float(np.mean(preprocess.mean))))

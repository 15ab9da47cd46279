"""Random crops of stored images. Chance is an argument: the same (seed, epoch, image) gives the same picture
anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from evax.config import validated
from evax.data.preprocess import Preprocess
from evax.errors import ConfigError

ORDER, CROP, MASK, AUGMENT = range(4)  # purposes of random numbers; see film_chance

Augmentation = Literal["none", "crop", "randaugment"]
# Pixels of a stored image, epoch and number of the image -> what training sees: the picture, or with its masks.
TrainingView = Callable[[UInt8[np.ndarray, "S S"], int, int], UInt8[np.ndarray, "*C s s"]]


@validated
@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Crop of random area and aspect, resized to the network's input."""

    area: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the image, in (0, 1]."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width : height."""
    scale: tuple[float, float] | None = None
    """Instead of area and aspect: scale the image by a factor between these, then cut a square of the input's
    size.
    """
    flip: float = 0.5
    """Chance of a left-right mirror image, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ConfigError(f"area must rise within (0, 1], got {self.area}.")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ConfigError(f"aspect must be above 0 and rise, got {self.aspect}.")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"scale must be above 0 and rise, got {self.scale}.")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip is a chance in [0, 1], got {self.flip}.")


def image_chance(seed: int, epoch: int, film: int, purpose: int) -> np.random.Generator:
    """The random numbers of one image in one epoch; `purpose` keeps crops and masks apart."""
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64), counter=[0, 0, epoch, film])
    )


class Crop(NamedTuple):
    """What is cut out of an image, the same for its pixels and its masks."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the image."""
    is_mirrored: bool

    def cut(
        self, film: UInt8[np.ndarray, "S S"], size: int, smoothing: Image.Resampling
    ) -> UInt8[np.ndarray, "s s"]:
        """The crop at size x size."""
        pixels = np.asarray(Image.fromarray(film).resize((size, size), smoothing, box=self.box))
        return pixels[:, ::-1] if self.is_mirrored else pixels


def draw_crop(shape: tuple[int, int], size: int, config: CropConfig, chance: np.random.Generator) -> Crop:
    """One crop, maybe mirrored.

    shape: (H, W) of the image. size: side of the result in pixels.
    Area and scale are uniform and aspect log-uniform, as in torchvision's RandomResizedCrop; a box that would
    not fit is narrowed to the image instead of drawn again, so one image always uses the same count of random
    numbers.
    """
    height, width = shape
    size_draw, aspect_draw, x_draw, y_draw, flip_draw = chance.random(5)
    if config.scale is not None:  # scaling the image up is cutting a smaller square out of it
        side = size / _between(config.scale, size_draw)
        crop_width, crop_height = min(side, width), min(side, height)
    else:
        area = height * width * _between(config.area, size_draw)
        aspect = math.exp(_between((math.log(config.aspect[0]), math.log(config.aspect[1])), aspect_draw))
        crop_width, crop_height = min(math.sqrt(area * aspect), width), min(math.sqrt(area / aspect), height)
    left, top = x_draw * (width - crop_width), y_draw * (height - crop_height)
    return Crop((left, top, left + crop_width, top + crop_height), flip_draw < config.flip)


def random_crop(
    film: UInt8[np.ndarray, "S S"], size: int, config: CropConfig, chance: np.random.Generator
) -> UInt8[np.ndarray, "s s"]:
    """See draw_crop; bicubic with antialias. film: 8-bit pixels of a store."""
    return draw_crop(film.shape, size, config, chance).cut(film, size, Image.Resampling.BICUBIC)


def distorted(film: UInt8[np.ndarray, "s s"], chance: np.random.Generator) -> UInt8[np.ndarray, "s s"]:
    """Another brightness in half of the images (up to 32 of 255 levels), another contrast in half of them
    (factor 0.5 to 1.5).

    Source: what mmsegmentation's PhotoMetricDistortion does to a grey image (paper-facts.md 5.5); saturation
    and hue change nothing on one.
    """
    is_brighter, shift, is_contrasted, factor = chance.random(4)
    values = film.astype(np.float32)
    if is_brighter < 0.5:
        values = np.clip(values + _between((-32, 32), shift), 0, 255)
    if is_contrasted < 0.5:
        values = np.clip(values * _between((0.5, 1.5), factor), 0, 255)
    return np.rint(values).astype(np.uint8)


def _between(ends: tuple[float, float], draw: float) -> float:
    return ends[0] + draw * (ends[1] - ends[0])


def random_crops(size: int, config: CropConfig, seed: int) -> TrainingView:
    """A random crop of every image, another one in every epoch."""

    def crop(film: UInt8[np.ndarray, "S S"], epoch: int, number: int) -> UInt8[np.ndarray, "s s"]:
        return random_crop(film, size, config, image_chance(seed, epoch, number, CROP))

    return crop


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
        from timm.data.auto_augment import rand_augment_transform  # loads torch, which options do without

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
    """RandAugment after another view; keyed by (seed, epoch, image) like the crops."""
    augment = RandAugment(fill)

    def augmented_view(film: UInt8[np.ndarray, "S S"], epoch: int, number: int) -> UInt8[np.ndarray, "s s"]:
        return augment(view(film, epoch, number), image_chance(seed, epoch, number, AUGMENT))

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

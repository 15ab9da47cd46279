"""An image -> the store's pixels -> the network's input: the same code in training, Grad-CAM and runtime."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from evax.data.radiograph import Radiograph, checked_pixels
from evax.errors import ConfigError, DataError, unknown_name
from evax.published import MERGED_520K_MEAN, MERGED_520K_STD, Channels

logger = logging.getLogger("evax")
Pixels = TypeVar("Pixels", bound=Any)


@dataclass(frozen=True)
class Preprocess:
    """The chain every image goes through; its numbers travel with the weights.

    Source: EVA-X resizes to 336 x 336 bilinearly (aspect not kept) before it crops 224; its classifiers are
    normalised with the pixel statistics of Merged-520k.
    """

    store_size: int = 336
    """Side of the stored 8-bit image in pixels, 16 to 4096."""
    input_size: int = 224
    """Side of the network's input in pixels, 16 to 4096."""
    mean: Channels = MERGED_520K_MEAN
    """Mean of the pixels in [0, 1], subtracted; in [0, 1]. Three for weights made on colour pictures."""
    std: Channels = MERGED_520K_STD
    """Standard deviation of the pixels in [0, 1], divided by; in (0, 1]. As many as means."""
    resize_size: int | None = None
    """Side to which a stored image is resized, bicubic, before its central input_size square is cut out, in
    pixels, at least input_size; None: the whole image, bilinear.
    """
    bits: int | None = None
    """Depth, 8 to 16, of the pictures of integers of more than 8 bits that were learned from; see read_image.
    None: there were none, or they were several.
    """

    def __post_init__(self) -> None:
        for name, size in (("store_size", self.store_size), ("input_size", self.input_size)):
            if not 16 <= size <= 4096:
                raise ConfigError(f"{name} must lie between 16 and 4096 pixels, got {size}.")
        if self.resize_size is not None and not self.input_size <= self.resize_size <= 4096:
            raise ConfigError(
                f"resize_size must lie between input_size, {self.input_size}, and 4096 pixels, got "
                f"{self.resize_size}."
            )
        if self.bits is not None and not 8 <= self.bits <= 16:
            raise ConfigError(f"bits must lie between 8 and 16, got {self.bits}.")
        means, stds = map(_each, (self.mean, self.std))
        if len(means) != len(stds) or len(means) not in (1, 3):
            raise ConfigError(
                f"mean and std must be one number each, or three each, got {self.mean} and {self.std}."
            )
        if not all(0 <= mean <= 1 for mean in means):
            raise ConfigError(
                f"mean belongs to pixels in [0, 1] and must lie there, got {self.mean}; divide by 255?"
            )
        if not all(0 < std <= 1 for std in stds):
            raise ConfigError(
                f"std belongs to pixels in [0, 1] and must be in (0, 1], got {self.std}; divide by 255?"
            )

    def to_store(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """An image as the store keeps it: bilinear with antialias, aspect not kept, rounded to 8 bits.

        pixels: (H, W), floating-point in [0, 1]. Returns (S, S) with S = store_size.
        Raises DataError as `checked_pixels`.
        """
        side = (self.store_size, self.store_size)
        film = np.asarray(Image.fromarray(checked_pixels(pixels)).resize(side, Image.Resampling.BILINEAR))
        stored: npt.NDArray[np.uint8] = np.rint(film * 255).astype(np.uint8)
        return stored

    def view(self, film: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """A stored image at the network's input size, in 8 bits: all of it, or its centre.

        film: (S, S) uint8. Returns (s, s) with s = input_size.
        Raises DataError for anything but such an image.
        """
        if film.ndim != 2 or film.dtype != np.uint8:
            raise DataError(
                f"A stored image has shape (side, side) and type uint8, got {film.shape} and {film.dtype}: "
                "Preprocess.to_store makes one of an image's pixels."
            )
        if self.resize_size is None:
            return _resized(film, self.input_size, Image.Resampling.BILINEAR)
        start = self._border(self.resize_size)
        inside = slice(start, start + self.input_size)
        return _resized(film, self.resize_size, Image.Resampling.BICUBIC)[inside, inside]

    @property
    def seen(self) -> tuple[float, float]:
        """Where along each axis of an image the network looks: first and last place in fractions of it."""
        if self.resize_size is None:
            return 0.0, 1.0
        start = self._border(self.resize_size)
        return start / self.resize_size, (start + self.input_size) / self.resize_size

    def _border(self, side: int) -> int:
        return round((side - self.input_size) / 2)  # a half goes to the even number, as in torchvision

    def at(self, input_size: int) -> Preprocess:
        """The chain for another input size; a central crop belongs to its own size and is not taken along."""
        return (
            self if input_size == self.input_size else replace(self, input_size=input_size, resize_size=None)
        )

    def to_input(self, film: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """A stored image as the network sees it: its view in 8 bits, as the paper's loader, then normalised.

        film: (S, S) uint8. Returns (s, s) with s = input_size: (pixel / 255 - mean) / std. With three means
        it is (3, s, s).
        """
        return self.normalise(np.divide(self.view(film), 255, dtype=np.float32))

    def normalise(self, pixels: Pixels) -> Pixels:
        """Array or tensor of pixels in [0, 1] -> what the network sees, of the same kind.

        pixels: (H, W) or (..., 1, H, W). Returns the same shape, or (3, H, W) or (..., 3, H, W) with three
        means.
        """
        if not isinstance(self.mean, tuple) or not isinstance(self.std, tuple):
            normalised: Pixels = (pixels - self.mean) / self.std
            return normalised
        values = np.array([self.mean, self.std], np.float32)[:, :, None, None]  # (2, 3, 1, 1)
        # a tensor subtracts its own kind only, and this room knows no torch
        mean, std = pixels.new_tensor(values) if hasattr(pixels, "new_tensor") else values
        coloured: Pixels = (pixels - mean) / std
        return coloured

    def stored(self, radiograph: Radiograph) -> npt.NDArray[np.uint8]:
        """An image as the store keeps it, with a warning where its depth was guessed and is known here."""
        if self.bits and "narrow_range" in radiograph.issues:
            logger.warning(
                "The depth of an image was guessed (issue narrow_range), and the images of the training were "
                "read at %d bits: evax.read_image(path, bits=%d) reads it so, as a path in its place does.",
                self.bits, self.bits,
            )  # fmt: skip
        return self.to_store(radiograph.pixels)

    def to_network_input(self, radiograph: Radiograph) -> npt.NDArray[np.float32]:
        """An image as the network sees it, by way of the store's size and 8 bits, as in training."""
        return self.to_input(self.stored(radiograph))

    def to_json(self) -> dict[str, Any]:
        """The numbers and triples, for a card.

        A central crop and a depth in bits are mentioned only where there is one: an evax that knows none
        refuses such a card and reads all others.
        """
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Preprocess:
        """The chain of a card. Raises ConfigError unless it holds exactly what `to_json` writes."""
        names = [field.name for field in fields(cls)]
        always = [field.name for field in fields(cls) if field.default is not None]
        if unknown := sorted(set(content) - set(names)):
            raise unknown_name("preprocessing option", unknown[0], names)
        if missing := [name for name in always if name not in content]:
            raise ConfigError(
                f"The preprocessing of the card lacks {', '.join(missing)}: copy the card again."
            )
        for name, value in content.items():
            kinds = (int, float) if name in ("mean", "std") else (int,)
            if not all(type(number) in kinds for number in (value if _is_triple(value, name) else [value])):
                raise ConfigError(f"{name} of the card must be a number, whole for sizes, got {value!r}.")
        return cls(**(dict(content) | {name: _channels(content[name]) for name in ("mean", "std")}))


def _each(value: Channels) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _is_triple(value: Any, name: str) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and name in ("mean", "std")


def _channels(value: Any) -> Channels:
    if isinstance(value, list | tuple):
        red, green, blue = map(float, value)
        return red, green, blue
    return float(value)


def _resized(film: npt.NDArray[np.uint8], side: int, smoothing: Image.Resampling) -> npt.NDArray[np.uint8]:
    """The whole image at side x side; itself where it has that size."""
    if film.shape == (side, side):
        return film
    return np.asarray(Image.fromarray(film).resize((side, side), smoothing))


def on_film(values: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """What a network says of each place of its input, on an image of this shape (H, W): bilinear."""
    if values.shape == shape:
        return values
    picture = Image.fromarray(values.astype(np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))

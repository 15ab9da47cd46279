"""A store with masks, ready to learn from: what is known of each pixel, and crops of images with masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from PIL import Image

from evax.data.augment import AUGMENT, CROP, CropConfig, TrainingView, distorted, draw_crop, image_chance
from evax.data.store import ImageStore
from evax.errors import ConfigError, DataError, unknown_name
from evax.findings import as_spelled

UNKNOWN = 255  # of a pixel: neither inside nor outside; what mmsegmentation ignores, too

Rows = Int64[np.ndarray, " _"]


@dataclass(frozen=True, eq=False)
class MaskedData:
    """Train, validation and test images of a store with their masks, for one run."""

    store: ImageStore
    findings: tuple[str, ...]
    """Order of the network's outputs."""
    known: Bool[np.ndarray, "S K"]
    """Whether an image has a mask, or is labelled not to have the finding, so that all of it lies outside."""
    train: Rows
    pool: Rows
    """Rows of the train split; an epoch has as many, whatever share of the masks is used."""
    choosing: Rows
    """Rows that choose the checkpoint."""
    validation: Rows
    test: Rows

    @property
    def patients(self) -> np.ndarray:
        """Of each image of the store."""
        return self.store.manifest.table["patient"].to_numpy(dtype=str)

    def truth(self, row: int | np.integer) -> UInt8[np.ndarray, "K S S"]:
        """1 inside, 0 outside, UNKNOWN where nothing is known of the finding; at the store's size."""
        masks, size = self.store.masks(row), self.store.size
        truth = np.empty((len(self.findings), size, size), np.uint8)
        for k, finding in enumerate(self.findings):
            truth[k] = masks.get(finding, 0) if self.known[row, k] else UNKNOWN
        return truth


def findings_with_masks(store: ImageStore, findings: Sequence[str]) -> tuple[str, ...]:
    """These findings in this order; empty: all that the store has masks of.

    Raises DataError for a store without masks, ConfigError for a finding it has no mask of.
    """
    there = store.mask_findings()
    if not there:
        raise DataError(
            f"The store {store.path} has no masks. Prepare it from images with masks: --source masks "
            "(RAW/images and RAW/masks), siim, rsna, shenzhen or lungs."
        )
    chosen = tuple(as_spelled(name, there) for name in findings) or there
    if unknown := [name for name in chosen if name not in there]:
        raise unknown_name(f"finding with masks in {store.path}", unknown[0], there)
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"findings must be different ones, got {', '.join(chosen)}.")
    return chosen


def known_masks(store: ImageStore, findings: Sequence[str], with_absent: bool) -> Bool[np.ndarray, "S K"]:
    """Of which findings each image's pixels are known.

    with_absent: an image that is labelled not to have a finding is known to have none of it anywhere; without
    it, as in the paper, only images that have a mask are used.
    """
    known = np.zeros((len(store), len(findings)), dtype=bool)
    for k, name in enumerate(findings):
        known[store.masked_rows(name), k] = True
        if with_absent and name in store.manifest.findings:
            known[:, k] |= store.manifest.table[name].to_numpy(dtype=float) == 0
    return known


def findings_without_pixels(
    store: ImageStore, findings: Sequence[str], parts: Mapping[str, Rows]
) -> dict[str, str]:
    """Of these findings those that cannot be learned, chosen or tested: finding -> the first split in which
    no mask has a pixel.

    parts: name of the split -> its images.
    """
    lacking: dict[str, str] = {}
    for name in findings:
        masked = store.masked_rows(name)
        for split, rows in parts.items():
            if not any(store.masks(row)[name].any() for row in np.intersect1d(rows, masked)):
                lacking.setdefault(name, split)
    return lacking


def masked_view(films: MaskedData, size: int, crop: CropConfig, distort: bool, seed: int) -> TrainingView:
    """What training sees of images.train: a random crop of the image, and of its masks, (1 + K, size, size).

    distort: brightness and contrast of the image change, too.
    """

    def view(film: UInt8[np.ndarray, "S S"], epoch: int, number: int) -> UInt8[np.ndarray, "C s s"]:
        drawn = draw_crop(film.shape, size, crop, image_chance(seed, epoch, number, CROP))
        picture = drawn.cut(film, size, Image.Resampling.BICUBIC)
        if distort:
            picture = distorted(picture, image_chance(seed, epoch, number, AUGMENT))
        masks = (drawn.cut(mask, size, Image.Resampling.NEAREST) for mask in films.truth(films.train[number]))
        return np.stack([picture, *masks])

    return view

"""Images of stores without their labels, for pre-training: those outside the tests, and one chain for all."""

from __future__ import annotations

import logging
import math

from evax.data.loader import Films
from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore
from evax.errors import DataError

logger = logging.getLogger("evax")


def images_outside_tests(stores: list[ImageStore]) -> Films:
    """Every image that is not in the test split of its store. Raises DataError if there is none."""
    films = Films([(store, store.rows("train", "val")) for store in stores])
    if not len(films):
        raise DataError("The stores hold no image outside their test split: prepare them with test below 1.")
    return films


def common_preprocess(stores: list[ImageStore], image_size: int) -> Preprocess:
    """One chain for all stores, normalised with their common pixel mean and standard deviation.

    image_size: side of the network's input in pixels. Of stores read at several depths none is kept, with a
    warning.
    Raises DataError for stores that keep their images at different sizes.
    """
    if len(sizes := {store.size for store in stores}) > 1:
        raise DataError(
            f"The stores keep images at different sizes {sorted(sizes)}: prepare them with one --size."
        )
    depths = {store.bits for store in stores} - {None}
    if len(depths) > 1:
        logger.warning(
            "The stores read their pictures of more than 8 bits at different depths: %s. That is right where "
            "they come from such devices; otherwise prepare them with one --bits. The encoder keeps none of "
            "them and guesses the depth of a single picture.",
            ", ".join(f"{store.path} at {store.bits} bits" for store in stores if store.bits),
        )  # fmt: skip
    counts = [store.measured for store in stores]
    mean = sum(n * store.mean for n, store in zip(counts, stores, strict=True)) / sum(counts)
    square = sum(n * (store.std**2 + store.mean**2) for n, store in zip(counts, stores, strict=True)) / sum(
        counts
    )
    return Preprocess(
        store_size=stores[0].size,
        input_size=image_size,
        mean=mean,
        std=math.sqrt(square - mean**2),
        bits=depths.pop() if len(depths) == 1 else None,
    )

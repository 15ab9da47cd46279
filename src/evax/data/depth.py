"""How deep the pictures of a data set are: decided once for all, or a dark one would become brighter."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evax.data.pictures import is_deep, largest_deep_value
from evax.data.radiograph import MARKER, NEARLY_BLACK, usual_depth
from evax.data.workers import ImageReaders
from evax.errors import DataError

MOST_LOOKED_AT = 200  # pictures; each is decoded once more
FEW = 0.1  # share of the pictures that may be deeper than the data set is said to be

DARKER = 2  # so many bits fewer: white shows as a quarter

logger = logging.getLogger("evax")


def common_bits(files: Sequence[Path], readers: ImageReaders) -> int | None:
    """The depth at which all pictures of integers of more than 8 bits are read; None where there are none.

    The headers tell which pictures those are. Of these, up to MOST_LOOKED_AT are decoded, evenly along the
    list. Each needs the smallest of 8, 10, 12, 14 and 16 bits that holds all but the brightest MARKER of its
    pixels, so a marker burnt in at 65535 does not count. The data set has the largest depth that more than
    FEW of the pictures need, or any of fewer than ten: dark pictures lower it no more than a few foreign ones
    raise it. DICOM files are left out, because their headers state their depth.

    The result depends on files and their order alone. The log says what was decided, and warns where pictures
    of several depths seem to be mixed. Larger values become white when they are read, see read_image.
    """
    deep = [file for file in files if _is_deep(file)]
    looked_at = deep[:: -(-len(deep) // MOST_LOOKED_AT)] if deep else []
    needs = sorted(need for need in readers.each(_bits_needed, looked_at) if isinstance(need, int))
    if not needs:
        return None
    bits = needs[-1 - int(FEW * len(needs))]
    logger.info(
        "%d pictures have more than 8 bits; by %d of them, all are read as %d bits deep, white at %d. --bits "
        "names another depth.", len(deep), len(needs), bits, 2**bits - 1,
    )  # fmt: skip
    shallower = sum(need <= bits - DARKER for need in needs)
    # some dark pictures are nothing unusual
    if shallower > max(4, len(needs) / 4) or needs[0] <= bits - NEARLY_BLACK:
        counts = ", ".join(f"{count} need {need} bits" for need, count in Counter(needs).items())
        logger.warning(
            "The pictures seem to be of several depths: of %d, %s. All are read as %d bits deep, which shows "
            "shallower ones too dark. If they come from different devices, prepare each kind in a store "
            "of its own, with --bits.", len(needs), counts, bits,
        )  # fmt: skip
    return bits


def _is_deep(path: Path) -> bool:
    try:
        return is_deep(path)
    except DataError:  # it is rejected with its reason when it is read
        return False


def _bits_needed(path: Path) -> int | None:
    """Of a deep picture; None of one that is black or that read_image refuses."""
    try:
        largest = largest_deep_value(path, ignored=MARKER)
    except DataError:
        return None
    return usual_depth(largest) if largest else None

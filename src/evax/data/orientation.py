"""Does an image lie and look as a chest does, or turned or inverted?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 16
# The left half of the mean of 96 phantoms, 16 x 16, in hundredths of its length; the right half mirrors it:
# air around the shoulders, the lungs, the spine between them, the abdomen below. No patient's image is in it.
LEFT_HALF = (
    (-13, -12, -12, -12, -12, -10, -5, -1),
    (-11, -10, -10, -9, -9, -7, -3, 0),
    (-6, -5, -5, -4, -4, -3, -1, 1),
    (-3, -2, -2, -1, -2, -4, -2, 3),
    (-2, -1, 1, 1, -1, -1, 0, 7),
    (-4, -2, 2, 0, -1, 0, 1, 9),
    (-6, -3, 0, -2, -2, -1, 2, 9),
    (-6, -3, -1, -3, -2, -1, 4, 10),
    (-7, -2, -2, -3, -2, 1, 6, 10),
    (-7, -2, -2, -3, 0, 3, 6, 10),
    (-7, -2, -1, -1, 1, 4, 7, 10),
    (-7, -2, -1, 0, 4, 6, 7, 10),
    (-8, -2, 1, 4, 7, 8, 9, 11),
    (-8, -2, 3, 6, 8, 9, 10, 12),
    (-9, -2, 3, 6, 8, 10, 11, 12),
    (-9, -3, 3, 6, 8, 9, 10, 11),
)
LIKENESS, MARGIN = 0.35, 0.4  # measured, see docs/decisions.md


def orientation_issues(pixels: npt.NDArray[np.float32]) -> list[str]:
    """Says "looks_inverted" and "looks_rotated" of an image that is much liker a chest the other way round.

    pixels: (H, W) in [0, 1]; a picture below 64 pixels is too small to say. The image at 16 x 16, as ranks so
    that contrast does not matter, is correlated with a mean chest in its four quarter turns and both
    polarities. The best of the eight must reach LIKENESS and exceed the upright, uninverted one by MARGIN.
    """
    if min(pixels.shape) < 4 * SIDE:
        return []
    likenesses = _likenesses(pixels)  # an image inverted is as unlike as it was like
    both = np.concatenate([likenesses, -likenesses])
    best = int(both.argmax())
    if both[best] < LIKENESS or both[best] < both[0] + MARGIN:
        return []
    return ["looks_inverted"] * (best >= 4) + ["looks_rotated"] * (best % 4 != 0)


def _likenesses(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Correlation with the mean chest upright and turned by 90, 180 and 270 degrees; 0 for a blank image."""
    small = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX))
    _, inverse, counts = np.unique(small, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse.ravel()]  # averaged over ties: collimated borders
    if (spread := ranks.std()) == 0:
        return np.zeros(4)
    left = np.array(LEFT_HALF, dtype=np.float64)
    chest = np.hstack([left, left[:, ::-1]])
    chest = (chest - chest.mean()) / chest.std()
    turned = np.stack([np.rot90(chest, turns).ravel() for turns in range(4)])
    result: npt.NDArray[np.float64] = turned @ (ranks - ranks.mean()) / (spread * SIDE**2)
    return result

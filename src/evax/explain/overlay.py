"""Heat maps and boxes drawn on films."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageOps

# three colours of matplotlib's inferno, which a machine that only predicts has not
COLD, WARM, HOT = "#000004", "#bc3754", "#fcffa4"
BOX_COLOUR = (0, 200, 255)  # visible on grey and on the map, also to colour-blind readers


def overlay(
    pixels: Float[np.ndarray, "H W"],
    heatmap: Float[np.ndarray, "H W"],
    boxes: Sequence[tuple[float, float, float, float]] = (),
    strength: float = 0.55,
    mask: Bool[np.ndarray, "H W"] | None = None,
) -> Image.Image:
    """The film beside the film with the map over it; boxes (x, y, width, height in fractions) on both, or the
    outline of a mask.

    pixels, heatmap: in [0, 1]. strength: opacity where the map is 1; where it is 0 the film shows unchanged.
    """
    grey = np.repeat(pixels[..., None], 3, axis=2)
    levels = Image.fromarray((heatmap * 255).round().astype(np.uint8))
    colours = np.asarray(ImageOps.colorize(levels, COLD, HOT, WARM), dtype=np.float32) / 255
    opacity = (strength * heatmap)[..., None]
    pictures = [grey, grey * (1 - opacity) + colours * opacity]
    if mask is not None:
        for picture in pictures:
            picture[outline(mask)] = np.array(BOX_COLOUR) / 255
    sheet = Image.fromarray((np.concatenate(pictures, axis=1) * 255).round().astype(np.uint8))
    height, width = pixels.shape
    draw = ImageDraw.Draw(sheet)
    for x, y, box_width, box_height in boxes:
        for shift in (0, width):
            corners = (
                shift + x * width,
                y * height,
                shift + (x + box_width) * width,
                (y + box_height) * height,
            )
            draw.rectangle(corners, outline=BOX_COLOUR, width=max(2, width // 200))
    return sheet


def outline(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The pixels of a mask of which a neighbour, above, below or beside, is outside."""
    wide = np.pad(mask, 1)
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask & ~inner

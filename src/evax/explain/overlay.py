"""Heat maps, boxes and the edges of masks drawn on images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageOps

from evax.data.radiograph import checked_pixels
from evax.errors import DataError

# three colours of matplotlib's inferno, which a machine that only predicts has not
COLD, WARM, HOT = "#000004", "#bc3754", "#fcffa4"
# Okabe and Ito's: told apart by colour-blind readers
EDGES = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
CALLED_EDGE, TRUE_EDGE = EDGES[:2]
BOX_COLOUR = (0, 200, 255)  # visible on grey and on the map, also to colour-blind readers


def overlay(
    pixels: Float[np.ndarray, "H W"],
    heatmap: Float[np.ndarray, "h w"],
    boxes: Sequence[tuple[float, float, float, float]] = (),
    strength: float = 0.55,
    mask: Bool[np.ndarray, "H W"] | None = None,
) -> Image.Image:
    """The image beside the image with the map over it; boxes (x, y, width, height in fractions) on both, or the
    outline of a mask.

    pixels, heatmap: in [0, 1]. strength: opacity where the map is 1; where it is 0 the image shows unchanged.
    Raises DataError for other values, and for a map of another shape than the image.
    """
    pixels, heatmap = checked_pixels(pixels), checked_pixels(heatmap)
    if heatmap.shape != pixels.shape:
        raise DataError(
            f"The map has shape {heatmap.shape} and the image {pixels.shape}: make it of this image with "
            "evax.grad_cam."
        )
    grey = np.repeat(pixels[..., None], 3, axis=2)
    levels = Image.fromarray((heatmap * 255).round().astype(np.uint8))
    colours = np.asarray(ImageOps.colorize(levels, COLD, HOT, WARM), dtype=np.float32) / 255
    opacity = (strength * heatmap)[..., None]
    pictures = [grey, grey * (1 - opacity) + colours * opacity]
    if mask is not None:
        for picture in pictures:
            picture[edge_of(mask)] = np.array(BOX_COLOUR) / 255
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


def outlined(
    pixels: Float[np.ndarray, "H W"],
    masks: Sequence[tuple[Bool[np.ndarray, "H W"], tuple[int, int, int]]],
) -> Image.Image:
    """The image with the edge of each mask in its colour; the later one lies above.

    pixels: in [0, 1], else DataError is raised. The lines are inside the masks, thicker on a large image.
    """
    picture = np.repeat((checked_pixels(pixels)[..., None] * 255).round().astype(np.uint8), 3, axis=2)
    for mask, colour in masks:
        picture[edge_of(mask, width=max(1, max(pixels.shape) // 250))] = colour
    return Image.fromarray(picture)


def outlined_and_named(
    pixels: Float[np.ndarray, "H W"], masks: Mapping[str, Bool[np.ndarray, "H W"]]
) -> Image.Image:
    """The image with the edges of several masks and, in their colours, their names. pixels: in [0, 1]."""
    colours = dict(zip(masks, itertools.cycle(EDGES), strict=False))
    picture = outlined(pixels, [(mask, colours[name]) for name, mask in masks.items()])
    draw, size = ImageDraw.Draw(picture), max(10, max(pixels.shape) // 40)
    for line, (name, colour) in enumerate(colours.items()):
        draw.text((size // 2, size // 2 + line * 1.3 * size), name, fill=colour, font_size=size)
    return picture


def edge_of(mask: Bool[np.ndarray, "H W"], width: int = 1) -> Bool[np.ndarray, "H W"]:
    """The pixels of a mask that have one outside it among the four beside them; with width such layers."""
    inside = mask
    for _ in range(width):
        around = np.pad(inside, 1)
        inside = inside & around[2:, 1:-1] & around[:-2, 1:-1] & around[1:-1, 2:] & around[1:-1, :-2]
    return mask & ~inside

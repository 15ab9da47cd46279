"""Films as small JPEG pictures that travel inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from evax.explain.overlay import BOX_COLOUR


def film_picture(
    pixels: UInt8[np.ndarray, "S S"],
    boxes: Sequence[tuple[float, float, float, float]] = (),
    side: int = 300,
) -> bytes:
    """A small JPEG of a stored film with its boxes (x, y, width, height in fractions)."""
    picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for x, y, width, height in boxes:
        corners = (x * side, y * side, (x + width) * side, (y + height) * side)
        draw.rectangle(corners, outline=BOX_COLOUR, width=3)
    return jpeg(picture)


def jpeg(picture: Image.Image) -> bytes:
    """A picture as JPEG, with its colours kept sharp."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=85, subsampling=0, optimize=True)
    return file.getvalue()


def data_uri(jpeg: bytes) -> str:
    """A picture that travels inside the page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"

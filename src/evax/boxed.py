"""Bundles that come with evax: an encoder, and an example classifier on it.

Read without torch.
"""

from __future__ import annotations

from pathlib import Path

BOXED = Path(__file__).parent / "weights" / "boxed"  # bundles that come with evax, by their names
DEFAULTS = {"eva_x_tiny_patch16_224": "evax_tiny_open"}  # encoder: what commands start from


def located(path: Path) -> Path:
    """The folder of a bundle that comes with evax, for its name; any other path as it is.

    An existing path goes before a name.
    """
    boxed = BOXED / path
    return boxed if not path.exists() and path.parent == Path() and (boxed / "card.json").is_file() else path


def boxed_names() -> list[str]:
    """Names of the bundles that come with evax."""
    return sorted(card.parent.name for card in BOXED.glob("*/card.json"))

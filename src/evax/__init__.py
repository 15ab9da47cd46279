"""evax: chest X-ray encoders pre-trained without labels (EVA-X, npj Digit. Med. 8:678, 2025).

Public names are imported when first used, so that `import evax` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from evax.options import CONFIGS

__version__ = "0.1.0"

_PUBLIC = {  # name: module that defines it
    "read_image": "evax.data.pictures",
    "Radiograph": "evax.data.radiograph",
    "open_store": "evax.data.store",
    "create_encoder": "evax.weights.encoders",
    "open_bundle": "evax.deploy.predictor",
    "grad_cam": "evax.explain.heatmap",
    **{command: f"evax.jobs.{command}" for command in CONFIGS},
    **{f"{command.capitalize()}Config": f"evax.options.{room}" for command, room in CONFIGS.items()},
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'evax' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

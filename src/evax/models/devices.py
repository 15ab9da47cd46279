"""Where networks run: the same choice in training, prediction and heat maps."""

from __future__ import annotations

import torch

CPU = torch.device("cpu")


def best_device() -> torch.device:
    """Returns an NVIDIA or Apple GPU where torch finds one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else CPU

"""WHAT A USER CHOOSES: the options of every command as frozen dataclasses. No torch, no pandas."""

from __future__ import annotations

import importlib
from typing import Any

CONFIGS = {  # command -> module here that defines its class, <Command>Config
    "demo": "results",
    "fetch": "data",
    "prepare": "data",
    "audit": "data",
    "describe": "data",
    "pretrain": "pretraining",
    "finetune": "adaptation",
    "embed": "results",
    "probe": "studies",
    "fewshot": "studies",
    "compare": "results",
    "crossvalidate": "studies",
    "segment": "adaptation",
    "localize": "results",
    "export": "results",
    "predict": "results",
    "zoo": "results",
    "recipes": "results",
}


def config_class(command: str) -> Any:
    """The class of a command's options, a key of CONFIGS."""
    module = importlib.import_module(f"evax.options.{CONFIGS[command]}")
    return getattr(module, f"{command.capitalize()}Config")

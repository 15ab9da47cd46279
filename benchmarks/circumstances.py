"""What every benchmark writes beside its numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from evax.runs.log import environment

RESULTS = Path(__file__).parent / "results"


def keep(name: str, question: str, measured: dict) -> None:
    """Writes results/<name>.json and shows it."""
    RESULTS.mkdir(exist_ok=True)
    content = {"question": question, **measured, "environment": environment()}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(content, indent=1) + "\n")

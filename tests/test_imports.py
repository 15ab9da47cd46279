"""Which room may import which, read from the syntax trees (imports inside functions included)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from evax.cli import COMMANDS

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "evax"
BASE = {"boxed", "errors", "findings", "config", "files", "published", "download", "rounding"}
LEARNING = {"data", "models", "evaluation", "options", "runs", "weights", "deploy", "pages"}
MAY_IMPORT = {  # besides itself and the base
    "data": set(), "models": set(), "evaluation": set(),
    "options": {"data", "evaluation"},
    "runs": {"options", "models"},
    "weights": {"models"},
    "explain": {"models", "data", "evaluation"},
    "deploy": {"models", "weights", "data", "explain", "evaluation"},
    "pages": {"runs", "evaluation", "explain", "data"},
    "comparison": {"pages", "runs", "evaluation", "models", "data", "options"},
    "adaptation": LEARNING,
    "pretraining": LEARNING | {"adaptation"},
    "jobs": LEARNING | {"explain", "comparison", "adaptation", "pretraining"},
    "cli": {"jobs", "options"}, "__main__": {"cli"},
}  # fmt: skip
COMPOSITE_JOBS = {"demo", "fewshot", "crossvalidate"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "evax":
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "evax")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return  # the public names, imported when first used
    for module in imported(path):
        other = module.split(".")[1] if "." in module else None
        if other is None or other in BASE:  # evax itself, for its version
            continue
        if room == other == "jobs":
            assert path.stem in COMPOSITE_JOBS, f"{path.name} imports another job {module}"
        elif room != other:
            assert other in MAY_IMPORT.get(room, ()), f"{room} may not import {module}"


def seconds(code, *arguments):
    """Of processor time: what a user waits for on a machine that does nothing else."""
    program = f"import time; start = time.process_time()\n{code}\nprint(time.process_time() - start)"
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return float(run.stdout.split()[-1])


def modules_after(code):
    program = f"import sys\n{code}\nprint()\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())  # a page of help before it may name a library


def test_importing_evax_is_quick_and_needs_no_torch():
    assert "torch" not in modules_after("import evax")
    assert any(seconds("import evax") < 0.3 for _ in range(3))


def test_reading_an_image_needs_neither_torch_nor_pandas():
    loaded = modules_after("import evax; evax.read_image")
    assert not loaded & {"torch", "pandas", "matplotlib", "timm"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_is_quick_and_imports_no_torch(command):
    code = f"import evax.cli\ntry:\n    evax.cli.run(['{command}', '--help'])\nexcept SystemExit:\n    pass"
    assert not modules_after(code) & {"torch", "pandas", "matplotlib", "timm", "scipy"}
    assert any(seconds(code) < 1.2 for _ in range(3))  # importing torch alone takes longer

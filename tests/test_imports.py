"""Which room may import which, read from the syntax trees (imports inside functions included)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from evax.cli import COMMANDS

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "evax"
FOR_ALL = {"errors", "findings", "config", "files", "published", "download", "rounding"}
MAY_IMPORT = {
    "errors": set(), "findings": set(), "published": set(), "files": {"errors"}, "config": {"errors"},
    "download": {"errors"},
    "data": set(), "models": set(), "evaluation": set(),
    "weights": {"models"},
    "training": {"models", "data", "evaluation"},
    "explain": {"models", "data"},
    "deploy": {"models", "weights", "data", "explain", "evaluation"},
    "reporting": {"evaluation", "explain", "data"},
    "jobs": {"data", "models", "weights", "training", "evaluation", "explain", "deploy", "reporting"},
    "cli": {"jobs"}, "__main__": {"cli"},
}  # fmt: skip
COMPOSITE_JOBS = {"demo", "fewshot", "crossvalidate"}
# no jobs: they have no command
SHARED_BY_JOBS = {
    "evax.jobs.studies", "evax.jobs.shares", "evax.jobs.finetuned", "evax.jobs.probed", "evax.jobs.localized",
    "evax.jobs.predictions", "evax.jobs.resuming", "evax.jobs.pretrained",
}  # fmt: skip
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
        parts = module.split(".")
        other = parts[1] if len(parts) > 1 else None
        if other in FOR_ALL or other == room != "jobs":
            continue
        if other is None:
            continue  # evax itself, for its version
        if room == "jobs" and other == "jobs":
            if module in SHARED_BY_JOBS:
                continue
            assert path.stem in COMPOSITE_JOBS, f"{path.name} imports another job {module}"
            continue
        assert other in MAY_IMPORT[room], f"{room} may not import {module}"


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
    assert min(seconds("import evax") for _ in range(3)) < 0.3


def test_reading_a_film_needs_neither_torch_nor_pandas():
    loaded = modules_after("import evax; evax.read_image")
    assert not loaded & {"torch", "pandas", "matplotlib", "timm"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_is_quick_and_imports_no_torch(command):
    code = f"import evax.cli\ntry:\n    evax.cli.run(['{command}', '--help'])\nexcept SystemExit:\n    pass"
    assert not modules_after(code) & {"torch", "pandas", "matplotlib", "timm", "scipy"}
    assert min(seconds(code) for _ in range(3)) < 0.6

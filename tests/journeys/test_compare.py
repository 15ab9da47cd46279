"""Two fine-tunings and a sweep on phantoms, compared through the real command line."""

import json
import subprocess
import sys

import pytest

SMALL = (
    "--image-size", "64", "--steps", "4", "--batch-size", "4", "--validate-every", "4", "--resamples", "20",
    "--workers", "1", "--precision", "fp32", "--compile", "off",
)  # fmt: skip


def evax_commands(*commands, cwd):
    """Several commands in one process: most of their time is importing torch."""
    program = (
        "import evax.cli, sys\nfor each in {!r}:\n    status = evax.cli.run(list(each))\nsys.exit(status)"
    )
    run = [sys.executable, "-c", program.format(commands)]
    return subprocess.run(run, capture_output=True, text=True, check=False, cwd=cwd)


def test_runs_of_the_command_line_are_compared_and_other_protocols_refused(phantom_store, tmp_path):
    store = str(phantom_store)
    done = evax_commands(
        ["finetune", store, "--out", "first", *SMALL],
        ["finetune", store, "--out", "second", "--optimizer.lr", "1e-2", *SMALL],
        ["fewshot", store, "--out", "sweep", "--fractions", "0.5", "--seeds", "0", "1", *SMALL],
        ["finetune", store, "--out", "f1", "--thresholds", "f1", *SMALL],
        ["compare", "first", "second", "sweep", "--out", "compared", "--resamples", "50", "--repeats", "1"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "compared/compare.html"
    content = json.loads((tmp_path / "compared" / "compare.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["first", "second", "sweep, 50 %"]
    report = json.loads((tmp_path / "second" / "report.json").read_text())
    assert content["rows"][1]["mauc"]["value"] == pytest.approx(report["test_metrics"]["mauc"]["value"])
    assert content["rows"][2]["seeds"] == [0, 1]
    for name in ("findings", "parameters", "few-labels"):
        for kind in ("svg", "png", "csv"):
            assert (tmp_path / "compared" / f"{name}.{kind}").stat().st_size > 0
    refused = evax_commands(["compare", "first", "f1", "--out", "other"], cwd=tmp_path)
    assert refused.returncode == 1
    assert "thresholds chosen on is 'validation (Youden)' in the first and 'validation (largest F1)'" in (
        refused.stderr
    )

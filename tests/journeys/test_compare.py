"""A fine-tuning and a sweep on phantoms, compared through the real command line."""

import json
import subprocess
import sys

import pytest

SMALL = (
    "--image-size", "32", "--steps", "2", "--batch-size", "4", "--validate-every", "2", "--resamples", "20",
    "--workers", "1", "--precision", "fp32", "--compile", "off",
)  # fmt: skip


def evax_commands(*commands, cwd):
    """Several commands in one process, which imports torch once; the last line is their statuses."""
    program = f"import evax.cli\nprint([evax.cli.run(each) for each in {[list(each) for each in commands]}])"
    run = [sys.executable, "-c", program]
    return subprocess.run(run, capture_output=True, text=True, check=True, cwd=cwd)


def test_runs_of_the_command_line_are_compared_and_other_protocols_refused(phantom_store, tmp_path):
    store = str(phantom_store)
    done = evax_commands(
        ["finetune", store, "--out", "first", *SMALL],
        ["finetune", store, "--out", "f1", "--thresholds", "f1", *SMALL],
        ["fewshot", store, "--out", "sweep", "--fractions", "0.5", "--seeds", "0", "1", *SMALL],
        ["compare", "first", "sweep", "--out", "compared", "--resamples", "50", "--repeats", "1"],
        ["compare", "first", "f1", "--out", "other"],
        cwd=tmp_path,
    )
    *_, page, statuses = done.stdout.splitlines()
    assert (page, statuses) == ("compared/compare.html", "[0, 0, 0, 0, 1]"), done.stderr
    content = json.loads((tmp_path / "compared" / "compare.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["first", "sweep, 50 %"]
    report = json.loads((tmp_path / "first" / "report.json").read_text())
    assert content["rows"][0]["mauc"]["value"] == pytest.approx(report["test_metrics"]["mauc"]["value"])
    assert content["rows"][1]["seeds"] == [0, 1]
    assert content["differences"][0]["reference"] == "first"
    for name in ("findings", "parameters", "few-labels"):
        for kind in ("svg", "png", "csv"):
            assert (tmp_path / "compared" / f"{name}.{kind}").stat().st_size > 0
    assert "thresholds chosen on is 'validation (Youden)' in the first and 'validation (largest F1)'" in (
        done.stderr
    )

"""What the default recipe promises, on films of patients it never saw."""

import json
import subprocess
import sys

import pytest


@pytest.mark.long
def test_the_default_demo_learns_the_findings_and_looks_where_they_are(tmp_path):
    # in a process of its own: shape checks, which the tests switch on, do not go with compiled networks
    command = [sys.executable, "-c", "import evax.cli; evax.cli.main()", "demo", "--out", "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((tmp_path / "run" / "finetune" / "report.json").read_text())["test_metrics"]
    assert metrics["mauc"]["findings_entered"] == 5
    assert metrics["mauc"]["value"] >= 0.95
    pointing = json.loads((tmp_path / "run" / "localize" / "report.json").read_text())["pointing"]
    assert sum(row["rate"] >= 0.8 for row in pointing) >= 2
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000

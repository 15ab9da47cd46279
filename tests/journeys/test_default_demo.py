"""What the default recipe promises, on films of patients it never saw."""

import json

import pytest

from evax.cli import run


@pytest.mark.long
def test_the_default_demo_learns_the_findings_and_looks_where_they_are(tmp_path):
    assert run(["demo", "--out", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run" / "finetune" / "report.json").read_text())["test_metrics"]
    assert metrics["mauc"]["findings_entered"] == 5
    assert metrics["mauc"]["value"] >= 0.95
    pointing = json.loads((tmp_path / "run" / "localize" / "report.json").read_text())["pointing"]
    assert sum(row["rate"] >= 0.8 for row in pointing) >= 2
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000

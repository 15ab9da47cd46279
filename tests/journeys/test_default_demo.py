"""What the default recipe promises, on images of patients it never saw."""

import json
import re
import subprocess
import sys

import pytest


@pytest.mark.long
def test_the_default_demo_learns_the_findings_and_links_every_page(tmp_path):
    # in a process of its own: shape checks, which the tests switch on, do not go with compiled networks
    command = [sys.executable, "-c", "import evax.cli; evax.cli.main()", "demo", "--out", "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    run = tmp_path / "run"
    metrics = json.loads((run / "finetune" / "report.json").read_text())["test_metrics"]
    assert metrics["mauc"]["findings_entered"] == 5
    assert metrics["mauc"]["value"] >= 0.90
    assert len(json.loads((run / "localize" / "report.json").read_text())["pointing"]) == 5
    assert len(list((run / "heatmaps").glob("*.png"))) >= 40
    page = (run / "report.html").read_text()
    for place in ("pretrain", "probe", "finetune", "localize"):
        assert f'href="{place}/report.html"' in page
    links = re.findall(r'href="([^"#:]+)"', page)
    assert all((run / link).is_file() for link in links), links

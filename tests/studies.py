"""What the tests of all studies share: small options, the results of a study, and checks of its files."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

from evax.config import parse_command_line

SMALL = {
    "image_size": 64, "batch_size": 4, "resamples": 20, "workers": 1, "precision": "fp32", "compile": "off",
}  # fmt: skip


def content_of(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def copy_of(config, tmp_path: Path):
    """A copy of a finished study, to be resumed."""
    return replace(config, out=Path(shutil.copytree(config.out, tmp_path / "run")), resume=True)


def write_times(config, pattern: str = "runs/*/report.json") -> dict[Path, int]:
    """When each of these files of the study was written."""
    return {path: path.stat().st_mtime_ns for path in config.out.glob(pattern)}


def check_study_page(config, command: str, means: list[float], runs: int) -> str:
    """Checks config.yaml and report.html of a study and returns the page.

    means: that its table shows. runs: that it lists.
    """
    recipe = ["--recipe", str(config.out / "config.yaml")]
    assert parse_command_line(type(config), recipe, f"evax {command}") == config
    source = (config.out / "report.html").read_text(encoding="utf-8")
    page = html.unescape(source)
    words = re.search(r"<pre><code>(.*?)</code>", page)[1]
    evax, name, *arguments = shlex.split(words)
    assert (evax, name) == ("evax", command)
    assert parse_command_line(type(config), arguments, f"evax {command}") == config
    assert [mean for mean in means if f">{mean:.3f}" not in page] == []
    links = re.findall(r'<th scope="row"><a href="(runs/[^"]+)">', source)
    assert len(links) == runs
    assert all((config.out / link).is_file() for link in links)
    assert all(Path(link).name == "report.html" for link in links)
    own = (config.out / links[0]).parent
    result = next(own / name for name in ("report.json", "crossvalidate.json") if (own / name).is_file())
    fingerprint = content_of(result)["data_fingerprint"]
    assert fingerprint.partition("+")[0] in page  # a fold adds its table's
    assert content_of(config.out / "environment.json")["evax"] in page
    assert source.count("<svg") == 1
    assert not re.search(r'(?:src|href)="(?:https?:|/)', source)
    return page

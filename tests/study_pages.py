"""What the page of every study must have, whichever command made it."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path

from evax.config import parse_command_line


def check_study_page(config, command: str, means: list[float], runs: int) -> str:
    """Reads OUT/report.html and returns it. means: that its table shows. runs: that it lists."""
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
    fingerprint = json.loads(result.read_text())["data_fingerprint"]
    assert fingerprint.partition("+")[0] in page  # a fold adds its table's
    assert json.loads((config.out / "environment.json").read_text())["evax"] in page
    assert source.count("<svg") == 1
    assert not re.search(r'(?:src|href)="(?:https?:|/)', source)
    return page

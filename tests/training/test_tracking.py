from dataclasses import dataclass

import pytest

from evax.errors import ConfigError
from evax.training.tracking import read_events, start_run


@dataclass(frozen=True)
class Options:
    seed: int = 3


def test_a_run_that_was_killed_before_it_began_can_be_started_again_and_a_begun_one_only_resumed(tmp_path):
    (tmp_path / "environment.json").write_text("{")
    (tmp_path / ".config.yaml.unfinished").write_text("see")
    with pytest.raises(ConfigError, match="There is no run to resume"):
        start_run(tmp_path, Options(), resume=True)
    start_run(tmp_path, Options(), resume=False)
    assert (tmp_path / "config.yaml").read_text() == "seed: 3\n"
    with pytest.raises(ConfigError, match="exists"):
        start_run(tmp_path, Options(), resume=False)
    start_run(tmp_path, Options(), resume=True)


def test_a_line_that_broke_off_is_no_event(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_events(path, "start") == []
    path.write_text('{"event": "start", "step": 1}\n{"event": "sta')
    assert read_events(path, "start") == [{"event": "start", "step": 1}]

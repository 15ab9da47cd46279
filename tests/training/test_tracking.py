from dataclasses import dataclass

import pytest

from evax.errors import ConfigError, DataError
from evax.training.tracking import read_events, run_folder, start_run


@dataclass(frozen=True)
class Options:
    seed: int = 3


@dataclass(frozen=True)
class Continued(Options):
    resume: bool = False


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


def test_resume_is_offered_only_where_it_exists(tmp_path):
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ConfigError, match=r"Choose another --out, continue with --resume, or delete it"):
        start_run(tmp_path, Continued(), resume=False)
    for config, resume in ((Options(), False), (Continued(), None)):
        with pytest.raises(ConfigError, match=r"Choose another --out, or delete it"):
            start_run(tmp_path, config, resume)


def test_a_folder_in_which_nothing_was_begun_is_taken_away_and_any_other_is_kept(tmp_path):
    def fail(out, begun, resume=False):
        with run_folder(out, Continued(), resume):
            (out / begun).mkdir()
            raise DataError("no")

    start_run(tmp_path / "before", Continued(), resume=False)
    for name, begun, resume, kept in (
        ("fold", "folds", False, False),
        ("run", "runs", False, True),
        ("before", "folds", True, True),
    ):
        with pytest.raises(DataError, match="no"):
            fail(tmp_path / name, begun, resume)
        assert (tmp_path / name).exists() == kept


def test_a_line_that_broke_off_is_no_event(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_events(path, "start") == []
    path.write_text('{"event": "start", "step": 1}\n{"event": "sta')
    assert read_events(path, "start") == [{"event": "start", "step": 1}]

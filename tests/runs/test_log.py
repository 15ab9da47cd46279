import json
from dataclasses import dataclass

import pytest

from evax.errors import ConfigError, DataError
from evax.files import LOCK
from evax.runs.log import Mirror, RunLog, run_folder, start_run


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
            (out / begun).mkdir(parents=True)
            raise DataError("no")

    start_run(tmp_path / "before", Continued(), resume=False)
    for name, begun, resume, kept in (
        ("fold", "folds", False, False),
        ("run", "runs/seed-0", False, True),
        ("refused", "runs", False, False),
        ("before", "folds", True, True),
    ):
        with pytest.raises(DataError, match="no"):
            fail(tmp_path / name, begun, resume)
        assert (tmp_path / name).exists() == kept


def test_a_run_holds_its_folder_until_it_ends_or_fails(tmp_path):
    out = tmp_path / "run"
    with run_folder(out, Continued()) as log:
        log.write("seed")
        with pytest.raises(DataError, match="Another run is writing"):
            start_run(out, Continued(), resume=True)
    with pytest.raises(DataError, match="no") as kept, run_folder(out, Continued(), resume=True):
        raise DataError("no")
    with start_run(out, Continued(), resume=True):
        pass
    assert kept  # and with it all that the failed run held
    assert [line["event"] for line in map(json.loads, (out / "log.jsonl").read_text().splitlines())] == [
        "seed", "resume", "resume"
    ]  # fmt: skip
    assert not (out / LOCK).exists()


def test_a_run_that_is_refused_touches_nothing_of_the_one_that_writes(tmp_path):
    begun = []

    class Other(Mirror):
        def begin(self, out, config, resume):
            begun.append(out)

        def write(self, line):
            pass

        def end(self, error):
            pass

    with start_run(tmp_path, Continued(), resume=False):
        (tmp_path / "log.jsonl").write_text('{"event": "step", "hal')  # it is in the middle of a line
        with pytest.raises(DataError, match="Another run is writing"):
            start_run(tmp_path, Continued(), resume=True, mirrors=[Other()])
        assert (tmp_path / "log.jsonl").read_text() == '{"event": "step", "hal'
    assert not begun


def test_the_seconds_of_earlier_parts_are_those_of_their_last_lines(tmp_path):
    seconds = [("start", 2), ("step", 10), ("resume", 0.1), ("start", 3), ("resume", 0.2), ("step", 100)]
    lines = [json.dumps({"event": event, "seconds": value}) for event, value in seconds]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert RunLog(tmp_path / "log.jsonl").seconds_before() == 13
    (tmp_path / "log.jsonl").write_text("\n".join(lines[2:3]) + "\n")  # killed before its first line
    assert RunLog(tmp_path / "log.jsonl").seconds_before() == 0

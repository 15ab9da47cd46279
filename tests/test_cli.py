import subprocess
import sys

import pytest

import evax
from evax.cli import COMMANDS, run


def evax_command(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "import evax.cli; evax.cli.main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_every_command(capsys):
    assert run(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(name in page for name in COMMANDS)


def test_an_unknown_command_is_wrong_usage_and_suggests_the_nearest():
    done = evax_command("pretrian")
    assert done.returncode == 2
    assert "Did you mean 'pretrain'?" in done.stderr


def test_a_user_s_mistake_is_one_line_with_status_1_and_no_traceback(tmp_path):
    done = evax_command("pretrain", str(tmp_path / "nothing"), "--out", str(tmp_path / "run"))
    assert done.returncode == 1
    assert done.stderr.startswith("evax pretrain: ")
    assert "nothing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_wrong_option_is_wrong_usage():
    assert evax_command("pretrain", "s", "--out", "o", "--mask-ration", "0.3").returncode == 2


def test_the_version_is_printed():
    assert evax_command("--version").stdout.strip() == f"evax {evax.__version__}"


@pytest.fixture
def process(monkeypatch, tmp_path):
    """Runs a command as one of the processes that torchrun started."""

    def as_process(rank, *arguments, processes=2):
        error_file = tmp_path / "attempt_0" / str(rank) / "error.json"
        error_file.parent.mkdir(parents=True, exist_ok=True)
        for name, value in {
            "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_ERROR_FILE": str(error_file),
            "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "RANK": str(rank),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        return run(list(arguments))

    return as_process


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"pretrain"}))
def test_torchrun_is_refused_by_a_command_that_shares_no_work_before_it_touches_a_folder(
    process, tmp_path, capsys, command
):
    assert process(0, command, str(tmp_path / "films"), "--out", str(tmp_path / "out")) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"evax {command}: torchrun started 2 processes, and only evax pretrain shares its")
    assert said.endswith("Start this command without torchrun.\n")
    assert not (tmp_path / "out").exists()


def test_one_process_of_torchrun_is_none_of_several(process, capsys):
    assert process(0, "recipes", processes=1) == 0
    assert "pretrain/" in capsys.readouterr().out


def test_an_error_of_any_process_of_torchrun_is_said_and_a_common_one_once(process, tmp_path, capsys):
    common = ("pretrain", str(tmp_path / "nothing"), "--out", str(tmp_path / "run"))
    assert process(1, *common) == 1
    assert capsys.readouterr().err.count(f"There is no store at {tmp_path / 'nothing'}") == 1
    assert process(0, *common) == 1
    assert capsys.readouterr().err == ""
    assert process(1, "pretrain", str(tmp_path / "other"), "--out", str(tmp_path / "run")) == 1
    assert f"There is no store at {tmp_path / 'other'}" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in evax.__all__ if not name.startswith("_")])
def test_every_public_name_can_be_imported(name):
    assert getattr(evax, name) is not None


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'pretrainn'"):
        evax.pretrainn  # noqa: B018

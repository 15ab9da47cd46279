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


@pytest.mark.parametrize("name", [name for name in evax.__all__ if not name.startswith("_")])
def test_every_public_name_can_be_imported(name):
    assert getattr(evax, name) is not None


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'pretrainn'"):
        evax.pretrainn  # noqa: B018

import fcntl
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from evax.errors import DataError
from evax.files import LOCK, FolderLock, read_json, read_lines, replaced_whole, save_tensors, write_json

HOLDER = """
import sys, time
from pathlib import Path
from evax.files import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_json({"a": 1}, path)
    with pytest.raises(RuntimeError, match="in the middle"), replaced_whole(path) as unfinished:  # noqa: PT012
        unfinished.write_text("half")
        raise RuntimeError("in the middle")
    assert read_json(path) == {"a": 1}
    assert [item.name for item in path.parent.iterdir()] == ["file.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"x.json could not be written"):
        write_json({}, tmp_path / "file" / "x.json")


def test_nan_never_reaches_a_json_file(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"a": float("nan")}, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match=r"x.json cannot be read as JSON"):
        read_json(tmp_path / "x.json")


def test_a_folder_has_one_writer_until_it_is_done_or_killed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(DataError, match=r"Another run is writing .*: wait for it, stop it, or"):
        FolderLock(tmp_path)
    process.kill()
    process.communicate()
    with FolderLock(tmp_path), pytest.raises(DataError, match="Another run is writing"):
        FolderLock(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_lock_that_nobody_keeps_is_given_back(tmp_path):
    FolderLock(tmp_path)
    lock = FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path)
    lock.release()  # no second time: it would take the next one's file away
    with FolderLock(tmp_path):
        lock.release()
        assert (tmp_path / LOCK).exists()


def test_a_folder_that_cannot_be_locked_is_written_with_a_warning_and_one_that_is_missing_is_refused(
    tmp_path, monkeypatch, caplog
):
    def no_locks(file, operation):
        raise OSError(37, "No locks available")

    with pytest.raises(DataError, match="none cannot be written into: No such file"):
        FolderLock(tmp_path / "none")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with FolderLock(tmp_path):
        assert "cannot be locked (No locks available): let no second run write there" in caplog.text


@pytest.mark.parametrize("damage", [b'{"event": "st', b"\xff\x00", b"5", b'{"step": 3}', b""])
def test_a_damaged_line_of_a_log_is_named_and_one_that_broke_off_at_its_end_forgiven(tmp_path, damage):
    path, line = tmp_path / "log.jsonl", b'{"event": "step", "step": 1}\n'
    assert read_lines(path) == []
    path.write_bytes(line + line + damage)
    assert read_lines(path) == [{"event": "step", "step": 1}] * 2
    path.write_bytes(line + damage + b"\n" + line)
    with pytest.raises(DataError, match=r"log\.jsonl, line 2, is not a JSON object .* Mend that line"):
        read_lines(path)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
def test_a_safetensors_file_depends_on_its_content_alone(metadata):
    """In whatever order the metadata were given; safetensors itself writes them in a random order."""
    with tempfile.TemporaryDirectory() as folder:
        path, other = Path(folder) / "a.safetensors", Path(folder) / "b.safetensors"
        save_tensors({"x": torch.ones(3), "y": torch.zeros(2, 2)}, path, metadata)
        save_tensors({"y": torch.zeros(2, 2), "x": torch.ones(3)}, other, dict(reversed(metadata.items())))
        assert path.read_bytes() == other.read_bytes()
        with safe_open(path, "pt") as file:
            assert (file.metadata() or {}) == metadata
            assert torch.equal(file.get_tensor("x"), torch.ones(3))

import pytest

from evax.errors import DataError
from evax.files import read_json, replaced_whole, write_json


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

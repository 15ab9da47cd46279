"""Which files of a folder are looked at."""

from __future__ import annotations

from evax.data.films import files_below


def test_linked_folders_are_read_and_none_of_them_twice_or_for_ever(tmp_path):
    (inside := tmp_path / "in").mkdir()
    (outside := tmp_path / "out").mkdir()
    for path in (inside / "b.png", outside / "c.png"):
        path.touch()
    (inside / "a-link").symlink_to(outside)
    (inside / "z-link").symlink_to(outside)
    (outside / "round").symlink_to(inside)
    (inside / "broken.png").symlink_to(tmp_path / "nowhere.png")
    assert [path.relative_to(inside).as_posix() for path in files_below(inside)] == ["a-link/c.png", "b.png"]

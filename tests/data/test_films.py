"""Which files of a folder are looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import BasicTextSRStorage
from tests.dicoms import SECRET, film, write

from evax.data.films import count_images, files_below, find_images, kind_of_other
from evax.errors import DataError


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


@pytest.fixture
def mixed(tmp_path):
    """An image, and files of many kinds whose names are a person's."""
    write(tmp_path / "film", film(8))
    write(tmp_path / "DICOMDIR", film(8))
    for name, content in {
        "report.PDF": b"%PDF-1.7", SECRET: b"%PDF-1.4", "list.csv": b"a,b", f"film.{SECRET}": b"\x08\0",
        "movie.webp": b"RIFF", "NOTES": b"no film, only text that is long enough to be looked into",
        "cut.JP2": b"",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_what_is_no_image_is_counted_by_kind_in_one_warning_without_a_name(mixed, caplog):
    assert count_images((mixed,)) == 1
    assert [path.name for path in find_images((mixed,))] == ["film"]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"{mixed}: 8 files are no images and are passed over: 2 PDF, ")
    assert set(warning.split(": ", 2)[2].rstrip(".").split(", ")) == {
        "2 PDF", "1 .csv", "1 .jp2", "1 .webp", "1 DICOMDIR", "1 no suffix", "1 unknown",
    }  # fmt: skip
    assert SECRET not in warning


def test_a_folder_of_images_alone_needs_no_warning_and_one_without_images_tells_its_kinds(mixed, caplog):
    count_images((mixed / "film",))
    assert not caplog.text
    (mixed / "film").unlink()
    with pytest.raises(DataError, match="No image found"):
        count_images((mixed,))
    assert "8 files are no images" in caplog.text


def test_a_file_that_may_not_be_read_is_counted_like_any_other(mixed, monkeypatch):
    """Root may read everything, so permission is denied by hand."""
    real = Path.open

    def denied(path, *arguments, **options):
        if path.suffix == ".PDF":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    assert kind_of_other(mixed / "report.PDF") == ".pdf"
    assert count_images((mixed,)) == 1


def test_a_dicom_without_pixels_is_called_by_its_class(tmp_path):
    path = write(tmp_path / "a", film(8), SOPClassUID=BasicTextSRStorage, remove=["Rows", "PixelData"])
    assert kind_of_other(path) == "Basic Text SR Storage"
    write(path, film(8), SOPClassUID="1.2.3.99", remove=["Rows", "PixelData"])
    assert kind_of_other(path) == "DICOM without pixels"

"""Commands that messages tell a user to run."""

import importlib.metadata
import json
import shlex
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from evax.errors import install_command, unknown_name


def installed_from(origin, folder, monkeypatch):
    """As if evax had been installed from there; None: from a package index."""
    info = folder / "evax-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evax\nVersion: 0.1.0\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        (None, None),
        ({"url": "file:///home/a%20b/evax", "dir_info": {}}, "file:///home/a%20b/evax"),
        ({"url": "https://x.org/evax-0.1.0-py3-none-any.whl", "archive_info": {}}, "https://x.org/evax-0.1.0-py3-none-any.whl"),
        (
            {"url": "https://x.org/evax.git", "vcs_info": {"vcs": "git", "commit_id": "a17afdd"}},
            "git+https://x.org/evax.git@a17afdd",
        ),
    ],
)  # fmt: skip
def test_a_missing_part_is_installed_from_where_evax_was(origin, address, tmp_path, monkeypatch):
    installed_from(origin, tmp_path, monkeypatch)
    program, command, words = shlex.split(install_command("export"))
    requirement = Requirement(words)
    assert (program, command, requirement.name) == ("pip", "install", "evax")
    assert (requirement.extras, requirement.url) == ({"export"}, address)


def test_a_missing_part_of_a_clone_is_installed_into_the_clone(tmp_path, monkeypatch):
    installed_from({"url": "file:///home/a%20b/evax", "dir_info": {"editable": True}}, tmp_path, monkeypatch)
    assert shlex.split(install_command("train")) == ["pip", "install", "-e", "/home/a b/evax[train]"]


def test_a_missing_part_of_a_clone_that_was_never_installed_is_installed_into_it(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    *_, words = shlex.split(install_command("train"))
    assert (Path(words.removesuffix("[train]")) / "src" / "evax").is_dir()


def test_a_name_that_is_no_text_is_unknown_like_any_other():
    assert str(unknown_name("encoder", None, ["a"])) == "No encoder is called 'None'. Known: a."

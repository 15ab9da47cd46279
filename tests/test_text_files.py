"""Text files are UTF-8 and names of files are what their bytes spell in UTF-8, in every locale."""

from __future__ import annotations

import ast
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evax import cli
from evax.config import read_recipe, write_recipe
from evax.data.store import open_store
from evax.errors import ConfigError
from evax.files import name_of, path_of, read_json, read_text, write_json, write_text
from evax.jobs.prepare import prepare
from evax.options.data import PrepareConfig
from evax.options.results import PredictConfig
from releases import film

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = [
    path for folder in ("src", "docs", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]
BOM = b"\xef\xbb\xbf"
LOCALE = "de_DE.ISO-8859-1"


def opens_text_in_the_locale_s_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text and does not say in which encoding."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if {"text", "universal_newlines"} & set(keywords):
        return True
    if isinstance(call.func, ast.Name) and call.func.id == "open":
        mode = call.args[1] if len(call.args) > 1 else keywords.get("mode")
    elif isinstance(call.func, ast.Attribute) and call.func.attr == "read_text":
        return not call.args  # the first argument of a path's is the encoding; a distribution's is UTF-8
    elif isinstance(call.func, ast.Attribute) and call.func.attr == "write_text":
        return True
    elif isinstance(call.func, ast.Attribute) and call.func.attr == "fdopen":
        mode = call.args[1] if len(call.args) > 1 else keywords.get("mode")
    elif isinstance(call.func, ast.Attribute) and call.func.attr == "open":
        if not call.args and call.keywords:  # of an archive, by keywords
            return False
        mode = call.args[0] if call.args else keywords.get("mode")
        if mode is not None and not isinstance(mode, ast.Constant):  # a picture or a member of an archive
            return False
    else:
        return False
    return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_is_opened_with_its_encoding(path):
    calls = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if opens_text_in_the_locale_s_encoding(call)]


@pytest.mark.parametrize(
    "code",
    ["open(p)", "open(p, 'w')", "p.open()", "p.read_text()", "p.write_text(x)", "run(c, text=1)"],
)  # fmt: skip
def test_the_check_of_encodings_sees_every_way_to_open_a_text(code):
    (call,) = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    assert opens_text_in_the_locale_s_encoding(call)


@given(st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name and b"\\udc" not in name))
def test_a_name_is_valid_text_and_leads_back_to_its_path(written):
    name = name_of(os.fsdecode(written))
    assert name.encode().decode() == name
    assert os.fsencode(path_of(name)) == written


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")))
def test_a_text_is_read_as_it_was_written_with_a_byte_order_mark_or_without(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "text.txt"
    write_text(text, path)
    assert path.read_bytes() == text.encode()
    path.write_bytes(BOM + text.encode())
    assert read_text(path) == text
    for encoding in ("utf-16-le", "utf-16-be"):
        path.write_bytes(f"\ufeff{text}".encode(encoding))
        assert read_text(path) == text


def test_what_utf_8_cannot_hold_is_written_as_an_escape(tmp_path):
    write_text("M\udcfcller", tmp_path / "text.txt")
    assert (tmp_path / "text.txt").read_bytes() == rb"M\udcfcller"
    write_json({"name": "肺"}, tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes(BOM + (tmp_path / "x.json").read_bytes())
    assert read_json(tmp_path / "x.json") == {"name": "肺"}


def test_a_recipe_may_have_a_byte_order_mark_and_keeps_paths_that_are_no_utf_8(tmp_path):
    folder = Path(os.fsdecode(b"/data/M\xfcller \xe8\x82\xba"))
    config = PredictConfig(bundle=folder, films=(folder, folder / "a.png"), out=folder / "x.csv")
    write_recipe(config, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_bytes()
    assert yaml.safe_load(text.decode())["bundle"] == r"/data/M\udcfcller 肺"
    (tmp_path / "config.yaml").write_bytes(BOM + text)
    values = read_recipe(tmp_path / "config.yaml", PredictConfig)
    assert (values["bundle"], values["films"]) == (folder, config.films)


def test_a_recipe_that_is_no_utf_8_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_bytes("raw: Köln".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8 text: .* Save it as UTF-8"):
        read_recipe(tmp_path / "x.yaml", PrepareConfig)


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_a_terminal_that_lacks_letters_is_shown_their_escapes(monkeypatch, encoding):
    shown = io.BytesIO()
    monkeypatch.setattr("evax.jobs.recipes.recipes", lambda config: "images of 肺 ┏━┓")
    monkeypatch.setattr(sys, "argv", ["evax", "recipes"])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding, write_through=True))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert shown.getvalue() == rb"images of \u80ba \u250f\u2501\u2513" + b"\n"


# --- real locales -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Class folders and images with names of several scripts; one name is no UTF-8, one image is damaged."""
    folder = tmp_path_factory.mktemp("raw") / "Köln 肺"
    for number in range(6):
        film(folder / "Größe" / f"é{number} 肺.png", number)
        film(folder / "ordinary" / f"{number}.png", number)
    shutil.copy(folder / "ordinary" / "0.png", os.fsencode(folder / "Größe") + b"/b\xf6r.png")
    (folder / "Größe" / "é肺 cut.png").write_bytes((folder / "ordinary" / "1.png").read_bytes()[:99])
    return folder


@pytest.fixture(scope="module")
def utf_8_store(raw):
    lists = raw.with_name("Listen é")
    lists.mkdir()
    names = [path.relative_to(raw).as_posix() for path in sorted(raw.rglob("*.png"))]
    for split, part in (("train", names[:7]), ("test", names[7:])):
        write_text("\n".join(map(name_of, part)), lists / f"{split}.txt")
    config = PrepareConfig(
        raw=raw, out=raw.with_name("store"), source="folders", lists=lists, size=16, workers=1
    )
    return prepare(config)


@pytest.fixture(params=["C", LOCALE])
def other_locale(request, tmp_path):
    """An environment with another encoding than UTF-8."""
    environment = os.environ | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": request.param}
    if request.param == LOCALE:
        if not shutil.which("localedef") or not Path("/usr/share/i18n/charmaps").is_dir():
            (pytest.fail if os.environ.get("CI") else pytest.skip)("needs localedef and Debian's locales")
        language, _, charset = LOCALE.partition(".")
        command = ["localedef", "-i", language, "-f", charset, str(tmp_path / LOCALE)]
        subprocess.run(command, check=True, capture_output=True)
        environment["LOCPATH"] = str(tmp_path)
    program = "import sys; print(sys.getfilesystemencoding())"
    seen = subprocess.check_output([sys.executable, "-c", program], env=environment)
    assert seen.strip().lower() in (b"ascii", b"iso8859-1", b"iso-8859-1")
    return environment


def test_a_recipe_and_images_give_the_same_store_in_every_locale(raw, utf_8_store, other_locale, tmp_path):
    lists = raw.with_name("Listen é")
    recipe = {"raw": str(raw), "out": str(tmp_path / "肺"), "source": "folders", "lists": str(lists)}
    recipe |= {"size": 16, "workers": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "evax", "prepare", "--recipe", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, env=other_locale, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    ours, theirs = open_store(utf_8_store), open_store(tmp_path / "肺")
    assert ours.manifest.findings == ("Größe", "ordinary")
    assert r"Größe/b\udcf6r.png" in set(ours.manifest.table["image"])
    assert ours.fingerprint == theirs.fingerprint
    assert ours.card == theirs.card
    rejected = [(folder / "rejected.csv").read_bytes() for folder in (utf_8_store, tmp_path / "肺")]
    assert rejected[0] == rejected[1]
    assert rejected[0].decode().startswith("image,reason\r\nGröße/é肺 cut.png,")

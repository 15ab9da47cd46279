"""Public sets over a real loopback server: downloaded, unpacked as evax prepare wants them, or how to ask."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

import evax
from evax.cli import run
from evax.data.unpack import unpack
from evax.errors import ConfigError, DataError
from evax.jobs.fetch import fetch
from evax.options.data import FetchConfig
from loopback import Server, serving

HANNOVER = "covid-19-image-repository-master"
DATA_CSV = """patient_id,image_id,sex,age,size,modality,projection
1,a,m,,,CR,ap
1,b,m,52,,DX,pa
2,c,f,40,,CR,ap
"""


def png(seed, white=None):
    """An image; or a mask, white within left, top, right, bottom."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 48), dtype=np.uint8)
    picture = Image.fromarray(pixels) if white is None else Image.new("L", (48, 48))
    if white is not None:
        picture.paste(255, white)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def zipped(files, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return file.getvalue()


def tarred(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return file.getvalue()


def hannover(films="abc"):
    files = {f"{HANNOVER}/png/{name}.png": png(number) for number, name in enumerate(films)}
    return zipped({f"{HANNOVER}/data.csv": DATA_CSV, f"{HANNOVER}/.gitignore": "x", **files})


@pytest.fixture
def server(monkeypatch, tmp_path):
    with serving(Server({f"{HANNOVER}.zip": hannover()})) as running:
        monkeypatch.setenv("EVAX_DATA_MIRROR", running.url)
        monkeypatch.setenv("EVAX_DATA", str(tmp_path / "cache"))
        yield running


def stored(source, raw, out):
    options = ["--source", source, "--raw", str(raw), "--out", str(out), "--size", "32", "--workers", "1"]
    assert run(["prepare", *options]) == 0
    return evax.open_store(out)


def test_hannover_is_fetched_and_prepared_with_its_patients(server, tmp_path, capfd, caplog):
    raw = tmp_path / "raw"
    with caplog.at_level("INFO"):
        assert run(["fetch", "hannover_covid19", "--out", str(raw)]) == 0
    assert capfd.readouterr().out.strip() == str(raw)
    assert f"Terms: CC BY 3.0. Next: evax prepare --source csv --raw {raw} --out STORE" in caplog.text
    assert sorted(path.name for path in raw.iterdir()) == ["data.csv", "fetched.json", "labels.csv", "png"]
    table = stored("csv", raw, tmp_path / "store").manifest.table
    assert table[["patient", "view", "sex", "COVID-19"]].to_numpy().tolist() == [
        ["1", "AP", "M", 1.0], ["1", "PA", "M", 1.0], ["2", "AP", "F", 1.0],
    ]  # fmt: skip
    recorded = json.loads((tmp_path / "cache" / "checksums.json").read_text())
    assert recorded[f"{HANNOVER}.zip"]["bytes"] == len(server.files[f"{HANNOVER}.zip"])
    before = len(server.ranges)
    fetch(FetchConfig(name="hannover_covid19", out=raw))
    assert len(server.ranges) == before, "what is finished is not asked for again"


def test_montgomery_s_lung_masks_are_where_prepare_looks_for_them(server, tmp_path):
    films = {f"MontgomerySet/CXR_png/MCUCXR_000{n}_0.png": png(n) for n in (1, 2)}
    left = {f"MontgomerySet/ManualMask/leftMask/MCUCXR_000{n}_0.png": png(n, (24, 0, 48, 48)) for n in (1, 2)}
    right = {
        f"MontgomerySet/ManualMask/rightMask/MCUCXR_000{n}_0.png": png(n, (0, 0, 24, 48)) for n in (1, 2)
    }
    server.files["NLM-MontgomeryCXRSet.zip"] = zipped(films | left | right | {"__MACOSX/._x.png": b"x"})
    raw = fetch(FetchConfig(name="montgomery", out=tmp_path / "raw"))
    masks = stored("masks", raw, tmp_path / "store").masks(0)
    assert set(masks) == {"Left Lung", "Right Lung"}
    assert masks["Left Lung"][:, 16:].all()
    assert not masks["Left Lung"][:, :16].any()


def test_the_archives_of_chestxray14_fill_one_folder_and_its_tables_are_asked_for(server, tmp_path, caplog):
    for number in range(1, 13):
        film = {f"images/{number:08d}_000.png": png(number)}
        server.files[f"images_{number:03d}.tar.gz"] = tarred(film)
    with caplog.at_level("INFO"):
        raw = fetch(FetchConfig(name="chestxray14", out=tmp_path / "raw"))
    assert len(list((raw / "images").iterdir())) == 12
    assert "By hand: the two tables and two lists are downloads of their own" in caplog.text


def test_a_broken_fetch_goes_on_where_it_stopped(server, tmp_path):
    films = {f"images/{number:08d}_000.png": png(number) for number in range(1, 13)}
    for number, (name, content) in enumerate(films.items(), 1):
        server.files[f"images_{number:03d}.tar.gz"] = tarred({name: content})
    last = server.files.pop("images_012.tar.gz")
    config = FetchConfig(name="chestxray14", out=tmp_path / "raw")
    with pytest.raises(DataError, match=r"404.*get images_012.tar.gz by hand .*into .*cache \(EVAX_DATA"):
        fetch(config)
    server.files["images_012.tar.gz"] = last
    asked = len(server.ranges)
    first = tmp_path / "raw" / "images" / "00000001_000.png"
    written = first.stat().st_mtime_ns
    fetch(config)
    assert len(server.ranges) == asked + 1
    assert first.stat().st_mtime_ns == written
    assert {f"images/{path.name}": path.read_bytes() for path in first.parent.iterdir()} == films


def test_an_archive_put_by_hand_is_used_and_nobody_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAX_DATA", str(tmp_path))
    monkeypatch.setenv("EVAX_DATA_MIRROR", "http://127.0.0.1:9")  # nobody listens
    (tmp_path / f"{HANNOVER}.zip").write_bytes(hannover())
    raw = fetch(FetchConfig(name="hannover_covid19", out=tmp_path / "raw"))
    assert len(list((raw / "png").iterdir())) == 3


def test_an_archive_that_changed_since_it_came_is_refused(server, tmp_path):
    fetch(FetchConfig(name="hannover_covid19", out=tmp_path / "raw"))
    (tmp_path / "cache" / f"{HANNOVER}.zip").write_bytes(hannover("abcd"))
    with pytest.raises(DataError, match="is not the file that came first.*unpack it and run"):
        fetch(FetchConfig(name="hannover_covid19", out=tmp_path / "other"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../outside.png": b"x"}, r"holds the file \.\./outside.png, outside its folder"),
        ({"/outside.png": b"x"}, "holds the file /outside.png, outside its folder"),
        (
            {"good.png": b"x", "../outside.png": b"x"},
            "outside its folder: .* Delete the archive and fetch it",
        ),
        ({"zeros.png": bytes(100_000)}, "far above its size"),
        ({"C:/outside.png": b"x"}, "outside its folder"),
        ({f"{number}.png": b"x" for number in range(6)}, "holds more than 5 files: it is not used"),
    ],
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_that_would_write_elsewhere_or_grow_without_end_is_not_used(
    pack, files, message, tmp_path, monkeypatch
):
    monkeypatch.setattr("evax.data.unpack.MOST_MORE", 1000)
    monkeypatch.setattr("evax.data.unpack.MOST_FILES", 5)
    (tmp_path / "archive").write_bytes(pack(files))
    with pytest.raises(DataError, match=message):
        unpack(tmp_path / "archive", tmp_path / "inside" / "folder")
    assert [path.name for path in tmp_path.rglob("*.png")] == []


def test_of_a_zip_that_is_refused_no_byte_is_ever_written(tmp_path, monkeypatch):
    monkeypatch.setattr("evax.data.unpack.replaced_whole", lambda path: pytest.fail(f"{path} is written"))
    (tmp_path / "archive").write_bytes(zipped({"good.png": b"x", "../outside.png": b"x"}))
    with pytest.raises(DataError, match="outside its folder"):
        unpack(tmp_path / "archive", tmp_path / "out")


def test_links_in_an_archive_are_passed_over(tmp_path):
    link = zipfile.ZipInfo("passwords")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    (tmp_path / "links.zip").write_bytes(zipped({link: "/etc/passwd"}))
    assert unpack(tmp_path / "links.zip", tmp_path / "out") == 0
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as packed:
        link = tarfile.TarInfo("passwords")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    (tmp_path / "links.tar.gz").write_bytes(file.getvalue())
    assert unpack(tmp_path / "links.tar.gz", tmp_path / "out") == 0


@pytest.mark.parametrize("content", [hannover(), tarred({"x.png": png(0)}), b"<html>Not found</html>"])
def test_a_damaged_archive_is_named(content, tmp_path):
    middle = len(content) // 2
    (tmp_path / "archive").write_bytes(content[:middle] + bytes(4) + content[middle + 4 :])
    with pytest.raises(DataError, match=r"archive is damaged \(.*\): delete it and .*out, then fetch"):
        unpack(tmp_path / "archive", tmp_path / "out")


def test_a_set_that_one_has_to_ask_for_says_where_how_and_what_then(capsys, tmp_path):
    assert run(["fetch", "mimic_cxr"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "where:  https://physionet.org/content/mimic-cxr-jpg"
    assert lines[2].startswith("how:    make a PhysioNet account, pass the training course")
    assert lines[4].startswith("folder: RAW/  mimic-cxr-2.0.0-{metadata,split,chexpert}.csv.gz  files/p10/")
    assert lines[5] == "then:   evax prepare --source mimic_cxr --raw RAW --out STORE --verify"
    assert run(["fetch", "rsna", "--out", str(tmp_path / "rsna")]) == 0
    assert f"--raw {tmp_path / 'rsna'} " in capsys.readouterr().out
    assert not (tmp_path / "rsna").exists()


def test_a_folder_that_holds_something_else_is_left_alone(server, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="raw already holds something else"):
        fetch(FetchConfig(name="hannover_covid19", out=tmp_path / "raw"))
    fetch(FetchConfig(name="hannover_covid19", out=tmp_path / "other"))
    with pytest.raises(ConfigError, match="other holds hannover_covid19. Choose another --out"):
        fetch(FetchConfig(name="montgomery", out=tmp_path / "other"))


def test_an_interrupted_drawing_of_phantoms_is_drawn_anew_by_the_same_command(tmp_path, caplog):
    raw, whole = tmp_path / "raw", tmp_path / "whole"
    code = (
        "import os, sys; from pathlib import Path; from evax.data.phantom_release import write_phantoms\n"
        "write_phantoms(Path(sys.argv[1]), 9, 1, 1, lambda done, _: done < 2 or os.kill(os.getpid(), 9))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(raw)], check=False).returncode == -9
    assert not (raw / "labels.csv").exists()
    with caplog.at_level("INFO"):
        fetch(FetchConfig(name="phantoms", out=raw, films=1, workers=1))
    assert f"Next: evax prepare --source csv --raw {raw} --out STORE" in caplog.text
    fetch(FetchConfig(name="phantoms", out=whole, films=1, workers=1))
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (raw, whole)
    )
    assert one == other
    with pytest.raises(ConfigError, match="The folder .*raw is not empty"):
        fetch(FetchConfig(name="phantoms", out=raw, films=1, workers=1))

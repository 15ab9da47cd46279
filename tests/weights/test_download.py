"""Published files over a real loopback server: fetched once, resumed, verified, or found where they lie."""

import hashlib
import http.server
import json
import os
from pathlib import Path

import pytest
import torch

from evax.errors import ConfigError, DataError, WeightsError
from evax.files import write_json
from evax.models.encoders import ENCODERS, EVA_X, build_encoder
from evax.weights.encoders import create_encoder
from evax.weights.foreign import LAYOUTS
from evax.weights.released import RELEASED
from evax.weights.resolve import IMAGENET_FILES, fetch_published
from loopback import Handler, Server, serving
from official_files import write_mim

TINY, SMALL, _ = EVA_X
NAME = "resnet50_mgca_cxr14"  # its size was not published: any bytes will do
FILE = RELEASED[NAME].file
CONTENT = bytes(range(256)) * 20_000  # 5 MB


@pytest.fixture
def server(monkeypatch, tmp_path):
    with serving(Server({FILE: CONTENT})) as running:
        monkeypatch.setenv("EVAX_WEIGHTS_MIRROR", running.url)
        monkeypatch.setenv("EVAX_WEIGHTS", str(tmp_path / "weights"))
        yield running


def test_a_file_is_fetched_once_with_its_progress_shown_and_its_checksum_recorded(server, tmp_path, capfd):
    path = fetch_published(NAME)
    assert path == tmp_path / "weights" / FILE
    assert path.read_bytes() == CONTENT
    assert FILE in capfd.readouterr().err
    recorded = json.loads((tmp_path / "weights" / "checksums.json").read_text())[FILE]
    assert recorded["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert recorded["bytes"] == len(CONTENT)
    assert fetch_published(NAME) == path
    assert server.ranges == [None]
    assert sorted(item.name for item in path.parent.iterdir()) == ["checksums.json", FILE]


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.cut = 2_000_000
    with pytest.raises(WeightsError, match=rf"{FILE} could not be fetched: .* go on where it stopped"):
        fetch_published(NAME)
    assert not (tmp_path / "weights" / FILE).exists()
    server.cut = None
    assert fetch_published(NAME).read_bytes() == CONTENT
    first = server.ranges[1].removeprefix("bytes=").removesuffix("-")
    assert 0 < int(first) <= 2_000_000


def test_a_file_that_changed_on_the_server_is_not_patched_onto_its_old_beginning(server):
    server.cut = 2_000_000
    with pytest.raises(WeightsError):
        fetch_published(NAME)
    server.cut, server.version, server.files = None, '"two"', {FILE: CONTENT[::-1]}
    assert fetch_published(NAME).read_bytes() == CONTENT[::-1]


def test_a_download_that_was_whole_but_not_yet_in_place_is_fetched_again(server, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / f".{FILE}.part").write_bytes(CONTENT)
    (folder / f".{FILE}.etag").write_text(server.version)
    assert fetch_published(NAME).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-", None]


def test_a_plain_file_server_is_mirror_enough(tmp_path, monkeypatch):
    (tmp_path / FILE).write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def handler(*arguments):
        return Quiet(*arguments, directory=tmp_path)

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as plain:
        monkeypatch.setenv("EVAX_WEIGHTS_MIRROR", f"http://127.0.0.1:{plain.server_address[1]}/")
        assert fetch_published(NAME, tmp_path / "out").read_bytes() == CONTENT


def test_a_failed_download_says_where_to_put_the_file(server, tmp_path):
    name = "resnet50_biovil_cxr14"
    with pytest.raises(WeightsError, match=rf"404.*put the file {RELEASED[name].file} into {tmp_path}"):
        fetch_published(name)


def test_a_file_that_changed_since_it_was_fetched_is_refused(server):
    path = fetch_published(NAME)
    path.write_bytes(CONTENT[:-1] + b"\x00")
    with pytest.raises(WeightsError, match="is not the file that came first"):
        fetch_published(NAME)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("eva_x_tiny_cxr14", 66_642_260, "has 66642260 bytes, the published file 66642261"),
        ("eva_x_tiny_mim", 70_000_000, "the published file about 79500000"),
        ("eva_x_small_mim", 307_569_543, "expected 135d70a6988b5aac…302316c2: .* was published"),
    ],
)
def test_a_file_of_another_size_or_checksum_than_published_is_refused(name, size, message, tmp_path):
    with (tmp_path / RELEASED[name].file).open("wb") as file:
        file.truncate(size)
    with pytest.raises(WeightsError, match=message):
        fetch_published(name, tmp_path)


def test_more_than_the_published_size_is_not_downloaded(server, tmp_path):
    class Endless(Handler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(10**12))
            self.end_headers()

    server.RequestHandlerClass = Endless
    with pytest.raises(WeightsError, match="1000000000000 bytes, at most 81090000 were expected"):
        fetch_published("eva_x_tiny_mim")
    assert not any((tmp_path / "weights").glob("*.pt"))


def test_a_published_name_is_weights_of_an_encoder_and_a_file_put_by_hand_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAX_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("EVAX_WEIGHTS_MIRROR", "http://127.0.0.1:9")  # nobody listens: nothing may be asked
    exact = write_mim(tmp_path / RELEASED["eva_x_tiny_mim"].file, TINY)
    for weights in ("eva_x_tiny_mim", Path("eva_x_tiny_mim")):  # as evax finetune --weights hands it over
        encoder = create_encoder(TINY, weights=weights)
        assert encoder.cls_token.equal(exact["cls_token"].half().float())


OTHER = "resnet50_biovil_cxr14"  # its size was not published either


def test_a_file_put_by_hand_is_recorded_at_its_first_use_and_refused_when_it_is_replaced(tmp_path, caplog):
    path = tmp_path / RELEASED[OTHER].file
    path.write_bytes(CONTENT)
    assert fetch_published(OTHER, tmp_path) == path == fetch_published(OTHER, tmp_path)
    recorded = json.loads((tmp_path / "checksums.json").read_text())[path.name]
    assert (recorded["sha256"], recorded["bytes"]) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    assert recorded["url"] == "put here by hand"
    about = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # size and date tell nothing
    with pytest.raises(WeightsError, match="came first. If it is the right one, remove its entry"):
        fetch_published(OTHER, tmp_path)
    write_json({}, tmp_path / "checksums.json")
    assert fetch_published(OTHER, tmp_path) == path
    assert not caplog.records


def test_a_file_of_another_size_says_how_it_is_used_and_that_way_works(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAX_WEIGHTS", str(tmp_path))
    path = tmp_path / RELEASED["eva_x_tiny_mim"].file
    weights = build_encoder(TINY)
    torch.save({"module": weights.state_dict()}, path)
    with pytest.raises(WeightsError, match="about 79500000. Delete it and fetch it again, or: ") as caught:
        create_encoder(TINY, "eva_x_tiny_mim")
    _, _, given = str(caught.value).rpartition("in place of the name: ")
    loaded = create_encoder(TINY, given.removesuffix("."))
    assert loaded.cls_token.equal(weights.cls_token)


def test_a_file_in_a_folder_that_cannot_be_written_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / RELEASED[OTHER].file).write_bytes(CONTENT)

    def refuse(content, path):
        raise DataError(f"{path} could not be written: read-only.")

    monkeypatch.setattr("evax.download.write_json", refuse)
    assert fetch_published(OTHER, tmp_path).is_file()
    assert "is not kept, so a change of it goes unnoticed" in caplog.text


@pytest.mark.parametrize("content", ["[1]", '{"a": "b"}', "null"])
def test_a_damaged_record_is_refused_with_what_to_do(content, tmp_path):
    (tmp_path / RELEASED[OTHER].file).write_bytes(CONTENT)
    (tmp_path / "checksums.json").write_text(content)
    with pytest.raises(DataError, match="checksums.json is no table of checksums. Delete it"):
        fetch_published(OTHER, tmp_path)


def test_what_only_a_person_can_fetch_or_nobody_may_says_so_and_how(tmp_path):
    with pytest.raises(WeightsError, match=r"fetched by hand, from https://drive\S+\. Put it into .*MIRROR"):
        fetch_published("medical_mae_small", tmp_path)
    with pytest.raises(WeightsError, match="DenseNet.weights='densenet121-res224-all'..state_dict"):
        fetch_published("densenet121_xrv_all", tmp_path)
    for name, reason in (("ark_plus", "forbids commercial use"), ("cxr_foundation", "TensorFlow graph")):
        with pytest.raises(WeightsError, match=f"{name} is not offered: .*{reason}"):
            fetch_published(name, tmp_path)
        with pytest.raises(WeightsError, match=f"{name} cannot be loaded: .*{reason}"):
            create_encoder("resnet50", name)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'eva_x_tiny_cxr14'"):
        fetch_published("eva_x_tiny_cxr_14")


def test_every_row_of_the_table_is_whole():
    files = [row.file for row in RELEASED.values() if row.file]
    assert len(set(files)) == len(files)
    for name, row in RELEASED.items():
        assert bool(row.url) + bool(row.by_hand) + bool(row.refused) == 1, name  # one way, or none and why
        assert not row.url or row.url.rsplit("/")[-1] in (row.file, "model.safetensors"), name
        assert row.encoder in ENCODERS or not row.loadable, name
        assert row.layout in (*LAYOUTS, "mim", "fine-tuned") or not row.loadable, name
        assert row.group != "EVA-X" or bool(row.findings) == (row.layout != "mim"), name
        assert row.layout != "mim" or row.input_size == 224
    for encoder, name in IMAGENET_FILES.items():
        assert RELEASED[name].encoder == encoder
    heads = {"chestxray14": 14, "chexpert": 5, "covidx3": 3, "covidx4": 2}
    for name, row in RELEASED.items():
        if row.layout == "fine-tuned":
            dataset = name.split("_")[-1].replace("cxr14", "chestxray14")
            assert len(row.findings) == heads[dataset]


def test_the_sizes_of_mim_files_are_14_bytes_per_parameter():
    parameters = {"tiny": 5_673_600, "small": 21_963_264, "base": 86_442_240}  # paper-facts.md 1.1
    for size, count in parameters.items():
        assert RELEASED[f"eva_x_{size}_mim"].size == pytest.approx(14 * count, rel=2e-3)

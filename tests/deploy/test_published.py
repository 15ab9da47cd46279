"""A published classifier predicts by its name or from its file: fetched and converted once."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import evax
from evax.cli import run
from evax.data.phantom import make_phantom
from evax.deploy.bundle import read_card
from evax.deploy.published import bundle_of
from evax.errors import ConfigError, DataError
from evax.models.encoders import EVA_X
from evax.weights.released import RELEASED
from loopback import Server, serving
from official_files import official_fine_tuned, write_fine_tuned

TINY, *_ = EVA_X
NAME = "eva_x_tiny_chexpert"
ROW = RELEASED[NAME]


@pytest.fixture(scope="module")
def published_file(tmp_path_factory):
    """In the released layout and of the published size, which the state of its optimizer fills."""
    path = tmp_path_factory.mktemp("theirs") / ROW.file
    write_fine_tuned(path, TINY, outputs=len(ROW.findings))
    content = torch.load(path, weights_only=False)
    missing = (ROW.size - path.stat().st_size) // 4
    content["optimizer"]["state"] = {0: {"exp_avg": torch.zeros(missing)}}
    torch.save(content, path)
    return path


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.png"
    Image.fromarray(np.rint(make_phantom(seed=5, index=0).pixels * 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture(autouse=True)
def weights_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAX_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def scores_of(table):
    (row,) = list(csv.DictReader(table.open()))
    return row


def test_a_published_file_predicts_in_one_command_what_its_converted_bundle_predicts(
    published_file, film, tmp_path, weights_folder, caplog
):
    caplog.set_level("INFO")
    bundle, first, second = tmp_path / "bundle", tmp_path / "first.csv", tmp_path / "second.csv"
    assert run(["predict", str(published_file), str(film), "--out", str(first)]) == 0
    for said in (
        "Each on its own of 5 findings: Atelectasis, Cardiomegaly",
        "resized to 224 x 224 pixels, normalised with mean 0.49185",
        "No thresholds were published",
    ):
        assert said in caplog.text
    assert run(["zoo", "convert", str(published_file), "--to", "bundle", "--out", str(bundle)]) == 0
    assert run(["predict", str(bundle), str(film), "--out", str(second)]) == 0
    assert first.read_text() == second.read_text()
    assert [scores_of(first)[f"{finding}:present"] for finding in ROW.findings] == [""] * 5
    (cached,) = (weights_folder / "bundles").iterdir()
    assert read_card(cached) == read_card(bundle)
    assert cached.name.startswith(f"{NAME}-")


def test_a_name_is_fetched_and_converted_once_and_answers_in_python_too(
    published_file, film, tmp_path, weights_folder, monkeypatch
):
    with serving(Server({ROW.file: published_file.read_bytes()})) as server:
        monkeypatch.setenv("EVAX_WEIGHTS_MIRROR", server.url)
        assert run(["predict", NAME, str(film), "--out", str(tmp_path / "scores.csv")]) == 0
        tensors = next(weights_folder.glob("bundles/*/model.safetensors"))
        written = tensors.stat().st_mtime_ns
        answer = evax.open_bundle(NAME)(film)
        assert len(server.ranges) == 1
    assert tensors.stat().st_mtime_ns == written
    row = scores_of(tmp_path / "scores.csv")
    assert {finding: float(row[finding]) for finding in ROW.findings} == pytest.approx(answer, abs=2e-6)


def test_another_file_of_the_same_name_does_not_get_the_answers_of_the_first(tmp_path, weights_folder):
    for number, outputs in enumerate((5, 5)):
        path = tmp_path / str(number) / ROW.file
        path.parent.mkdir()
        state = official_fine_tuned(TINY, outputs)
        torch.save({"model": state | {"head.bias": state["head.bias"] + number}}, path)
    biases = [evax.open_bundle(tmp_path / number / ROW.file).network.head.bias for number in ("0", "1")]
    assert torch.allclose(biases[1], biases[0] + 1)
    assert len(list((weights_folder / "bundles").iterdir())) == 2


def test_a_conversion_that_was_broken_off_or_is_out_of_date_is_done_again(tmp_path):
    path = tmp_path / ROW.file
    write_fine_tuned(path, TINY, outputs=5)
    folder = bundle_of(path)
    card = folder / "card.json"
    for left in ("", card.read_text().replace("MIT", "another")):
        card.write_text(left) if left else card.unlink()
        assert bundle_of(path) == folder
        assert read_card(folder).licence.startswith("MIT")


def test_what_is_no_classifier_or_not_the_published_file_is_one_line_and_leaves_nothing(
    film, tmp_path, weights_folder, monkeypatch, capsys
):
    monkeypatch.setenv("EVAX_WEIGHTS_MIRROR", "http://127.0.0.1:9")  # nobody answers there
    names = ("mine.pth", ROW.file, RELEASED["eva_x_tiny_cxr14"].file)
    renamed, wrong, page = (tmp_path / name for name in names)
    for path in (renamed, wrong):
        write_fine_tuned(path, TINY, outputs=3)
    page.write_text("<!doctype html>")
    for source, said in (
        ("eva_x_tiny_mim", "eva_x_tiny_mim holds an encoder; predict needs"),  # before it is fetched
        ("eva_x_tiny_cxr", "Did you mean 'eva_x_tiny_cxr14'?"),
        (renamed, f"evax zoo convert {renamed} --to bundle --out BUNDLE --like NAME"),
        (wrong, "does not fit a head of 5 findings"),
        (page, "cannot be read as a PyTorch file: it begins with b'<!doctype html>'. Is it"),
        (
            tmp_path / "no" / "bundle",
            "bundle does not exist. A bundle is written by pretrain, finetune and segment",
        ),
        (NAME, "could not be fetched"),
        ("eva_x_small_siim", "has the layout of mmseg, which evax does not convert"),
    ):
        assert run(["predict", str(source), str(film), "--out", str(tmp_path / "scores.csv")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("evax predict: ")
        assert said in line
    assert not (weights_folder / "bundles").exists()
    assert not (tmp_path / "scores.csv").exists()


def test_a_weights_folder_that_cannot_be_written_says_how_to_name_another(tmp_path, monkeypatch):
    path = tmp_path / ROW.file
    write_fine_tuned(path, TINY, outputs=5)
    (tmp_path / "file").touch()
    monkeypatch.setenv("EVAX_WEIGHTS", str(tmp_path / "file"))
    with pytest.raises(DataError, match="could not be written: .* EVAX_WEIGHTS names another one"):
        bundle_of(path)


def test_a_path_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    with pytest.raises(DataError, match=f"{NAME} is not a bundle: it has no card.json"):
        evax.open_bundle(NAME)
    (tmp_path / NAME).rmdir()
    (tmp_path / NAME).touch()
    with pytest.raises(ConfigError, match=f"{NAME} has not the name of a published file"):
        evax.open_bundle(NAME)

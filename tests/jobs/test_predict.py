"""A bundle and images give a table; what cannot be read is a line of it."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evax
from bundles import random_bundle
from evax.cli import run
from evax.data.films import read_or_reason
from evax.errors import ConfigError, DataError
from evax.explain.overlay import overlay
from evax.files import read_json
from evax.jobs.demo import demo
from evax.jobs.predict import predict
from evax.options.results import DemoConfig, PredictConfig

READER = "evax.jobs.predict.read_or_reason"
NAMES = ["a/1.png", "a/2.jpg", "a/3.png", "a/4.png", "b/1.png", "b/1.tif", "b/deep/x.PNG", "z.png"]
READABLE = [name for name in NAMES if name != "a/3.png"]
FINDINGS = ("Effusion", "Nodule/Mass", "Edema")
EVERYTHING, NOTHING = 0.0, 1.1


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4), dtype=np.uint8)
    Image.fromarray(coarse).resize((80, 100), Image.Resampling.BICUBIC).save(path)


def draw_films(folder):
    """Seven images in two folders, two of them of the same name, and between them one that is damaged."""
    for number, name in enumerate(READABLE):
        draw(folder / name, number)
    (folder / "a" / "3.png").write_bytes((folder / "a" / "1.png").read_bytes()[:200])
    (folder / "a" / "readme.txt").write_text("not an image")
    (folder / "a" / ".hidden.png").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    thresholds = {"Effusion": 0.5, "Nodule/Mass": None}
    return random_bundle(tmp_path_factory.mktemp("bundle"), FINDINGS, store_size=80, thresholds=thresholds)


@pytest.fixture
def with_thresholds(bundle, tmp_path):
    """Makes the same bundle with other thresholds."""

    def make(**thresholds):
        folder = shutil.copytree(bundle, tmp_path / "bundle", dirs_exist_ok=True)
        card = json.loads((bundle / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(card | {"thresholds": thresholds}))
        return folder

    return make


@pytest.fixture
def config(bundle, tmp_path):
    films = draw_films(tmp_path / "films")
    return PredictConfig(bundle=bundle, films=(films,), out=tmp_path / "scores.csv", batch_size=3)


def table_of(config):
    with predict(config).open(newline="") as file:
        return {row["file"].removeprefix(f"{config.films[0]}/"): row for row in csv.DictReader(file)}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_table_holds_what_the_predictor_says_of_each_image(config, batch_size, caplog):
    table, predictor = table_of(replace(config, batch_size=batch_size)), evax.open_bundle(config.bundle)
    assert list(table) == NAMES
    for name in READABLE:
        prediction = predictor(config.films[0] / name)
        assert {f: float(table[name][f]) for f in FINDINGS} == pytest.approx(prediction, abs=2e-6)
        assert table[name]["error"] == ""
    assert len({table[name]["Effusion"] for name in READABLE}) == len(READABLE)
    row = table["z.png"]  # a finding without a threshold is neither present nor absent
    assert row["Effusion:present"] in ("0", "1")
    assert (row["Nodule/Mass:present"], row["Edema:present"]) == ("", "")
    row = table["a/3.png"]  # an image that cannot be read is a line with its reason
    assert row.pop("file") in row["error"]
    assert "is damaged or of an unsupported kind" in row.pop("error")
    assert set(row.values()) == {""}
    assert "1 of 8 images could not be read: the column error of" in caplog.text


def test_the_notes_are_the_issues_of_the_image(config):
    Image.new("RGB", (50, 50), (255, 0, 0)).save(config.films[0] / "a" / "4.png")
    table = table_of(config)
    assert table["a/4.png"]["notes"] == "colour blank"
    assert table["a/1.png"]["notes"] == ""


def test_a_score_at_the_threshold_is_present_and_one_a_hair_below_is_not(config, with_thresholds):
    film = config.films[0] / "a" / "1.png"
    score = evax.open_bundle(config.bundle)(film)["Effusion"]
    assert score == np.float32(score)
    for threshold, present in (
        (score, "1"),
        (math.nextafter(score, 1), "0"),
        (math.nextafter(score, 0), "1"),
    ):
        out = config.out.with_name(f"{threshold}.csv")
        table = table_of(replace(config, batch_size=1, bundle=with_thresholds(Effusion=threshold), out=out))
        assert table["a/1.png"]["Effusion:present"] == present


def test_every_image_keeps_its_own_maps_although_names_repeat(config, with_thresholds, tmp_path):
    maps = tmp_path / "maps"
    folder = with_thresholds(**{"Effusion": EVERYTHING, "Nodule/Mass": EVERYTHING, "Edema": NOTHING})
    config = replace(config, bundle=folder, heatmaps=maps)
    predict(config)
    assert sorted(path.name for path in maps.iterdir()) == [
        f"{row:05}-{name.rpartition('/')[2].rpartition('.')[0]}-{finding}.png"
        for row, name in enumerate(NAMES, start=1)
        if name in READABLE
        for finding in ("Effusion", "Nodule-Mass")
    ]
    predictor = evax.open_bundle(folder)
    for row, name in ((1, "a/1"), (5, "b/1")):
        film = evax.read_image(config.films[0] / f"{name}.png")
        expected = overlay(film.pixels, evax.grad_cam(predictor, film, "Effusion"))
        drawn = Image.open(maps / f"{row:05}-1-Effusion.png")
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


def test_files_may_be_named_one_by_one_whatever_their_suffix(config, tmp_path):
    draw(tmp_path / "film.png", 1)
    (tmp_path / "film.png").rename(tmp_path / "film.xyz")
    table = table_of(replace(config, films=(tmp_path, tmp_path / "film.xyz")))
    assert list(table) == [f"films/{name}" for name in NAMES] + ["film.xyz"]


def test_the_command_prints_where_the_table_is(config, capsys):
    assert run(["predict", str(config.bundle), str(config.films[0]), "--out", str(config.out)]) == 0
    assert capsys.readouterr().out.strip() == str(config.out)
    assert len(config.out.read_text().splitlines()) == 1 + len(NAMES)


def test_a_folder_s_dicom_files_are_found_whatever_they_are_called(config, phantoms, tmp_path):
    film = next(phantoms.glob("images/*.dcm"))
    folder = tmp_path / "archive"
    folder.mkdir()
    for name in ("1.2.840.113619.0", "IM0001", "DICOMDIR"):
        (folder / name).write_bytes(film.read_bytes())
    (folder / "notes.txt").write_text("a long note about the images, and no image by itself")
    predict(replace(config, films=(folder,)))
    assert [row.split(",")[0] for row in config.out.read_text().splitlines()[1:]] == [
        str(folder / "1.2.840.113619.0"), str(folder / "IM0001"),
    ]  # fmt: skip


def test_a_place_that_does_not_exist_or_holds_no_image_is_named(config, tmp_path):
    with pytest.raises(DataError, match="There is no file or folder .*lost.png"):
        predict(replace(config, films=(config.films[0], tmp_path / "lost.png")))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"No image found in .*none \(looked for .png, .jpg"):
        predict(replace(config, films=(tmp_path / "none",)))
    assert not config.out.exists()


def test_when_no_image_can_be_read_the_first_reason_is_said_and_nothing_remains(config):
    for number, name in enumerate(NAMES):
        (config.films[0] / name).write_bytes(b"" if number == 0 else b"no film at all")
    said = "None of the 8 files could be read; the first reason: .*1.png is empty"
    with pytest.raises(DataError, match=said):
        predict(config)
    assert [path.name for path in config.out.parent.iterdir()] == ["films"]


def test_a_table_that_is_there_is_not_written_over(config):
    config.out.write_text("older")
    with pytest.raises(DataError, match=r"scores.csv exists. Choose another --out"):
        predict(config)
    assert config.out.read_text() == "older"


def stop_at(name):
    """Reads images until it is killed at one of this name."""

    def reader(path, bits):
        if path.name == name:
            raise KeyboardInterrupt
        return read_or_reason(path, bits)

    return reader


@pytest.fixture
def killed_at(config, monkeypatch):
    """Runs predict until it is killed while it reads an image of this name; returns the table it kept."""

    def kill(name, **options):
        with monkeypatch.context() as patch:
            patch.setattr(READER, stop_at(name))
            with pytest.raises(KeyboardInterrupt):
                predict(replace(config, **options))
        (kept,) = config.out.parent.glob(".scores.csv.*.unfinished")
        return kept

    return kill


def test_a_killed_run_goes_on_after_the_images_it_had_scored(config, killed_at, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "evax")
    whole = predict(replace(config, out=config.out.with_name("whole.csv"))).read_text()
    kept = killed_at("1.tif")  # in the second batch
    kept.write_text(kept.read_text() + f"{config.films[0]}/a/4.p")  # a line that the kill cut
    killed_at("1.tif", resume=True)  # and killed again before it has scored one
    read = []
    monkeypatch.setattr(READER, lambda path, bits: read.append(path.name) or read_or_reason(path, bits))
    assert predict(replace(config, resume=True)).read_text() == whole
    assert read == ["4.png", "1.png", "1.tif", "x.PNG", "z.png"]
    assert "Going on after 3 images that have been scored" in caplog.text
    assert not list(config.out.parent.glob(".*"))


def test_a_demo_that_was_killed_while_it_predicted_is_resumed(config, monkeypatch):
    out = config.out.parent / "demo"
    step = replace(config, out=Path("RUN/deep/scores.csv"))
    whole = predict(replace(config, out=config.out.with_name("whole.csv"))).read_text()
    monkeypatch.setattr("evax.pages.run.write_demo_page", lambda run: run / "report.html")
    with monkeypatch.context() as patch:
        patch.setattr(READER, stop_at("z.png"))
        with pytest.raises(KeyboardInterrupt):
            demo(DemoConfig(out=out, predict={"p": step}))
    journals = []
    for _ in range(2):
        demo(DemoConfig(out=out, predict={"p": step}, resume=True))
        assert (out / "deep/scores.csv").read_text() == whole
        journals.append([entry["command"] for entry in read_json(out / "run.json")["steps"]])
        (out / "run.json").unlink()  # killed between the table and its line in the journal
    assert journals[0] == journals[1]


def test_an_image_that_vanished_or_came_between_changes_no_other_image_s_line(config, killed_at):
    killed_at("z.png")
    (config.films[0] / "a" / "2.jpg").unlink()
    draw(config.films[0] / "b" / "0.png", 7)
    resumed = predict(replace(config, resume=True)).read_text()
    assert resumed == predict(replace(config, out=config.out.with_name("anew.csv"))).read_text()


def test_what_a_stopped_run_scored_is_not_thrown_away_unasked(config, killed_at):
    kept = killed_at("1.tif")
    before = kept.read_text()
    said = r"stopped run has scored 3 of these images: add --resume .*, or delete .*unfinished"
    with pytest.raises(DataError, match=said):
        predict(config)
    assert kept.read_text() == before


def test_a_second_run_into_the_same_table_is_refused(config, monkeypatch):
    def second(path, bits):
        with pytest.raises(DataError, match=r"Another run is writing .*scores.csv: wait for it"):
            predict(config)
        return read_or_reason(path, bits)

    monkeypatch.setattr(READER, second)
    assert len(predict(config).read_text().splitlines()) == 1 + len(NAMES)


def test_a_table_that_appeared_meanwhile_is_not_written_over(config, monkeypatch):
    monkeypatch.setattr(
        READER, lambda path, bits: config.out.write_text("another run's") and read_or_reason(path, bits)
    )
    with pytest.raises(DataError, match=r"scores.csv exists"):
        predict(config)
    assert config.out.read_text() == "another run's"


def test_names_no_table_likes_are_kept_and_gone_on_from(config, killed_at):
    names = [b'a,"b"\r.png', b"latin-\xe9.png", b"new\nline.png"]
    for name in names:
        draw(config.films[0] / "1.png", 1)
        (config.films[0] / "1.png").rename(config.films[0] / os.fsdecode(name))
    killed_at("z.png", batch_size=1)
    assert list(table_of(replace(config, resume=True)))[:-4:-1] == [
        "z.png", "new\nline.png", "latin-\\udce9.png"
    ]  # fmt: skip


def test_a_map_that_cannot_be_written_costs_no_score_and_is_drawn_later(config, with_thresholds, tmp_path):
    bundle = with_thresholds(**{"Effusion": EVERYTHING, "Nodule/Mass": NOTHING, "Edema": NOTHING})
    config = replace(config, bundle=bundle, heatmaps=tmp_path / "maps")
    (config.heatmaps / "00005-1-Effusion.png").mkdir(parents=True)
    with pytest.raises(DataError, match="00005-1-Effusion.png could not be written"):
        predict(config)
    (config.heatmaps / "00005-1-Effusion.png").rmdir()
    assert len(table_of(replace(config, resume=True))) == len(NAMES)
    assert len(list(config.heatmaps.iterdir())) == len(READABLE)


def test_a_table_that_cannot_be_written_is_said(config):
    with pytest.raises(DataError, match="could not be written: .*too long.* or choose another --out"):
        predict(replace(config, out=config.out.with_name("x" * 250)))


def test_what_another_bundle_scored_is_not_gone_on_from(config, with_thresholds, killed_at):
    killed_at("z.png")
    other = replace(config, bundle=with_thresholds(Effusion=NOTHING), resume=True)
    assert {row["Effusion:present"] for row in table_of(other).values()} == {"0", ""}


def test_an_encoder_bundle_is_refused(config, tmp_path):
    said = "encoder holds an encoder; predict needs a classifier or segmenter bundle. Fine-tune"
    with pytest.raises(ConfigError, match=said):
        predict(replace(config, bundle=random_bundle(tmp_path / "encoder", store_size=80)))


@pytest.mark.parametrize(
    "thresholds",
    [
        {},
        dict.fromkeys(FINDINGS),
        dict.fromkeys(FINDINGS, EVERYTHING),  # as a bundle of an older evax has them
        {"Effusion": 0.2, "Nodule/Mass": NOTHING},
    ],
)
def test_of_exclusive_classes_the_most_probable_one_is_predicted_whatever_the_thresholds(
    config, with_thresholds, tmp_path, thresholds
):
    folder = with_thresholds(**thresholds)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"exclusive": True}))
    table = table_of(replace(config, bundle=folder, heatmaps=tmp_path / "maps"))
    assert list(table["z.png"]) == ["file", *FINDINGS, "predicted", "notes", "error"]
    predicted = {}
    for name in READABLE:
        scores = {finding: float(table[name][finding]) for finding in FINDINGS}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert table[name]["predicted"] == max(scores, key=scores.get)
        predicted[name] = table[name]["predicted"]
    assert table["a/3.png"]["predicted"] == ""
    assert len(list((tmp_path / "maps").iterdir())) == len(READABLE)
    assert (tmp_path / "maps" / f"00008-z-{predicted['z.png'].replace('/', '-')}.png").is_file()

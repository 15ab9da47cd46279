import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import evax
from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, save_bundle
from evax.errors import ConfigError, DataError
from evax.evaluation.localization import peak_in_box
from evax.jobs.localize import LocalizeConfig, films_with_boxes, localize
from evax.models.classifier import Classifier
from evax.models.encoders import build_encoder

TINY = "eva_x_tiny_patch16_224"


@pytest.fixture
def config(phantom_store, tmp_path):
    store = evax.open_store(phantom_store)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Classifier(build_encoder(TINY, img_size=64), len(store.manifest.findings))
        torch.nn.init.normal_(network.head.weight)
    card = Card(
        kind="classifier",
        encoder=TINY,
        preprocess=Preprocess(store_size=96, input_size=64),
        findings=store.manifest.findings,
    )
    bundle = save_bundle(tmp_path / "bundle", card, network)
    return LocalizeConfig(bundle=bundle, store=phantom_store, out=tmp_path / "run", overlays=1, resamples=50)


def test_hits_are_counted_on_the_films_that_have_a_box(config):
    report = json.loads(localize(config).read_text())
    store, predictor = evax.open_store(config.store), evax.open_bundle(config.bundle)
    cases = films_with_boxes(store, "test", store.manifest.findings)
    for row in report["pointing"]:
        of_finding = {film: boxes[row["finding"]] for film, boxes in cases.items() if row["finding"] in boxes}
        assert row["films"] == len(of_finding)
        by_hand = []
        for film, boxes in of_finding.items():
            radiograph = evax.Radiograph((store.pixels(film) / 255).astype(np.float32), None, None, ())
            heatmap = evax.grad_cam(predictor, radiograph, row["finding"])
            by_hand.append(peak_in_box(heatmap, np.array(boxes)))
        assert row["hits"] == sum(by_hand)
        assert row["rate"] == pytest.approx(np.mean(by_hand))


def test_a_picture_per_finding_shows_film_and_map_side_by_side(config):
    report = json.loads(localize(config).read_text())
    pictures = sorted((config.out / "overlays").iterdir())
    assert [picture.name for picture in pictures] == [shown["picture"] for shown in report["overlays"]]
    assert [shown["finding"] for shown in report["overlays"]] == [
        row["finding"] for row in report["pointing"]
    ]
    assert all(Image.open(picture).size == (192, 96) for picture in pictures)


def test_a_finding_that_one_patient_has_is_scored_without_an_interval(config, phantoms, tmp_path):
    from evax.data.building import build_store

    manifest = evax.open_store(config.store).manifest
    store = build_store(
        replace(manifest, table=manifest.table.assign(patient="one"), root=phantoms),
        tmp_path / "one",
        size=96,
    )
    report = json.loads(localize(replace(config, store=store.path)).read_text())
    assert all(row["interval"] == [None, None] for row in report["pointing"])


def test_a_store_of_films_at_another_size_is_refused(config, phantoms, tmp_path):
    from evax.data.building import build_store

    manifest = replace(evax.open_store(config.store).manifest, root=phantoms)
    build_store(manifest, tmp_path / "small", size=80)
    with pytest.raises(DataError, match="kept at 96 pixels, .* at 80: prepare the store with --size 96"):
        localize(replace(config, store=tmp_path / "small"))


def test_the_layer_of_the_map_is_said_and_changes_it(config, tmp_path):
    assert json.loads(localize(config).read_text())["at"] == "norm1"
    other = json.loads(localize(replace(config, out=tmp_path / "b", at="output")).read_text())
    assert other["at"] == "output"


def test_a_store_without_boxes_and_an_encoder_bundle_are_refused(config, phantom_store, phantoms, tmp_path):
    from evax.data.building import build_store
    from evax.data.manifest import Manifest

    manifest = evax.open_store(phantom_store).manifest
    without = Manifest(
        table=manifest.table, findings=manifest.findings, exclusive=False, source="x", root=phantoms
    )
    build_store(without, tmp_path / "boxless", size=96)
    with pytest.raises(DataError, match="No test film of .* has a box of"):
        localize(replace(config, store=tmp_path / "boxless"))
    card = Card(kind="encoder", encoder=TINY, preprocess=Preprocess(store_size=96, input_size=64))
    encoder = save_bundle(tmp_path / "encoder", card, build_encoder(TINY, img_size=64))
    with pytest.raises(ConfigError, match="needs a classifier"):
        localize(replace(config, bundle=encoder))

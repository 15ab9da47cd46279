import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import evax
from evax.data.labelled import in_drawn_order
from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, save_bundle, save_seen, seen_in
from evax.errors import ConfigError, DataError
from evax.evaluation.localization import (
    THRESHOLDS,
    best_threshold,
    case_scores,
    iou_at_thresholds,
    mask_of_boxes,
    mask_of_truncated_box,
    peak_in_box,
)
from evax.explain import localization as localized
from evax.explain.heatmap import spread
from evax.jobs.localize import localize
from evax.models.classifier import Classifier
from evax.models.encoders import build_encoder
from evax.options.results import LocalizeConfig

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


def boxes_of(store, split, finding):
    """Row -> boxes, read from the table itself."""
    table, boxes = store.manifest.table, store.manifest.boxes
    rows = {table.at[row, "image"]: int(row) for row in store.rows(split)}
    found = {}
    for box in boxes[boxes["finding"] == finding].itertuples():
        if box.image in rows:
            found.setdefault(rows[box.image], []).append((box.x, box.y, box.width, box.height))
    return dict(sorted(found.items()))


def test_hits_are_counted_on_the_films_that_have_a_box(config):
    report = json.loads(localize(config).read_text())
    store, predictor = evax.open_store(config.store), evax.open_bundle(config.bundle)
    for row in report["pointing"]:
        of_finding = boxes_of(store, "test", row["finding"])
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
    # nobody else can choose a threshold
    assert report["protocol"]["threshold_chosen_on"] == "nothing: the boxes or masks are of one patient"
    assert report["localization"]["overall"]["map"] is None
    assert report["localization"]["overall"]["thresholds"] == []
    assert "none" in (config.out / "report.html").read_text()


def test_test_films_that_taught_the_classifier_are_refused_and_others_are_not(config, tmp_path):
    store = evax.open_store(config.store)
    save_seen(config.bundle, seen_in(store, store.rows("train", "val")))
    localize(config)
    save_seen(config.bundle, seen_in(store, np.arange(len(store))))
    with pytest.raises(DataError, match=r"has learned from \d+ of the \d+ test films"):
        localize(replace(config, out=tmp_path / "again"))
    localize(replace(config, out=tmp_path / "train", split="train"))  # asked for by name


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


def overlap_by_hand(config, store, film, finding, truth):
    """(T,): of one film, by way of what the predictor itself offers. truth: a mask at the size of the map."""
    predictor = evax.open_bundle(config.bundle)
    seen = predictor.card.preprocess.to_input(store.pixels(film))
    grid = predictor.maps(seen.reshape(1, 1, *seen.shape), config.at)[0][
        predictor.card.findings.index(finding)
    ]
    return iou_at_thresholds(spread(grid, truth.shape, predictor.card.preprocess), truth)


def overlaps_of_split(config, store, split, truths_of):
    """(S, T): of every case. truths_of: boxes -> one mask per case."""
    return np.array(
        [
            overlap_by_hand(config, store, film, finding, truth)
            for finding in store.manifest.findings
            for film, boxes in boxes_of(store, split, finding).items()
            for truth in truths_of(np.array(boxes))
        ]
    )


def test_the_threshold_is_chosen_on_validation_films_where_enough_was_drawn_there(config, monkeypatch):
    monkeypatch.setattr(localized, "ENOUGH_TO_CHOOSE", 3)
    report = json.loads(localize(config).read_text())
    store = evax.open_store(config.store)

    validation, test = (
        overlaps_of_split(config, store, split, lambda boxes: [mask_of_boxes(boxes, (96, 96))])
        for split in ("val", "test")
    )
    assert report["protocol"]["name"] == "clean"
    assert report["protocol"]["threshold_chosen_on"].startswith(f"{len(validation)} cases on ")
    assert "val films" in report["protocol"]["threshold_chosen_on"]
    place = best_threshold(validation)
    overall = report["localization"]["overall"]
    assert overall["thresholds"] == [THRESHOLDS[place]]
    assert overall["cases"] == len(test)
    expected = case_scores(test[:, place]).mean(axis=0)
    assert [overall[name] for name in ("ap25", "ap50", "map", "miou")] == pytest.approx(expected)
    curve = report["localization"]["curve"]
    assert curve["miou"] == pytest.approx(test.mean(axis=0))


def test_without_enough_on_other_films_no_patient_takes_part_in_choosing_their_own_threshold(
    config, monkeypatch
):
    monkeypatch.setattr(localized, "ENOUGH_TO_CHOOSE", 10**6)
    report = json.loads(localize(config).read_text())
    said = report["protocol"]["threshold_chosen_on"]
    assert said.startswith("the other folds of the test patients, of ")
    cases, store = pd.read_csv(config.out / "cases.csv"), evax.open_store(config.store)
    rows = {image: row for row, image in store.manifest.table["image"].items()}
    ious = np.array(
        [
            overlap_by_hand(
                config, store, rows[case.image], case.finding,
                mask_of_boxes(np.array(boxes_of(store, "test", case.finding)[rows[case.image]]), (96, 96)),
            )
            for case in cases.itertuples()
        ]
    )  # fmt: skip
    assert len(cases) == report["localization"]["overall"]["cases"] > 0
    for number, case in enumerate(cases.itertuples()):
        place = int(np.argmin(abs(THRESHOLDS - case.threshold)))
        assert case.iou == pytest.approx(ious[number, place])
    order = in_drawn_order(cases["patient"].to_numpy(dtype=str), config.seed, purpose="threshold:")
    fold = cases["patient"].map({patient: n % localized.FOLDS for n, patient in enumerate(order)})
    for number in fold.unique():
        others = best_threshold(ious[(fold != number).to_numpy()])
        assert cases.loc[fold == number, "threshold"].unique() == pytest.approx([THRESHOLDS[others]])


@pytest.mark.parametrize(("split", "choosers"), [("test", ["val", "train"]), ("val", ["train"])])
def test_test_films_choose_no_threshold_for_others(split, choosers):
    assert localized.choosing_splits(split) == choosers


def test_nobody_who_is_scored_chooses_with_another_of_their_films(config):
    store = evax.open_store(config.store)
    kinds = dict.fromkeys(store.manifest.findings, "boxes")
    films = localized.choosing_films(store, "train", kinds, set())
    someone = store.manifest.table.at[min(films), "patient"]
    left = localized.choosing_films(store, "train", kinds, {someone})
    owners = store.manifest.table["patient"]
    assert set(left) == {row for row in films if owners[row] != someone} != set(films)


def test_the_paper_s_protocol_scores_each_box_at_the_threshold_that_is_best_for_them(config, tmp_path):
    path = localize(replace(config, protocol="paper", out=tmp_path / "paper"))
    report, store = json.loads(path.read_text()), evax.open_store(config.store)
    ious = overlaps_of_split(
        config, store, "test", lambda boxes: [mask_of_truncated_box(box, 64) for box in boxes]
    )
    overall = report["localization"]["overall"]
    scores = case_scores(ious).mean(axis=0)
    assert overall["cases"] == len(ious)
    assert overall["map"] == pytest.approx(scores[:, 2].max())
    assert overall["thresholds"] == [THRESHOLDS[best_threshold(ious)]]
    assert report["protocol"]["name"] == "paper"
    assert "optimistic" in report["protocol"]["warning"]
    assert set(pd.read_csv(path.parent / "cases.csv")["protocol"]) == {"paper"}
    localize(config)
    assert "protocol" not in pd.read_csv(config.out / "cases.csv")


def test_masks_are_the_truth_when_asked_for(config, tmp_path):
    store = evax.open_store(config.store)
    finding = next(
        name for name in store.manifest.findings if np.isin(store.masked_rows(name), store.rows("test")).any()
    )
    boxes = json.loads(localize(config).read_text())["localization"]["findings"]
    path = localize(replace(config, truth="masks", out=tmp_path / "masks"))
    masks = {row["finding"]: row for row in json.loads(path.read_text())["localization"]["findings"]}
    assert {row["truth"] for row in boxes} == {"boxes"}
    assert masks[finding]["truth"] == "masks"
    rows = np.intersect1d(store.masked_rows(finding), store.rows("test"))
    drawn = [mask for row in rows if (mask := store.masks(row)[finding]).any()]
    assert masks[finding]["cases"] == len(drawn)
    assert masks[finding]["share_of_film"] == pytest.approx(np.mean([mask.mean() for mask in drawn]))
    assert Image.open(path.parent / "overlays" / "000.png").size == (192, 96)


def test_auto_takes_masks_for_the_findings_that_have_some_and_boxes_for_the_others(
    config, phantoms, tmp_path
):
    from evax.data.building import build_store
    from evax.data.sources import read_source
    from evax.data.split import assign_splits

    manifest = assign_splits(read_source("csv", phantoms, {}), validation=0.25, test=0.25, seed=0)
    finding = next(name for name in manifest.findings if (manifest.masks["finding"] == name).any())
    some = replace(manifest, masks=manifest.masks[manifest.masks["finding"] == finding])
    build_store(some, tmp_path / "some", size=96)
    report = json.loads(localize(replace(config, store=tmp_path / "some", truth="auto")).read_text())
    for row in report["localization"]["findings"]:
        assert row["truth"] == ("masks" if row["finding"] == finding else "boxes")


def test_a_layer_that_a_cnn_has_not_is_refused_before_anything_is_written(config, tmp_path):
    findings = evax.open_store(config.store).manifest.findings
    network = Classifier(build_encoder("efficientnet_lite0", img_size=64), len(findings))
    card = Card(
        kind="classifier",
        encoder="efficientnet_lite0",
        preprocess=Preprocess(store_size=96, input_size=64),
        findings=findings,
    )
    cnn = replace(config, bundle=save_bundle(tmp_path / "cnn", card, network))
    with pytest.raises(ConfigError, match="makes no map at norm1: give --at output"):
        localize(cnn)
    assert not config.out.exists()


def test_a_published_number_stands_beside_official_boxes_only(config):
    assert json.loads(localize(config).read_text())["published"] == []


def test_the_paper_s_protocol_shows_the_whole_film_where_a_central_crop_is_usual(config):
    predictor, store = evax.open_bundle(config.bundle), evax.open_store(config.store)
    cropped = replace(predictor.card.preprocess, resize_size=80)
    predictor.card = replace(predictor.card, preprocess=cropped)
    clean, paper = (localized.Maps.of(predictor, store, "norm1", name) for name in ("clean", "paper"))
    assert (clean.preprocess, clean.side) == (cropped, 96)
    assert (paper.preprocess.seen, paper.side) == ((0.0, 1.0), 64)

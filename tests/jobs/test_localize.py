import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import evax
from bundles import random_bundle
from evax.data.building import build_store
from evax.data.labelled import in_drawn_order
from evax.data.manifest import no_boxes, no_masks
from evax.data.sources import read_source
from evax.deploy.bundle import save_seen, seen_in
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
from evax.explain import localization
from evax.explain.heatmap import spread
from evax.files import read_json
from evax.jobs.localize import localize
from evax.options.results import LocalizeConfig


@pytest.fixture(scope="module")
def localized(phantom_store, tmp_path_factory):
    """A finished run with the default options; the tests only read it."""
    folder = tmp_path_factory.mktemp("localized")
    bundle = random_bundle(folder / "bundle", evax.open_store(phantom_store).manifest.findings)
    config = LocalizeConfig(bundle=bundle, store=phantom_store, out=folder / "run", overlays=1, resamples=50)
    localize(config)
    return config


@pytest.fixture
def config(localized, tmp_path):
    return replace(localized, out=tmp_path / "run")


def report_of(config):
    return read_json(config.out / "report.json")


def report_after(config):
    return read_json(localize(config))


@pytest.fixture
def store_with(phantom_store, phantoms, tmp_path):
    """The phantoms prepared with another table, other boxes or another size."""

    def build(size=96, **changes):
        manifest = replace(evax.open_store(phantom_store).manifest, root=phantoms, **changes)
        return build_store(manifest, tmp_path / f"store-{size}", size=size).path

    return build


def boxes_of(store, split, finding):
    """Row -> boxes, read from the table itself."""
    table, boxes = store.manifest.table, store.manifest.boxes
    rows = {table.at[row, "image"]: int(row) for row in store.rows(split)}
    found = {}
    for box in boxes[boxes["finding"] == finding].itertuples():
        if box.image in rows:
            found.setdefault(rows[box.image], []).append((box.x, box.y, box.width, box.height))
    return dict(sorted(found.items()))


def test_hits_are_counted_on_the_images_that_have_a_box(localized):
    report = report_of(localized)
    store, predictor = evax.open_store(localized.store), evax.open_bundle(localized.bundle)
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
    assert report["published"] == []  # these stand beside official boxes only


def test_a_picture_per_finding_shows_image_and_map_side_by_side(localized):
    report = report_of(localized)
    shown = report["overlays"]
    pictures = sorted((localized.out / "overlays").iterdir())
    assert [picture.name for picture in pictures] == [each["picture"] for each in shown]
    assert [each["finding"] for each in shown] == [row["finding"] for row in report["pointing"]]
    assert all(Image.open(picture).size == (192, 96) for picture in pictures)


def test_a_finding_that_one_patient_has_is_scored_without_an_interval(config, store_with):
    table = evax.open_store(config.store).manifest.table.assign(patient="one")
    report = report_after(replace(config, store=store_with(table=table)))
    assert all(row["interval"] == [None, None] for row in report["pointing"])
    # nobody else can choose a threshold
    assert report["protocol"]["threshold_chosen_on"] == "nothing: the boxes or masks are of one patient"
    overall = report["localization"]["overall"]
    assert (overall["map"], overall["thresholds"]) == (None, [])
    assert "none" in (config.out / "report.html").read_text()


def test_test_images_that_taught_the_classifier_are_refused_and_others_are_not(config, tmp_path):
    store = evax.open_store(config.store)
    config = replace(config, bundle=shutil.copytree(config.bundle, tmp_path / "bundle"))
    save_seen(config.bundle, seen_in(store, store.rows("train", "val")))
    localize(config)
    save_seen(config.bundle, seen_in(store, np.arange(len(store))))
    with pytest.raises(DataError, match=r"has learned from \d+ of the \d+ test images"):
        localize(replace(config, out=tmp_path / "again"))
    localize(replace(config, out=tmp_path / "train", split="train"))  # asked for by name


def test_a_store_or_bundle_that_cannot_be_localized_is_refused(config, store_with, tmp_path):
    with pytest.raises(DataError, match="kept at 96 pixels, .* at 80: prepare the store with --size 96"):
        localize(replace(config, store=store_with(size=80)))
    with pytest.raises(DataError, match="No test image of .* has a box of"):
        localize(replace(config, store=store_with(boxes=no_boxes(), masks=no_masks())))
    with pytest.raises(ConfigError, match="needs a classifier"):
        localize(replace(config, bundle=random_bundle(tmp_path / "encoder")))
    findings = evax.open_store(config.store).manifest.findings
    cnn = random_bundle(tmp_path / "cnn", findings, encoder="efficientnet_lite0")
    with pytest.raises(ConfigError, match="makes no map at norm1: give --at output"):
        localize(replace(config, bundle=cnn))
    assert not config.out.exists()


def test_the_layer_of_the_map_is_said(localized, config):
    assert report_of(localized)["at"] == "norm1"
    assert report_after(replace(config, at="output"))["at"] == "output"


def overlap_by_hand(config, store, film, finding, truth):
    """(T,): of one image, by way of what the predictor itself offers. truth: a mask at the size of the map."""
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


def test_the_threshold_is_chosen_on_validation_images_where_enough_was_drawn_there(config, monkeypatch):
    monkeypatch.setattr(localization, "ENOUGH_TO_CHOOSE", 3)
    report, store = report_after(config), evax.open_store(config.store)
    validation, test = (
        overlaps_of_split(config, store, split, lambda boxes: [mask_of_boxes(boxes, (96, 96))])
        for split in ("val", "test")
    )
    assert report["protocol"]["name"] == "clean"
    assert report["protocol"]["threshold_chosen_on"].startswith(f"{len(validation)} cases on ")
    assert "val images" in report["protocol"]["threshold_chosen_on"]
    place = best_threshold(validation)
    overall = report["localization"]["overall"]
    assert overall["thresholds"] == [THRESHOLDS[place]]
    assert overall["cases"] == len(test)
    expected = case_scores(test[:, place]).mean(axis=0)
    assert [overall[name] for name in ("ap25", "ap50", "map", "miou")] == pytest.approx(expected)
    curve = report["localization"]["curve"]
    assert curve["miou"] == pytest.approx(test.mean(axis=0))


def test_without_enough_on_other_images_no_patient_takes_part_in_choosing_their_own_threshold(
    config, monkeypatch
):
    monkeypatch.setattr(localization, "ENOUGH_TO_CHOOSE", 10**6)
    report = report_after(config)
    chosen_on = report["protocol"]["threshold_chosen_on"]
    assert chosen_on.startswith("the other folds of the test patients, of ")
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
    fold = cases["patient"].map({patient: n % localization.FOLDS for n, patient in enumerate(order)})
    for number in fold.unique():
        others = best_threshold(ious[(fold != number).to_numpy()])
        assert cases.loc[fold == number, "threshold"].unique() == pytest.approx([THRESHOLDS[others]])


@pytest.mark.parametrize(("split", "choosers"), [("test", ["val", "train"]), ("val", ["train"])])
def test_test_images_choose_no_threshold_for_others(split, choosers):
    assert localization.choosing_splits(split) == choosers


def test_nobody_who_is_scored_chooses_with_another_of_their_images(config):
    store = evax.open_store(config.store)
    kinds = dict.fromkeys(store.manifest.findings, "boxes")
    films = localization.choosing_images(store, "train", kinds, set())
    someone = store.manifest.table.at[min(films), "patient"]
    left = localization.choosing_images(store, "train", kinds, {someone})
    owners = store.manifest.table["patient"]
    assert set(left) == {row for row in films if owners[row] != someone} != set(films)


def test_the_paper_s_protocol_scores_each_box_at_the_threshold_that_is_best_for_them(localized, config):
    report, store = report_after(replace(config, protocol="paper")), evax.open_store(config.store)
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
    assert set(pd.read_csv(config.out / "cases.csv")["protocol"]) == {"paper"}
    assert "protocol" not in pd.read_csv(localized.out / "cases.csv")


def test_masks_are_the_truth_when_asked_for(localized, config):
    store = evax.open_store(config.store)
    tested = store.rows("test")
    finding = next(name for name in store.manifest.findings if np.isin(store.masked_rows(name), tested).any())
    assert {row["truth"] for row in report_of(localized)["localization"]["findings"]} == {"boxes"}
    findings = report_after(replace(config, truth="masks"))["localization"]["findings"]
    row = {row["finding"]: row for row in findings}[finding]
    assert row["truth"] == "masks"
    rows = np.intersect1d(store.masked_rows(finding), tested)
    drawn = [mask for film in rows if (mask := store.masks(film)[finding]).any()]
    assert row["cases"] == len(drawn)
    assert row["share_of_film"] == pytest.approx(np.mean([mask.mean() for mask in drawn]))
    assert Image.open(config.out / "overlays" / "000.png").size == (192, 96)


def test_auto_takes_masks_for_the_findings_that_have_some_and_boxes_for_the_others(
    config, phantoms, store_with
):
    masks = read_source("csv", phantoms, {}).masks
    finding = next(
        name for name in evax.open_store(config.store).manifest.findings if name in {*masks["finding"]}
    )
    some = store_with(masks=masks[masks["finding"] == finding])
    for row in report_after(replace(config, store=some, truth="auto"))["localization"]["findings"]:
        assert row["truth"] == ("masks" if row["finding"] == finding else "boxes")


def test_the_paper_s_protocol_shows_the_whole_image_where_a_central_crop_is_usual(config):
    predictor, store = evax.open_bundle(config.bundle), evax.open_store(config.store)
    cropped = replace(predictor.card.preprocess, resize_size=80)
    predictor.card = replace(predictor.card, preprocess=cropped)
    clean, paper = (localization.Maps.of(predictor, store, "norm1", name) for name in ("clean", "paper"))
    assert (clean.preprocess, clean.side) == (cropped, 96)
    assert (paper.preprocess.seen, paper.side) == ((0.0, 1.0), 64)

"""evax segment: the report against the table and the bundle, both protocols, refusals, and real lungs."""

import re
import shlex
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file

import evax
from bundles import random_bundle
from evax.adaptation.data import load_masked
from evax.adaptation.spine import Selection, fit_and_select
from evax.cli import run
from evax.comparison.segmentations import read_segmentation
from evax.config import parse_command_line, shipped_recipes
from evax.data.building import build_store
from evax.data.loader import Batch
from evax.data.masked import findings_without_pixels
from evax.data.preprocess import Preprocess, on_film
from evax.data.sources import read_source
from evax.data.split import assign_splits
from evax.data.store import open_store
from evax.deploy.bundle import read_card
from evax.errors import ConfigError, DataError
from evax.evaluation.segmentation import THRESHOLDS, global_dice
from evax.files import read_json
from evax.jobs.compare import compare
from evax.jobs.export import export
from evax.jobs.predict import predict
from evax.jobs.prepare import prepare
from evax.jobs.recipes import header
from evax.jobs.segment import segment
from evax.models.encoders import build_encoder
from evax.models.segmenter import Segmenter
from evax.options.adaptation import SegmentConfig
from evax.options.data import PrepareConfig
from evax.options.results import CompareConfig, ExportConfig, PredictConfig
from evax.options.training import OptimizerConfig
from evax.runs.log import RunLog
from pretraining_runs import events

RECIPES = [name for name in shipped_recipes() if name.startswith("segment/")]


@pytest.fixture(scope="module")
def masked_store(phantoms, tmp_path_factory):
    """The phantoms, divided so that every split has masks of every finding."""
    out = tmp_path_factory.mktemp("masked") / "store"
    build_store(
        assign_splits(read_source("csv", phantoms, {}), validation=0.25, test=0.25, seed=3), out, size=96
    )
    return out


@pytest.fixture(scope="module")
def finished(masked_store, tmp_path_factory):
    """A finished run; the tests only read it."""
    config = SegmentConfig(
        store=masked_store, out=tmp_path_factory.mktemp("finished") / "run", image_size=64, steps=4,
        batch_size=4, validate_every=2, decoder_width=8, resamples=30, workers=1, precision="fp32",
        compile="off", pictures=4, findings=("Cardiomegaly", "Effusion"),
    )  # fmt: skip
    segment(config)
    return config


@pytest.fixture
def tiny(finished, tmp_path):
    return replace(finished, out=tmp_path / "run")


def report_of(config):
    return read_json(config.out / "report.json")


def test_the_report_the_table_and_the_bundle_say_the_same_of_the_test_images(finished):
    store, report = open_store(finished.store), report_of(finished)
    table = pd.read_csv(finished.out / "dice-test.csv", dtype={"patient": str})
    predictor = evax.open_bundle(finished.out / "bundle")
    rows = store.rows("test")
    assert table["image"].tolist() == store.manifest.table["image"].iloc[rows].tolist()
    inputs = np.stack([predictor.card.preprocess.to_input(store.pixels(row))[None] for row in rows])
    answers = predictor.predict_inputs(inputs)
    for k, (name, row) in enumerate(zip(finished.findings, report["test_metrics"]["findings"], strict=True)):
        assert row["name"] == name
        # by hand, on written-out pixels
        truths = [store.masks(film).get(name, np.zeros((96, 96), bool)) for film in rows]
        called = [on_film(answer[k], (96, 96)) >= row["threshold"] for answer in answers]
        both, either = np.sum(np.logical_and(truths, called)), np.sum(truths) + np.sum(called)
        assert row["dice"] == pytest.approx(2 * both / either if either else None)
        assert row["films_with"] == sum(truth.any() for truth in truths)
        assert table[f"called:{name}"].to_numpy() == pytest.approx(np.sum(called, axis=(1, 2)), abs=2)
        assert table[f"inside:{name}"].tolist() == [truth.sum() for truth in truths]
        assert table[f"dice:{name}"].mean() == pytest.approx(row["film_dice"], nan_ok=True)
    assert report["test"]["films"] == len(rows)
    assert report["protocol"]["scored_at"] == "96 x 96 pixels"


def test_validation_chooses_checkpoint_and_threshold(finished):
    report, looks = report_of(finished), events(finished.out, "validation")
    assert [look["step"] for look in looks] == [2, 4]
    best = max(looks, key=lambda look: (look["dice"], -look["step"]))
    assert report["best_step"] == best["step"]
    assert report["validation_mdice"] == pytest.approx(best["dice"])
    for row in report["test_metrics"]["findings"]:
        curve = np.array(report["validation_dice_by_threshold"][row["name"]], dtype=float)
        assert curve[np.argmin(abs(THRESHOLDS - row["threshold"]))] == np.nanmax(curve)
        assert read_card(finished.out / "bundle").thresholds[row["name"]] == row["threshold"]


def test_predict_writes_areas_and_masks_of_the_images_own_size(finished, phantoms, tmp_path):
    films = tuple(sorted((phantoms / "images").glob(kind))[0] for kind in ("*.dcm", "*.png"))
    config = PredictConfig(
        bundle=finished.out / "bundle", films=films, out=tmp_path / "areas.csv", masks=tmp_path / "masks"
    )
    predict(config)
    table, predictor = pd.read_csv(config.out), evax.open_bundle(config.bundle)
    for row, path in enumerate(films):
        film, stem = evax.read_image(path), f"{row + 1:05d}-{path.stem}"
        masks = predictor(film)
        assert list(masks) == list(finished.findings)
        for finding, mask in masks.items():
            assert (mask.shape, mask.dtype) == (film.pixels.shape, bool)
            assert np.array_equal(np.asarray(Image.open(config.masks / f"{stem}-{finding}.png")), mask)
            assert table.at[row, finding] == pytest.approx(mask.mean(), abs=1e-6)
            assert table.at[row, f"{finding}:present"] == mask.any()
            if film.spacing_mm is None:
                assert np.isnan(table.at[row, f"{finding}:cm2"])
            else:
                expected = mask.sum() * film.spacing_mm[0] * film.spacing_mm[1] / 100
                assert table.at[row, f"{finding}:cm2"] == pytest.approx(expected, abs=0.01)
        assert Image.open(config.masks / f"{stem}.png").size == film.pixels.shape[::-1]  # the edges
    assert evax.read_image(films[0]).spacing_mm  # the DICOM has one, the picture has none
    other, folder = replace(config, out=tmp_path / "b.csv"), phantoms / "images"
    with pytest.raises(ConfigError, match="would be taken for images"):
        predict(replace(other, films=(folder,), masks=folder / "masks"))
    with pytest.raises(ConfigError, match="is a segmenter: --heatmaps are of classifiers"):
        predict(replace(other, masks=None, heatmaps=tmp_path / "maps"))


def test_the_paper_s_protocol_keeps_the_last_checkpoint_at_its_threshold_and_says_so(tiny, caplog):
    paper = replace(tiny, protocol="paper", absent="unused")
    segment(paper)
    report = report_of(paper)
    assert not events(paper.out, "validation")
    assert report["best_step"] == 4
    assert {row["threshold"] for row in report["test_metrics"]["findings"]} == {0.3}
    assert report["protocol"]["name"] == "paper"
    assert all(row["films_without"] == 0 for row in report["test_metrics"]["findings"])
    assert "not clean" in (paper.out / "report.html").read_text()


def test_runs_on_the_same_images_are_compared_patient_by_patient(finished, tiny, tmp_path):
    segment(replace(tiny, steps=2))
    config = CompareConfig(
        runs=(finished.out, tiny.out), out=tmp_path / "compared", names=("four", "two"), resamples=60
    )
    page = compare(config)
    content = read_json(config.out / "compare.json")
    reports = {"four": report_of(finished)["test_metrics"], "two": report_of(tiny)["test_metrics"]}
    for row in content["rows"]:
        assert row["mdice"] == reports[row["name"]]["mdice"]
    (difference,) = content["differences"]
    assert (difference["name"], difference["reference"]) == ("two", "four")
    for each in (*difference["findings"], difference["mdice"]):
        assert each["interval"][0] <= each["value"] <= each["interval"][1]
        assert 0 < each["p"] <= each["p_holm"] <= 1
    two, four = ({row["name"]: row["dice"] for row in reports[name]["findings"]} for name in ("two", "four"))
    for one in difference["findings"]:
        assert one["value"] == pytest.approx(two[one["finding"]] - four[one["finding"]], abs=1e-12)
    assert "four" in page.read_text()
    written = {path.name for path in config.out.iterdir()}
    assert written >= {"compare.csv", "differences.csv", "dice.svg", "dice.png"}
    paper = replace(tiny, out=tmp_path / "paper", protocol="paper")
    segment(paper)
    again = CompareConfig(runs=(finished.out, tiny.out), out=tmp_path / "b")
    with pytest.raises(DataError, match="different protocols"):
        compare(replace(again, runs=(finished.out, paper.out)))
    with pytest.raises(ConfigError, match="leave out --prevalence"):
        compare(replace(again, prevalence=0.1))
    with pytest.raises(ConfigError, match="is a segmentation, .* masks and labels share no measure"):
        compare(replace(again, runs=(finished.out, tmp_path)))


def test_a_finding_nothing_is_known_of_stays_unknown_in_the_comparison(tiny, tmp_path):
    segment(replace(tiny, absent="unused"))
    run = read_segmentation(tiny.out, "run")
    metrics = report_of(tiny)["test_metrics"]["findings"]
    assert not run.overlaps.known.all()
    assert run.overlaps.known.sum(axis=0).tolist() == [row["films_with"] for row in metrics]
    assert global_dice(run.overlaps)[:, 0] == pytest.approx([row["dice"] for row in metrics])


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(finished, tiny, tmp_path):
    bundles = [finished.out / "bundle", segment(tiny), segment(replace(tiny, out=tmp_path / "c", seed=1))]
    a, b, c = (load_file(bundle / "model.safetensors") for bundle in bundles)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["head.1.weight"], c["head.1.weight"])


def test_a_run_that_diverges_leaves_nothing_behind(tiny):
    wild = replace(tiny, optimizer=OptimizerConfig(lr=1e30, warmup=0.0, clip_norm=0.0))
    with pytest.raises(DataError, match="the step was not taken"):
        segment(wild)
    assert not wild.out.exists()


def test_findings_without_masks_in_a_split_are_left_out_with_a_warning_and_refused_when_asked_for(
    tiny, phantom_store, caplog
):
    segment(replace(tiny, store=phantom_store, findings=()))
    names = [row["name"] for row in report_of(tiny)["test_metrics"]["findings"]]
    assert names == ["Consolidation", "Effusion", "Mass", "Pneumothorax"]
    assert "Left out, because not every split has masks of it: Cardiomegaly (no test image)." in caplog.text
    with pytest.raises(DataError, match=r"pixels of Cardiomegaly \(no test image\): leave these out"):
        segment(replace(tiny, store=phantom_store, out=tiny.out.with_name("b")))


def test_a_finding_that_the_drawn_patients_cannot_teach_is_left_out(tiny, caplog):
    segment(replace(tiny, findings=(), label_count=2))
    report = report_of(tiny)
    store, names = open_store(tiny.store), [row["name"] for row in report["test_metrics"]["findings"]]
    assert report["train"]["patients"] <= 2
    assert "(no train image)" in caplog.text
    assert 0 < len(names) < len(store.mask_findings())


def test_no_draw_of_patients_leaves_a_finding_that_none_of_them_teaches(tiny, phantom_store):
    store = open_store(phantom_store)  # cardiomegaly, which no test image has, goes first
    whole = replace(tiny, store=phantom_store, findings=(), absent="unused")
    for seed, fraction in product(range(40), (0.1, 0.15, 0.2, 0.3, 0.5)):
        try:
            films = load_masked(replace(whole, label_fraction=fraction, seed=seed))
        except DataError:
            continue  # nothing is left to learn
        left = findings_without_pixels(store, films.findings, {"train": films.train})
        assert not left, (seed, fraction)


def test_weights_that_saw_a_central_crop_draw_masks_of_whole_images(tiny, tmp_path):
    chain = Preprocess(store_size=96, input_size=64, resize_size=80)
    cropped = random_bundle(tmp_path / "ft", ("Mass",), preprocess=chain)
    assert read_card(segment(replace(tiny, weights=cropped))).preprocess.resize_size is None


def test_weights_that_learned_from_the_test_images_are_refused_whatever_taught_them(finished, tiny, tmp_path):
    again = replace(tiny, weights=finished.out / "bundle")  # a segmenter's encoder is a beginning, too
    segment(again)
    assert report_of(again)["best_step"] > 0
    table = open_store(tiny.store).manifest.table[["image", "split"]].copy()
    table["split"] = table["split"].map({"train": "test", "test": "train", "val": "val"})
    table.to_csv(tmp_path / "swapped.csv", index=False)
    with pytest.raises(DataError, match=r"has learned from \d+ of the \d+ test images"):
        segment(replace(again, split=tmp_path / "swapped.csv", out=tmp_path / "swapped"))


def test_without_a_score_the_latest_weights_are_kept(tiny):
    looks = []

    def look():
        looks.append(1)
        return float("nan"), {"dice": float("nan")}

    model = Segmenter(build_encoder("eva_x_tiny_patch16_224", img_size=32), 1, decoder_width=4)
    tiny.out.mkdir()
    films = np.zeros(2, int), np.zeros(2, int), np.zeros((2, 2, 4, 4), np.uint8)
    batches = iter([Batch(step, *films) for step in range(4)])
    selection, log = Selection(look, 2, "validation", "Dice"), RunLog(tiny.out / "log.jsonl")
    assert fit_and_select(model, batches, 4, lambda batch: {"loss": 0.0}, selection, 0, log) == 4
    assert len(looks) == 2


def test_what_cannot_be_learned_is_refused_before_a_folder_is_made(tiny, tmp_path):
    with pytest.raises(ConfigError, match="Known: .*Pneumothorax"):
        segment(replace(tiny, findings=("Hernia",)))
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    plain = prepare(PrepareConfig(raw=tmp_path, source="folders", out=tmp_path / "plain", size=32, workers=1))
    with pytest.raises(DataError, match="has no masks"):
        segment(replace(tiny, store=plain))
    assert not tiny.out.exists()


def test_a_segmenter_is_no_classifier_and_commands_for_those_say_so(finished, tmp_path, capsys):
    bundle = finished.out / "bundle"
    with pytest.raises(Exception, match="only classifiers and encoders are exported"):
        export(ExportConfig(bundle=bundle))
    for words, said in (
        (f"localize {bundle} --store {finished.store}", "needs a classifier"),
        (f"zoo convert {bundle} --to timm", "holds a segmenter"),
    ):
        assert run([*words.split(), "--out", str(tmp_path / "out")]) == 1
        assert said in capsys.readouterr().err


def test_the_page_has_the_scores_and_pictures_without_names_of_images(finished):
    page, report = (finished.out / "report.html").read_text(), report_of(finished)
    assert page.count("data:image/jpeg") >= len(report["pictures"]) > 0
    for image in open_store(finished.store).manifest.table["image"]:
        assert image not in page
    assert f"{report['test_metrics']['mdice']['value']:.3f}" in page


# facts 5.4 and 5.1: batch, epochs, layer decay, drop path of the transformers
SCHEDULES = {"lungs": (4, 10), "rsna": (4, 10), "siim": (8, 50), "shenzhen": (8, 50)}


def words_of(name):
    """Recipes of the paper's baselines leave the weights to the user."""
    return () if "eva-x" in name else ("--weights", "none")


def parsed(name, *options):
    return parse_command_line(
        SegmentConfig, ["STORE", "--recipe", name, "--out", "RUN", *words_of(name), *options], "evax"
    )


def test_every_segmentation_of_the_paper_has_a_recipe_of_each_kind_of_network():
    kinds = ("eva-x-small", "vit-small", "resnet50")
    assert {f"segment/{data}-{kind}" for data in SCHEDULES for kind in kinds} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_holds_the_settings_of_the_released_configuration(name):
    config, (data, kind) = parsed(name), name.removeprefix("segment/").split("-", 1)
    assert (config.batch_size, config.epochs, config.image_size) == (*SCHEDULES[data], 512)
    assert config.drop_path == (0.15 if kind == "eva-x-small" else 0.0)
    assert kind == "resnet50" or config.layer_decay == 0.85
    optimizer, crop = config.optimizer, config.crop
    assert (optimizer.lr, optimizer.final_lr, optimizer.schedule) == (6e-5, 0.0, "linear")
    assert (optimizer.betas, optimizer.weight_decay, optimizer.clip_norm) == ((0.9, 0.999), 0.05, 0.0)
    assert (crop.area, crop.aspect, crop.flip, config.distort) == ((1, 1), (1, 1), 0.5, True)
    assert (config.absent, config.protocol, config.decoder_width) == ("unused", "clean", 256)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_real_step(name, masked_store, tmp_path):
    small = (
        "--findings Cardiomegaly --weights None --epochs 0.1 --batch-size 2 --image-size 32 --pictures 1 "
        "--precision fp32 --compile off --decoder-width 8 --resamples 10 --workers 1"
    )
    words = [str(masked_store), "--recipe", name, "--out", str(tmp_path / "run"), *small.split()]
    config = parse_command_line(SegmentConfig, words, "evax segment")
    segment(config)
    assert events(config.out, "step")
    assert report_of(config)["test_metrics"]["n"] > 0


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_at_the_head_of_a_recipe_are_understood(name):
    text, configs = "\n".join(header(name)), {"prepare": PrepareConfig, "segment": SegmentConfig}
    for command in re.findall(r"evax (?:prepare|segment) .*?--out [A-Z]+", text):
        _, job, *arguments = shlex.split(command)
        parse_command_line(configs[job], arguments, f"evax {job}")
    assert "not re-run here" in text


@pytest.mark.real
def test_real_lungs_are_learned_in_seconds_from_imagenet_features(shared, tmp_path):
    raw = tmp_path / "raw"
    films = sorted((shared / "kermany-lungs" / "images").iterdir())[::8]
    for folder in ("images", "masks"):
        (raw / folder).mkdir(parents=True)
        for film in films:
            (path,) = (shared / "kermany-lungs" / folder).glob(f"{film.stem}.*")
            shutil.copy(path, raw / folder)
    pattern = r"(person\d+|NORMAL2-IM-\d+|IM-\d+)"
    store = prepare(
        PrepareConfig(
            raw=raw, source="masks", region="Lung", out=tmp_path / "store", size=128, patient_pattern=pattern
        )
    )
    config = SegmentConfig(
        store=store, out=tmp_path / "run", encoder="efficientnet_lite0", weights=Path("imagenet"),
        image_size=96,
        steps=30, batch_size=8, validate_every=30, resamples=100, precision="fp32", compile="off",
    )  # fmt: skip
    segment(config)
    (lung,) = report_of(config)["test_metrics"]["findings"]
    assert lung["dice"] > 0.85
    assert lung["films_with"] == report_of(config)["test"]["films"] > 10

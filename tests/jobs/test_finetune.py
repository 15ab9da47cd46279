import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import average_precision_score, roc_auc_score

import evax
from baseline_files import densenet121, mae, old_densenet, vit
from evax.cli import run
from evax.data.building import build_store
from evax.data.labelled import LabelShare, capped_rows, split_rows
from evax.data.manifest import Manifest
from evax.data.store import open_store
from evax.deploy.bundle import Card, read_card, save_bundle
from evax.errors import ConfigError, DataError
from evax.jobs.finetune import FinetuneConfig, finetune
from evax.jobs.probe import probe
from evax.models.encoders import build_encoder
from evax.options.adaptation import LabelledConfig
from evax.options.studies import ProbeConfig
from evax.options.training import OptimizerConfig
from evax.published import IMAGENET_MEAN
from studies import check_study_page


@pytest.fixture
def tiny(phantom_store, tmp_path):
    return FinetuneConfig(
        store=phantom_store, out=tmp_path / "run", image_size=64, steps=6, batch_size=8, validate_every=3,
        resamples=50, workers=1, precision="fp32", compile="off",
    )  # fmt: skip


def trained_weights(config):
    return load_file(finetune(config) / "model.safetensors")


def test_images_are_scored_as_the_bundle_will_score_them_whatever_the_training_s_precision(tiny):
    predictor = evax.open_bundle(finetune(replace(tiny, precision="bf16", steps=2)))
    table = pd.read_csv(tiny.out / "predictions-test.csv", dtype={"patient": str})
    store = open_store(tiny.store)
    films = np.stack(
        [predictor.card.preprocess.to_input(store.pixels(row))[None] for row in store.rows("test")]
    )
    scores = table[[f"probability:{finding}" for finding in predictor.card.findings]].to_numpy()
    np.testing.assert_allclose(scores, predictor.predict_inputs(films), atol=2e-5)
    assert json.loads((tiny.out / "report.json").read_text())["trained_in"] == "bf16"


def test_the_report_holds_what_scikit_learn_computes_from_the_written_predictions(tiny):
    finetune(tiny)
    report = json.loads((tiny.out / "report.json").read_text())
    table = pd.read_csv(tiny.out / "predictions-test.csv")
    assert len(table) == report["test_metrics"]["n"] == report["test"]["films"]
    for row in report["test_metrics"]["findings"]:
        labels, scores = table[f"label:{row['name']}"], table[f"probability:{row['name']}"]
        if row["auroc"] is not None:
            assert row["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
            assert row["average_precision"] == pytest.approx(
                average_precision_score(labels, scores), abs=1e-6
            )
    assert report["protocol"]["test_scored"] == "once"
    assert report["protocol"]["checkpoint_chosen_on"] == "validation mAUC"


def test_the_checkpoint_with_the_best_validation_score_is_kept_and_its_score_is_that_of_the_report(tiny):
    finetune(replace(tiny, precision="bf16"))
    lines = [json.loads(line) for line in (tiny.out / "log.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["mauc"] for line in lines if line["event"] == "validation"}
    report = json.loads((tiny.out / "report.json").read_text())
    assert report["best_step"] == max(scores, key=lambda step: (scores[step], -step))
    assert report["validation_mauc"] == scores[report["best_step"]]


@pytest.mark.parametrize("resize_size", [None, 80])
def test_the_bundle_gives_the_probabilities_of_the_test_table(tiny, phantoms, resize_size):
    predictor = evax.open_bundle(finetune(replace(tiny, resize_size=resize_size)))
    assert predictor.card.preprocess.resize_size == resize_size
    table = pd.read_csv(tiny.out / "predictions-test.csv")
    for _, row in table.iloc[:3].iterrows():
        prediction = predictor(phantoms / row["image"])
        for finding, value in prediction.items():
            assert value == pytest.approx(row[f"probability:{finding}"], abs=2e-3)


def test_the_test_images_do_not_influence_the_model(tiny, phantom_store, phantoms, tmp_path):
    store = open_store(phantom_store)
    table = store.manifest.table.copy()
    is_test = table["split"] == "test"
    table.loc[is_test, list(store.manifest.findings)] = 1 - table.loc[is_test, list(store.manifest.findings)]
    inverted = Manifest(
        table=table, findings=store.manifest.findings, exclusive=False, source="x", root=phantoms
    )
    build_store(inverted, tmp_path / "inverted", size=96)
    ours, theirs = (
        trained_weights(tiny),
        trained_weights(replace(tiny, store=tmp_path / "inverted", out=tmp_path / "b")),
    )
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_every_option_reaches_the_run(tiny, tmp_path):
    first = trained_weights(tiny)
    changes = [
        {"seed": 1}, {"label_fraction": 0.5}, {"label_count": 3}, {"steps": 5}, {"batch_size": 4},
        {"layer_decay": 0.5}, {"drop_path": 0.9}, {"optimizer": OptimizerConfig(lr=1e-2)},
        {"precision": "bf16"}, {"augmentation": "none"}, {"augmentation": "randaugment"},
        {"steps": None, "epochs": 0.3},
        {"optimizer": replace(tiny.optimizer, schedule="constant")},
    ]  # fmt: skip
    for number, change in enumerate(changes):
        other = trained_weights(replace(tiny, out=tmp_path / str(number), **change))
        assert any(not np.array_equal(first[name], other[name]) for name in first), change


def test_the_rule_for_thresholds_changes_them_and_is_in_the_protocol(tiny, tmp_path):
    rules = {"youden": "Youden", "specificity:1": "specificity of at least 1"}
    cards = [
        json.loads((finetune(replace(tiny, thresholds=rule, out=tmp_path / rule)) / "card.json").read_text())
        for rule in rules
    ]
    assert cards[0]["thresholds"] != cards[1]["thresholds"]
    for card, words in zip(cards, rules.values(), strict=True):
        assert card["training"]["protocol"]["thresholds_chosen_on"] == f"validation ({words})"
    scores = pd.read_csv(tmp_path / "specificity:1" / "predictions-val.csv")
    for finding, threshold in cards[1]["thresholds"].items():
        if threshold is not None:
            absent = scores.loc[scores[f"label:{finding}"] == 0, f"probability:{finding}"]
            assert (absent.astype(np.float32) < np.float64(threshold)).all()


def test_pre_trained_weights_are_where_fine_tuning_starts_and_their_normalisation_is_kept(
    tiny, tmp_path, caplog
):
    from evax.data.preprocess import Preprocess
    from evax.deploy.bundle import log_other_size

    caplog.set_level("INFO")
    chain = Preprocess(store_size=96, input_size=64, mean=0.1, std=0.9)
    encoder = build_encoder("eva_x_tiny_patch16_224", img_size=64)
    torch.nn.init.constant_(encoder.fc_norm.weight, 3.0)
    card = Card(kind="encoder", encoder="eva_x_tiny_patch16_224", preprocess=chain)
    save_bundle(tmp_path / "encoder", card, encoder)
    config = replace(tiny, weights=tmp_path / "encoder", optimizer=OptimizerConfig(lr=1e-9, final_lr=0.0))
    weights = trained_weights(config)
    assert weights["encoder.fc_norm.weight"] == pytest.approx(3.0)
    assert evax.open_bundle(config.out / "bundle").card.preprocess == replace(chain, bits=16)  # the store's
    log_other_size(config.weights, 64)
    assert "trained at 64 pixels" not in caplog.text
    log_other_size(config.weights, 96)
    assert "was trained at 64 pixels and sees images at 96 here; --image-size 64 is its own" in caplog.text
    other = save_bundle(tmp_path / "other", replace(card, preprocess=replace(chain, store_size=128)), encoder)
    bundle = finetune(replace(config, weights=other, out=tmp_path / "c"))
    assert "was trained on images kept at 128 pixels" in caplog.text
    assert evax.open_bundle(bundle).card.preprocess == replace(chain, bits=16)  # kept as the store keeps them


def test_an_encoder_that_was_pre_trained_on_the_test_images_is_refused(tiny, phantom_store, tmp_path):
    from evax.data.preprocess import Preprocess
    from evax.deploy.bundle import save_seen, seen_in

    store = open_store(phantom_store)
    encoder = build_encoder("eva_x_tiny_patch16_224", img_size=64)
    chain = Preprocess(store_size=96, input_size=64)
    save_bundle(
        tmp_path / "encoder",
        Card(kind="encoder", encoder="eva_x_tiny_patch16_224", preprocess=chain),
        encoder,
    )
    config = replace(tiny, weights=tmp_path / "encoder", steps=1)
    save_seen(tmp_path / "encoder", seen_in(store, store.rows("train", "val")))
    finetune(config)
    save_seen(tmp_path / "encoder", seen_in(store, store.rows("val", "test")[::2]))
    with pytest.raises(DataError, match=r"has learned from \d+ of the \d+ test images"):
        finetune(replace(config, out=tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_share_of_the_labels_is_a_share_of_the_training_patients(tiny, phantom_store):
    store = open_store(phantom_store)
    patients = store.manifest.table["patient"].to_numpy()
    whole, *held_out = split_rows(store)
    half = LabelShare(0.5).draw(store, whole, seed=0)
    assert len(set(patients[half])) == int(np.ceil(len(set(patients[whole])) / 2))
    assert set(half) < set(whole)
    assert all(set(patients[half]).isdisjoint(patients[rows]) for rows in held_out)


def test_a_store_without_labels_or_without_a_split_is_refused(tiny, phantom_store, phantoms, tmp_path):
    table = open_store(phantom_store).manifest.table.copy()
    unlabelled = Manifest(table=table, findings=(), exclusive=False, source="x", root=phantoms)
    build_store(unlabelled, tmp_path / "unlabelled", size=96)
    with pytest.raises(DataError, match="has no labels"):
        finetune(replace(tiny, store=tmp_path / "unlabelled"))
    table["split"] = table["split"].replace("val", "train")
    findings = open_store(phantom_store).manifest.findings
    build_store(
        Manifest(table=table, findings=findings, exclusive=False, source="x", root=phantoms),
        tmp_path / "noval",
        size=96,
    )
    with pytest.raises(DataError, match="has no val images"):
        finetune(replace(tiny, store=tmp_path / "noval"))
    assert not tiny.out.exists()


def test_a_finding_that_is_constant_in_validation_is_refused_before_anything_is_made(tiny, tmp_path):
    manifest = open_store(tiny.store).manifest
    finding, table = manifest.findings[0], manifest.table[["image", "split"]].copy()
    table.loc[(table["split"] == "val") & (manifest.table[finding] == 1), "split"] = ""
    table.to_csv(tmp_path / "split.csv", index=False)
    constant = replace(tiny, split=tmp_path / "split.csv", findings=(finding,))
    frozen = ProbeConfig(**{name: getattr(constant, name) for name in LabelledConfig.__dataclass_fields__})
    several = replace(constant, seeds=(0, 1))
    counts = rf"{finding} 0 and \d+\. Use more data, another split, or findings that have both \(--findings\)"
    for job, config in ((finetune, constant), (finetune, several), (probe, frozen)):
        with pytest.raises(
            DataError, match="No finding has both present and absent images in the validation.*" + counts
        ):
            job(config)
        assert not tiny.out.exists()


def test_a_finding_without_training_images_is_named_before_the_first_step_with_the_way_to_leave_it_out(
    tiny, tmp_path, caplog
):
    caplog.set_level("INFO")
    manifest = open_store(tiny.store).manifest
    finding, *others = manifest.findings
    table = manifest.table[["image", "split"]].copy()
    table.loc[(table["split"] == "train") & (manifest.table[finding] == 1), "split"] = ""
    table.to_csv(tmp_path / "split.csv", index=False)
    finetune(replace(tiny, split=tmp_path / "split.csv", steps=1))
    start, first, *_, last = [each.message for each in caplog.records if not each.message.startswith("CHECK")]
    assert start == "Starting from random weights."
    assert f"{finding} is absent on every one of the" in first
    assert f"--findings {' '.join(others)} leaves it out" in first
    report = json.loads((tiny.out / "report.json").read_text())
    assert (
        f"mAUC on test, 95 % interval over patients: {report['test_metrics']['mauc']['value']:.3f} [" in last
    )
    assert last.endswith(f"Page: {tiny.out / 'report.html'}")


def test_an_exclusive_class_without_training_images_is_refused_with_the_number_of_each(
    tiny, phantoms, tmp_path
):
    store = open_store(tiny.store)
    manifest, findings = store.manifest, store.manifest.findings[:2]
    table = manifest.table.copy()
    table[findings[1]] = 1 - table[findings[0]]
    table.loc[(table["split"] == "train") & (table[findings[0]] == 1), "split"] = ""
    classes = Manifest(table=table, findings=findings, exclusive=True, source="x", root=phantoms)
    build_store(classes, tmp_path / "classes", size=96)
    config = replace(tiny, store=tmp_path / "classes")
    frozen = ProbeConfig(**{name: getattr(config, name) for name in LabelledConfig.__dataclass_fields__})
    for job, each in ((finetune, config), (finetune, replace(config, seeds=(0, 1))), (probe, frozen)):
        with pytest.raises(DataError, match=rf"is {findings[0]} \({findings[0]} 0, .*Give a split"):
            job(each)
        assert not tiny.out.exists()


def test_exclusive_classes_have_a_bundle_without_thresholds_and_a_check_of_what_is_predicted(
    tiny, phantoms, tmp_path
):
    manifest = open_store(tiny.store).manifest
    table, names = manifest.table.copy(), ("normal", "bacterial", "viral")
    truth = np.array([0, 0, 0, 1, 0, 0, 2, 0])[np.arange(len(table)) % 8]
    for number, name in enumerate(names):
        table[name] = (truth == number).astype(np.float64)
    build_store(Manifest(table, names, True, "x", phantoms), tmp_path / "classes", size=96)
    bundle = finetune(replace(tiny, store=tmp_path / "classes", steps=1))
    assert read_card(bundle).thresholds == dict.fromkeys(names)
    report = json.loads((tiny.out / "report.json").read_text())
    predictions = pd.read_csv(tiny.out / "predictions-test.csv")
    answer = predictions[[f"probability:{name}" for name in names]].to_numpy().argmax(axis=1)
    assert predictions["predicted"].tolist() == [names[k] for k in answer]
    (check,) = [check for check in report["checks"] if check["name"] == "Predicted classes"]
    assert check["passed"] is False  # one step from a head near zero
    assert report["test_metrics"]["balanced_accuracy"]["value"] < 0.5
    assert "Balanced accuracy" in (tiny.out / "report.html").read_text()


def test_a_training_that_diverged_leaves_no_folder_in_the_way_of_the_next_try(tiny):
    with pytest.raises(DataError, match=r"The (loss|gradient) of step \d is .*lower --optimizer\.lr"):
        finetune(replace(tiny, optimizer=OptimizerConfig(lr=1e30, warmup=0.0)))
    assert not tiny.out.exists()


def test_test_images_are_scored_by_source_where_a_table_tells_it(tiny, tmp_path):
    table = open_store(tiny.store).manifest.table
    north = table["patient"].rank(method="dense") % 2 == 0
    sites = table[["patient"]].assign(source=np.where(north, "north", "south")).drop_duplicates()
    sites.to_csv(tmp_path / "sites.csv", index=False)
    finetune(replace(tiny, steps=1, sources=tmp_path / "sites.csv"))
    report = json.loads((tiny.out / "report.json").read_text())
    (by_source,) = [part for part in report["subgroups"] if part["attribute"] == "source"]
    expected = north[table["split"] == "test"].map({True: "north", False: "south"}).value_counts().to_dict()
    assert {group["group"]: group["films"] for group in by_source["groups"]} == expected
    page = (tiny.out / "report.html").read_text()
    assert "north (" in page  # too few images to be scored, but named
    assert "Sources are not compared" not in page
    sites.rename(columns={"source": "site"}).to_csv(tmp_path / "sites.csv", index=False)
    with pytest.raises(DataError, match="lacks the column source; it has patient, site"):
        finetune(replace(tiny, out=tmp_path / "other", sources=tmp_path / "sites.csv"))
    assert not (tmp_path / "other").exists()


def test_seeds_are_runs_of_their_own_summed_up_and_continued(tiny):
    tiny = replace(tiny, steps=1, seeds=(0, 1))
    assert finetune(tiny) == tiny.out / "seeds.json"
    before = {path: path.stat().st_mtime_ns for path in tiny.out.glob("runs/seed-*/report.json")}
    finetune(replace(tiny, seeds=(2,), resume=True))
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    result = json.loads((tiny.out / "seeds.json").read_text())
    values = [
        json.loads((tiny.out / f"runs/seed-{seed}/report.json").read_text())["test_metrics"]["mauc"]["value"]
        for seed in range(3)
    ]
    assert [run["mauc"] for run in result["runs"]] == values
    assert result["mauc"]["mean"] == pytest.approx(np.mean(values))
    assert result["mauc"]["interval_method"].startswith("t-interval over 3 seeds")
    of_each = result["findings"]
    assert list(of_each) == list(open_store(tiny.store).manifest.findings)
    for name, spread in of_each.items():
        found = [run[f"auroc:{name}"] for run in result["runs"] if run[f"auroc:{name}"] is not None]
        assert spread["entered"] == len(found)
        assert spread["mean"] is None or spread["mean"] == pytest.approx(np.mean(found))
    means = [result["mauc"]["mean"], *(spread["mean"] for spread in of_each.values() if spread["entered"])]
    check_study_page(replace(tiny, seeds=(0, 1, 2)), "finetune", means, runs=3)
    assert all((tiny.out / f"runs/seed-{seed}/bundle/card.json").is_file() for seed in range(3))
    with pytest.raises(ConfigError, match="Only runs over seeds are continued"):
        finetune(replace(tiny, seeds=(), resume=True))


def test_a_study_of_runs_that_the_test_images_chose_says_so(tiny):
    finetune(replace(tiny, steps=1, seeds=(0, 1), protocol="paper"))
    protocol = json.loads((tiny.out / "seeds.json").read_text())["protocol"]
    assert (protocol["name"], protocol["checkpoint_chosen_on"]) == ("paper", "test mAUC")
    assert "quirk_selection_on_test" in protocol
    assert "Protocol paper, not clean." in (tiny.out / "report.html").read_text()


def test_an_epoch_of_redrawn_labels_has_the_steps_of_all_training_images(tiny, phantom_store):
    train = len(open_store(phantom_store).rows("train"))
    finetune(replace(tiny, steps=None, epochs=1.0, label_count=2, subset="redrawn"))
    report = json.loads((tiny.out / "report.json").read_text())
    assert report["steps"] == math.ceil(train / tiny.batch_size)
    assert report["train"]["patients"] > 2


def test_redrawn_labels_are_those_of_more_patients_than_a_fixed_subset_and_the_report_counts_them(tiny):
    fixed = replace(tiny, label_count=3, steps=3)
    redrawn = replace(fixed, out=tiny.out.with_name("redrawn"), subset="redrawn")
    weights = [trained_weights(config) for config in (fixed, redrawn)]
    assert any(not np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    reports = [json.loads((config.out / "report.json").read_text()) for config in (fixed, redrawn)]
    assert [report["protocol"]["subset"] for report in reports] == ["fixed", "redrawn"]
    assert reports[0]["train"]["patients"] == 3 < reports[1]["train"]["patients"]


def test_a_cnn_with_imagenet_weights_is_tuned_with_their_normalisation_and_its_bundle_predicts(
    tiny, phantoms
):
    config = replace(tiny, encoder="efficientnet_lite0", weights=Path("imagenet"), drop_path=0.0, steps=3)
    predictor = evax.open_bundle(finetune(config))
    assert predictor.card.preprocess.mean == pytest.approx(127 / 255)
    assert predictor.card.preprocess.std == pytest.approx(128 / 255)
    table = pd.read_csv(tiny.out / "predictions-test.csv")
    film = evax.read_image(phantoms / table["image"][0])
    for finding, value in predictor(film).items():
        assert value == pytest.approx(table[f"probability:{finding}"][0], abs=2e-3)
    heatmap = evax.grad_cam(predictor, film, predictor.card.findings[0], at="output")
    assert heatmap.shape == film.pixels.shape


def test_a_cnn_without_weights_is_normalised_with_the_store_s_own_statistics(tiny, phantom_store):
    finetune(replace(tiny, encoder="efficientnet_lite0", steps=1))
    chain = evax.open_bundle(tiny.out / "bundle").card.preprocess
    assert (chain.mean, chain.std) == (open_store(phantom_store).mean, open_store(phantom_store).std)


def test_a_densenet_of_colour_pictures_is_tuned_with_their_normalisation_and_its_bundle_predicts(
    tiny, phantoms, tmp_path
):
    torch.save(old_densenet(densenet121().state_dict()), tmp_path / "densenet.pth")
    config = replace(tiny, encoder="densenet121", weights=tmp_path / "densenet.pth", steps=1, image_size=64)
    predictor = evax.open_bundle(finetune(config))
    assert predictor.card.preprocess.mean == IMAGENET_MEAN
    table = pd.read_csv(tiny.out / "predictions-test.csv")
    film = evax.read_image(phantoms / table["image"][0])
    for finding, value in predictor(film).items():
        assert value == pytest.approx(table[f"probability:{finding}"][0], abs=2e-3)
    assert evax.grad_cam(predictor, film, predictor.card.findings[0], at="output").shape == film.pixels.shape


def test_a_plain_vit_is_tuned_by_the_command_line_with_the_normalisation_of_its_file(
    tiny, phantom_store, tmp_path
):
    weights = tmp_path / "vit-s_CXR_0.3M_mae.pth"
    torch.save(mae(vit(depth=12, img_size=224).state_dict()), weights)
    command = (
        f"finetune {phantom_store} --encoder vit_small_patch16_224 --weights {weights} --out {tiny.out} "
    )
    rest = "--steps 1 --batch-size 4 --image-size 32 --resamples 20 --compile off --precision fp32"
    assert run((command + rest).split()) == 0
    card = read_card(tiny.out / "bundle")
    assert (card.preprocess.mean, card.preprocess.std) == (0.5056, 0.252)
    assert "validation mAUC" in (tiny.out / "report.json").read_text()


def test_a_capped_look_at_the_validation_images_keeps_patients_whole_and_is_the_same_for_every_seed(
    tiny, phantom_store
):
    store = open_store(phantom_store)
    patients = store.manifest.table["patient"].to_numpy()
    val = store.rows("val")
    few = capped_rows(store, val, len(val) // 2)
    assert 0 < len(few) <= len(val) // 2
    assert set(few) < set(val)
    assert not set(patients[few]) & set(patients[np.setdiff1d(val, few)])
    assert np.array_equal(capped_rows(store, val, None), val)
    finetune(replace(tiny, steps=1, validation_cap=len(val) // 2))
    report = json.loads((tiny.out / "report.json").read_text())
    assert report["validation_films_per_look"] == len(few)
    assert report["validation"]["films"] == len(val) == len(pd.read_csv(tiny.out / "predictions-val.csv"))


def test_a_head_that_starts_from_a_probe_answers_like_it_before_anything_is_learned(tiny):
    finetune(replace(tiny, head="probe", steps=1, optimizer=OptimizerConfig(lr=1e-12)))
    events = [json.loads(line) for line in (tiny.out / "log.jsonl").read_text().splitlines()]
    probed, looked = (
        next(event for event in events if event["event"] == kind) for kind in ("head", "validation")
    )
    assert looked["mauc"] == pytest.approx(probed["validation_mauc"], abs=1e-6)

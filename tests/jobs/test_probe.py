import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from evax.data.building import build_store
from evax.data.manifest import Manifest
from evax.data.preprocess import Preprocess
from evax.data.store import open_store
from evax.deploy.bundle import Card, save_bundle, save_seen, seen_in
from evax.errors import ConfigError, DataError
from evax.evaluation.classification import choose_thresholds
from evax.jobs.probe import SINGLE, probe
from evax.models.encoders import build_encoder
from evax.options.studies import ProbeConfig
from finished_runs import change_json
from pages import Page
from studies import check_study_page, content_of, write_times


@pytest.fixture
def config(phantom_store, tmp_path):
    return ProbeConfig(
        store=phantom_store, out=tmp_path / "run", image_size=64, resamples=50, precision="fp32"
    )


@pytest.fixture
def imagenet():
    return {"encoder": "efficientnet_lite0", "weights": Path("imagenet")}


def log_of(config):
    return [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("way", ["linear", "knn"])
def test_the_report_holds_what_scikit_learn_computes_from_the_written_predictions(config, way):
    report = content_of(probe(config))
    metrics = report[way]["test_metrics"]
    table = pd.read_csv(config.out / f"predictions-{way}-test.csv")
    assert len(table) == metrics["n"] == report["test"]["films"]
    chosen = pd.read_csv(config.out / f"predictions-{way}-val.csv")
    assert len(chosen) == report["validation"]["films"]
    assert not set(chosen["image"]) & set(table["image"])
    scores, labels = (chosen.filter(like=f"{kind}:").to_numpy() for kind in ("probability", "label"))
    thresholds = [row["threshold"] for row in metrics["findings"]]
    assert thresholds == pytest.approx(choose_thresholds(scores, labels).tolist(), nan_ok=True)
    aurocs = []
    for row in metrics["findings"]:
        labels, scores = table[f"label:{row['name']}"], table[f"probability:{row['name']}"]
        if row["auroc"] is not None:
            aurocs.append(roc_auc_score(labels, scores))
            assert row["auroc"] == pytest.approx(aurocs[-1], abs=1e-6)
            assert row["average_precision"] == pytest.approx(
                average_precision_score(labels, scores), abs=1e-6
            )
            assert row["auroc_interval"][0] <= row["auroc"] <= row["auroc_interval"][1]
    assert metrics["mauc"]["value"] == pytest.approx(np.mean(aurocs))
    assert metrics["mauc"]["findings_entered"] == len(aurocs)
    assert report["linear"]["validation_mauc"][f"{report['linear']['strength']:g}"] == max(
        report["linear"]["validation_mauc"].values()
    )
    assert report["protocol"]["test_scored"] == "once"
    page = (config.out / "report.html").read_text()
    assert f"evax probe {config.store}" in page
    assert f"<b>{metrics['mauc']['value']:.3f}</b>" in page
    assert "Frozen features and test" in page


def test_checks_that_failed_are_said_on_the_terminal(config, caplog):
    checks = content_of(probe(config))["checks"]
    failed = [f"{check['message']}\n  -> {check['action']}" for check in checks if check["passed"] is False]
    assert failed
    assert [each.message for each in caplog.records if each.message.startswith("CHECK")] == [
        f"CHECK: {words}" for words in failed
    ]


def test_each_way_has_subgroups_calibration_and_errors_of_its_own_as_a_fine_tuning_has(config, tmp_path):
    store = open_store(config.store)
    sources = store.manifest.table[["patient"]].drop_duplicates()
    sources["source"] = np.where(np.arange(len(sources)) % 2, "north", "south")
    sources.to_csv(tmp_path / "sources.csv", index=False)
    report = content_of(probe(replace(config, sources=tmp_path / "sources.csv")))
    page = Page(config.out / "report.html")
    assert page.open == []
    assert page.ids >= {"errors", "errors-2", "subgroups", "subgroups-2"}
    assert "Doubtful labels" not in page.text.replace("Doubtful labels:", "")
    assert "for each finding and never on these" in page.text
    assert "Sources are not compared" not in page.text
    tables = {}
    for way in ("linear", "knn"):
        part = report[way]
        table = pd.read_csv(config.out / f"predictions-{way}-test.csv")
        tables[way] = table.filter(like="probability:").to_numpy()
        assert [each["attribute"] for each in part["subgroups"]] == ["sex", "age", "view", "source"]
        assert {group["group"] for group in part["subgroups"][-1]["groups"]} == {"north", "south"}
        assert [row["name"] for row in part["calibration"]["findings"]] == list(store.manifest.findings)
        assert part["errors"]
        test_rows = store.rows("test").tolist()
        limits = {row["name"]: row["threshold"] for row in part["test_metrics"]["findings"]}
        for error in part["errors"]:
            k, film = store.manifest.findings.index(error["finding"]), test_rows.index(error["row"])
            assert error["probability"] == pytest.approx(tables[way][film, k], abs=1e-6)
            assert (error["probability"] >= limits[error["finding"]]) == (error["label"] == 0)
            assert f"row {error['row']} · {error['probability']:.3f}" in page.text
    assert report["linear"]["errors"] != report["knn"]["errors"]


def test_every_option_reaches_the_run(config, tmp_path):
    def answers(changed):
        probe(changed)
        tables = [pd.read_csv(changed.out / f"predictions-{way}-test.csv") for way in ("linear", "knn")]
        return pd.concat(tables).filter(like="probability:").to_numpy()

    first = answers(config)
    changes = [
        {"neighbours": 3}, {"label_fraction": 0.5}, {"seed": 1}, {"image_size": 96}, {"precision": "bf16"},
        {"encoder": "efficientnet_lite0"}, {"encoder": "efficientnet_lite0", "weights": Path("imagenet")},
    ]  # fmt: skip
    others = [answers(replace(config, out=tmp_path / str(n), **change)) for n, change in enumerate(changes)]
    assert all(not np.array_equal(first, other) for other in others)
    assert not np.array_equal(others[-1], others[-2])


def test_the_test_images_influence_neither_strength_nor_thresholds(config, phantom_store, phantoms, tmp_path):
    store = open_store(phantom_store)
    table, findings = store.manifest.table.copy(), store.manifest.findings
    is_test = table["split"] == "test"
    table.loc[is_test, list(findings)] = 1 - table.loc[is_test, list(findings)]
    build_store(
        Manifest(table=table, findings=findings, exclusive=False, source="x", root=phantoms),
        tmp_path / "inverted",
        size=96,
    )
    ours = content_of(probe(config))
    theirs = content_of(probe(replace(config, store=tmp_path / "inverted", out=tmp_path / "b")))
    assert ours["linear"]["validation_mauc"] == theirs["linear"]["validation_mauc"]
    for way in ("linear", "knn"):
        thresholds = [
            [row["threshold"] for row in report[way]["test_metrics"]["findings"]] for report in (ours, theirs)
        ]
        assert thresholds[0] == thresholds[1]


def test_a_sweep_encodes_every_image_once_and_a_run_of_it_is_a_probe_of_its_own(config, imagenet, tmp_path):
    config = replace(config, **imagenet, counts=(4,), fractions=(1.0,), seeds=(0, 1), name="mine")
    assert probe(config) == config.out / "linear.json"
    assert [line["films"] for line in log_of(config) if line["event"] == "features"] == [48]
    few, everything = content_of(config.out / "linear.json")["points"]
    assert (few["count"], [run["train_patients"] for run in few["runs"]]) == (4, [4, 4])
    assert (everything["count"], everything["fraction"], len(everything["runs"])) == (None, 1.0, 1)
    alone = replace(config, **SINGLE, out=tmp_path / "alone", label_count=4, seed=1)
    report = content_of(probe(alone))
    assert few["runs"][1]["mauc"] == report["linear"]["test_metrics"]["mauc"]["value"]
    voted = content_of(config.out / "knn.json")
    assert voted["points"][0]["runs"][1]["mauc"] == report["knn"]["test_metrics"]["mauc"]["value"]
    means = [point["mauc"]["mean"] for point in (few, everything, *voted["points"])]
    page = check_study_page(config, "probe", means, runs=6)
    assert "linear probe, 4 patients" in page
    assert "nearest neighbours, 100 %" in page
    drawn = (config.out / "probe.svg").read_text()
    assert "mine, linear probe" in drawn
    assert "mine, nearest neighbours" in drawn


def test_a_sweep_that_was_killed_encodes_no_image_twice_repeats_no_probe_and_may_grow(config, imagenet):
    config = replace(config, **imagenet, fractions=(0.5,), seeds=(0, 1))
    result = probe(config)
    before = content_of(result)["points"]
    result.unlink()
    (config.out / "runs/share-0.5-seed-1/report.json").unlink()
    kept = write_times(config)
    probe(replace(config, seeds=(2,), fractions=(), resume=True))
    (point,) = content_of(result)["points"]
    assert point["runs"][:2] == before[0]["runs"]
    assert [run["seed"] for run in point["runs"]] == [0, 1, 2]
    assert kept.items() <= write_times(config).items()
    assert [line["event"] for line in log_of(config)] == ["features", "resume"]
    with pytest.raises(ConfigError, match="--neighbours was 20, is 3. Choose another --out"):
        probe(replace(config, neighbours=3, resume=True))


def test_a_sweep_knows_its_weights_and_features_by_their_content_and_not_by_their_path(config, tmp_path):
    def written(folder, seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = build_encoder(config.encoder, img_size=64)
        chain = Preprocess(store_size=96, input_size=64)
        return save_bundle(folder, Card(kind="encoder", encoder=config.encoder, preprocess=chain), network)

    sweep = replace(config, weights=written(tmp_path / "encoder", 0), fractions=(0.5,), seeds=(0,))
    probe(sweep)
    moved = shutil.copytree(sweep.weights, tmp_path / "moved")
    written(sweep.weights, 1)  # another pre-training into the same folder
    with pytest.raises(ConfigError, match="the weights were others than .*encoder holds now"):
        probe(replace(sweep, fractions=(1.0,), resume=True))
    probe(replace(sweep, weights=moved, fractions=(1.0,), resume=True))
    shutil.rmtree(sweep.out / "runs")  # none is finished, and the features of before are there
    probe(replace(sweep, fractions=(1.0,), resume=True))
    events = [line["event"] for line in log_of(sweep)]
    assert events == ["features", "resume", "resume", "resume", "features"]
    assert len(list(sweep.out.glob("features-*.npy"))) == 2


def test_random_weights_are_drawn_anew_by_each_seed_of_a_sweep(config, tmp_path):
    config = replace(config, fractions=(1.0,), seeds=(0, 1))
    probe(config)
    (point,) = content_of(config.out / "linear.json")["points"]
    assert len({run["mauc"] for run in point["runs"]}) == 2
    alone = replace(config, **SINGLE, out=tmp_path / "alone", seed=1)
    report = content_of(probe(alone))
    assert point["runs"][1]["mauc"] == report["linear"]["test_metrics"]["mauc"]["value"]


def test_a_used_run_folder_of_one_probe_cannot_be_resumed(config):
    config.out.mkdir()
    (config.out / "report.json").touch()
    with pytest.raises(ConfigError, match=r"exists\. Choose another --out, or delete it"):
        probe(config)


def test_an_encoder_that_was_pre_trained_on_the_test_images_is_refused(config, tmp_path):
    store = open_store(config.store)
    card = Card(kind="encoder", encoder=config.encoder, preprocess=Preprocess(store_size=96, input_size=64))
    encoder = save_bundle(tmp_path / "encoder", card, build_encoder(config.encoder, img_size=64))
    save_seen(encoder, seen_in(store, store.rows("test")[:1]))
    patients = store.manifest.table["patient"].to_numpy(dtype=str)[store.rows("test")]
    theirs = np.count_nonzero(patients == patients[0])  # the other images of the patient count, too
    with pytest.raises(DataError, match=rf"has learned from {theirs} of the \d+ test images"):
        probe(replace(config, weights=encoder))
    assert not config.out.exists()


def test_chosen_findings_are_probed_alone(config):
    names = open_store(config.store).manifest.findings
    report = content_of(probe(replace(config, findings=(names[2], names[0]))))
    for way in ("linear", "knn"):
        rows = report[way]["test_metrics"]["findings"]
        assert [row["name"] for row in rows] == [names[2], names[0]]


@pytest.fixture
def classes(phantom_store, phantoms, tmp_path):
    """The phantoms with three exclusive classes, most of them of the first one."""
    manifest = open_store(phantom_store).manifest
    table = manifest.table.copy()
    truth = np.array([0, 0, 0, 1, 0, 0, 2, 0])[np.arange(len(table)) % 8]
    for number, finding in enumerate(NAMES):
        table[finding] = (truth == number).astype(np.float64)
    build_store(Manifest(table, NAMES, True, "x", phantoms), tmp_path / "classes", size=96)
    return tmp_path / "classes"


NAMES = ("normal", "bacterial", "viral")


def test_exclusive_classes_are_predicted_without_thresholds_and_checked_in_both_ways(config, classes, caplog):
    config = replace(config, store=classes, thresholds="f1")
    report = content_of(probe(config))
    assert "--thresholds f1 has no effect" in caplog.text
    names = [check["name"] for check in report["checks"]]
    assert {"Predicted classes", "Predicted classes, nearest neighbours", "Strength of the linear probe"} < {
        *names
    }
    for way in ("linear", "knn"):
        table = pd.read_csv(config.out / f"predictions-{way}-test.csv")
        answer = table[[f"probability:{name}" for name in NAMES]].to_numpy().argmax(axis=1)
        truth = table[[f"label:{name}" for name in NAMES]].to_numpy().argmax(axis=1)
        assert table["predicted"].tolist() == [NAMES[k] for k in answer]
        metrics = report[way]["test_metrics"]
        assert metrics["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(truth, answer))
        assert [row["threshold"] for row in metrics["findings"]] == [None] * 3
    losses = report["linear"]["validation_log_loss"]
    assert losses[f"{report['linear']['strength']:g}"] == min(losses.values())
    assert report["protocol"]["thresholds_chosen_on"] == "none: the most probable class is predicted"


def test_a_sweep_does_not_hold_probes_whose_strength_was_chosen_otherwise(config, classes):
    config = replace(config, store=classes, fractions=(1.0,), seeds=(0,))
    probe(config)
    (report,) = config.out.glob("runs/*/report.json")
    change_json(report, protocol__strength_chosen_on="validation mAUC, one for all findings")
    with pytest.raises(ConfigError, match="older evax, which chose the strength on validation mAUC"):
        probe(replace(config, resume=True))

"""Probes are compared as runs and sweeps of fine-tuning are, each of their two ways as a row of its own."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evax.comparison.read import read_runs
from evax.data.building import build_store
from evax.data.labelled import LabelShare
from evax.data.manifest import Manifest
from evax.data.store import open_store
from evax.errors import DataError
from evax.jobs.compare import compare, references_of
from evax.jobs.finetune import FinetuneConfig, finetune
from evax.jobs.probe import probe
from evax.options.results import CompareConfig
from evax.options.studies import ProbeConfig
from finished_runs import change_json

IMAGENET = {"encoder": "efficientnet_lite0", "weights": Path("imagenet")}


@pytest.fixture(scope="module")
def config(phantom_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    return ProbeConfig(
        store=phantom_store, out=folder / "cnn", image_size=32, resamples=20, precision="fp32",
        findings=open_store(phantom_store).manifest.findings[:2], **IMAGENET,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cnn(config):
    probe(config)
    return config.out


@pytest.fixture(scope="module")
def vit(config):
    out = config.out.with_name("vit")
    probe(replace(config, out=out, encoder="eva_x_tiny_patch16_224", weights=None))
    return out


@pytest.fixture(scope="module")
def sweep(config):
    out = config.out.with_name("sweep")
    probe(replace(config, out=out, fractions=(0.5, 1.0), seeds=(0, 1)))
    return out


@pytest.fixture(scope="module")
def tuned(config):
    out = config.out.with_name("tuned")
    finetune(
        FinetuneConfig(
            store=config.store, out=out, findings=config.findings, image_size=32, steps=2, batch_size=4,
            validate_every=2, resamples=20, workers=1, precision="fp32", compile="off",
        )
    )  # fmt: skip
    return out


def done(folders, out, **options):
    compare(CompareConfig(runs=tuple(folders), out=out, **({"resamples": 30, "repeats": 0} | options)))
    return json.loads((out / "compare.json").read_text())


def pairs(content):
    return [(one["name"], one["reference"]) for one in content["differences"]]


def pairs_of(*folders):
    entries = read_runs(folders, ()).entries
    found = zip(entries, references_of(entries, ""), strict=True)
    return [(entry.name, entries[other].name) for entry, other in found if other is not None]


def test_a_probe_is_two_rows_with_the_numbers_of_its_report(cnn, vit, tmp_path):
    content = done([cnn, vit], tmp_path / "out")
    names = ["cnn, linear", "cnn, knn", "vit, linear", "vit, knn"]
    assert [row["name"] for row in content["rows"]] == names
    assert pairs(content) == [("vit, linear", "cnn, linear"), ("vit, knn", "cnn, knn")]
    for row in content["rows"]:
        folder, way = (part.strip() for part in row["name"].split(","))
        metrics = json.loads((cnn.with_name(folder) / "report.json").read_text())[way]["test_metrics"]
        for name in ("mauc", "map", "macc"):
            assert row[name]["value"] == pytest.approx(metrics[name]["value"], abs=1e-9)
        table = pd.read_csv(cnn.with_name(folder) / f"predictions-{way}-test.csv")
        for ours, theirs in zip(row["findings"], metrics["findings"], strict=True):
            assert (ours["sensitivity"], ours["ppv"]) == (theirs["sensitivity"], theirs["ppv"])
            if ours["auroc"] is not None:
                labels, scores = (table[f"{kind}:{ours['name']}"] for kind in ("label", "probability"))
                assert ours["auroc"] == pytest.approx(roc_auc_score(labels, scores))
        assert list(row["calibration"]) == ["none", "temperature", "platt", "isotonic"]
        assert np.isfinite(row["calibration"]["platt"]["brier"])
    page = (tmp_path / "out" / "compare.html").read_text()
    for words in ("linear probe", "nearest neighbours", "A probe keeps no network", "strength chosen on"):
        assert words in page
    assert "fine-tuning" not in page.partition("What only some of the rows")[0]


def test_a_single_probe_compares_its_two_ways(cnn):
    assert pairs_of(cnn) == [("cnn, knn", "cnn, linear")]


def test_the_cost_of_a_probe_is_the_encoder_s_without_the_norm_that_it_leaves_out(vit, tuned, tmp_path):
    content = done([vit, tuned], tmp_path / "out", repeats=1)
    linear, knn, whole = content["rows"]
    findings, width = len(content["findings"]), 192
    head = findings * (width + 1)
    assert linear["parameters"] == whole["parameters"] - 2 * width
    assert knn["parameters"] == linear["parameters"] - head
    assert knn["multiply_adds"] == linear["multiply_adds"] - findings * width
    assert linear["cpu_ms_per_film"] == knn["cpu_ms_per_film"] > 0


def test_a_sweep_of_probes_has_a_row_per_share_and_way_and_a_curve_per_way(vit, sweep, tmp_path):
    content = done([sweep, vit], tmp_path / "out")
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows)[:4] == [
        "sweep, linear, 50 %", "sweep, linear, 100 %", "sweep, knn, 50 %", "sweep, knn, 100 %",
    ]  # fmt: skip
    assert rows["sweep, knn, 50 %"]["seeds"] == [0, 1]
    assert pairs(content) == [("vit, linear", "sweep, linear, 100 %"), ("vit, knn", "sweep, knn, 100 %")]
    for way in ("linear", "knn"):
        few, everything = json.loads((sweep / f"{way}.json").read_text())["points"]
        assert rows[f"sweep, {way}, 50 %"]["mauc"]["value"] == pytest.approx(few["mauc"]["mean"])
        spread = rows[f"sweep, {way}, 50 %"]["spread_over_seeds"]["mauc"]
        assert spread["sd"] == pytest.approx(few["mauc"]["sd"])
        assert rows[f"sweep, {way}, 100 %"]["mauc"]["value"] == pytest.approx(everything["mauc"]["mean"])
    drawn = (tmp_path / "out" / "few-labels.svg").read_text()
    assert "sweep, linear" in drawn
    assert "sweep, knn" in drawn
    points = pd.read_csv(tmp_path / "out" / "few-labels.csv")
    assert points["name"].tolist() == ["sweep, linear"] * 2 + ["sweep, knn"] * 2
    assert pairs_of(sweep) == [
        ("sweep, linear, 50 %", "sweep, linear, 100 %"),
        ("sweep, knn, 50 %", "sweep, linear, 50 %"),
        ("sweep, knn, 100 %", "sweep, linear, 100 %"),
    ]


def test_a_probe_and_a_fine_tuning_are_compared_and_the_page_says_what_each_chose(vit, tuned, tmp_path):
    content = done([vit, tuned], tmp_path / "out")
    assert pairs(content) == [("tuned", "vit, linear")]
    assert pairs_of(tuned, vit) == [("vit, linear", "tuned"), ("vit, knn", "tuned")]
    said = {one["entry"]: one["values"] for one in content["protocol_of_some"]}
    assert said["checkpoint_chosen_on"] == [None, None, "validation mAUC"]
    assert said["strength_chosen_on"] == ["validation mAUC, one for all findings", None, None]
    assert not said.keys() & content["protocol"].keys()
    assert content["protocol"]["subset"] == "fixed"
    assert [one["entry"] for one in content["recipe_differs"]] == []  # no list of all options of finetune
    page = (tmp_path / "out" / "compare.html").read_text()
    for words in ("What only some of the rows have to say", "what else they chose depends on the row"):
        assert words in page


def test_two_that_say_how_they_chose_must_agree_also_with_another_run_between(cnn, vit, tuned, tmp_path):
    other = Path(shutil.copytree(cnn, tmp_path / "other"))
    change_json(other / "report.json", protocol__strength_chosen_on="the test images")
    with pytest.raises(
        DataError, match="strength chosen on is 'validation mAUC, one for all findings' in th"
    ):
        done([tuned, vit, other], tmp_path / "out")
    redrawn = Path(shutil.copytree(tuned, tmp_path / "redrawn"))
    change_json(redrawn / "report.json", protocol__subset="redrawn")
    with pytest.raises(DataError, match="subset is 'fixed' in the first and 'redrawn' in the second"):
        done([vit, redrawn], tmp_path / "out")


def test_probes_that_were_tested_on_other_images_or_under_another_protocol_are_refused(cnn, tuned, tmp_path):
    elsewhere = Path(shutil.copytree(cnn, tmp_path / "elsewhere"))
    change_json(elsewhere / "report.json", data_fingerprint="fedcba9876543210")
    for ours in (cnn, tuned):
        with pytest.raises(DataError, match=r"learned from different stores .*Run one of them again on"):
            done([ours, elsewhere], tmp_path / "out")
    other = Path(shutil.copytree(cnn, tmp_path / "other"))
    for way in ("linear", "knn"):
        answers = pd.read_csv(other / f"predictions-{way}-test.csv")
        answers.loc[0, "image"] = "else.png"
        answers.to_csv(other / f"predictions-{way}-test.csv", index=False)
    with pytest.raises(DataError, match="not tested on the same images: 2 images are in one test split only"):
        done([tuned, other], tmp_path / "out")
    other = Path(shutil.copytree(cnn, tmp_path / "f1"))
    change_json(other / "report.json", protocol__thresholds_chosen_on="validation (largest F1)")
    with pytest.raises(DataError, match="thresholds chosen on is 'validation .Youden.' in the first"):
        done([tuned, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_finding_that_no_training_image_of_a_probe_knows_enters_the_mean_of_no_row(
    config, phantoms, tmp_path
):
    store = open_store(config.store)
    table, findings = store.manifest.table.copy(), store.manifest.findings
    people = sorted(set(table.loc[table["split"] == "train", "patient"]))
    for number, row in table[table["split"] == "train"].iterrows():
        if row["patient"] != people[0]:
            table.loc[number, findings[0]] = np.nan
    manifest = Manifest(table=table, findings=findings, exclusive=False, source="x", root=phantoms)
    build_store(manifest, tmp_path / "store", size=96)
    store = open_store(tmp_path / "store")
    known = store.manifest.labels()[:, 0]
    draws = {
        seed: known[LabelShare(0.5).draw(store, store.rows("train"), seed)] for seed in range(20)
    }  # some hold the patient who knows the finding, some do not
    silent, telling = (
        next(seed for seed, drawn in draws.items() if np.isnan(drawn).all() == wanted)
        for wanted in (True, False)
    )
    for seed in (silent, telling):
        out = tmp_path / f"seed-{seed}"
        probe(replace(config, store=store.path, out=out, label_fraction=0.5, seed=seed))
    content = done([tmp_path / f"seed-{telling}", tmp_path / f"seed-{silent}"], tmp_path / "out")
    assert findings[0] in content["not_learned"]
    assert {f"seed-{silent}, linear", f"seed-{silent}, knn"} <= set(content["not_learned"][findings[0]])
    assert content["rows"][2]["findings"][0]["auroc"] is None


def test_probes_from_before_their_validation_answers_were_kept_are_compared_without_recalibration(
    cnn, vit, tmp_path
):
    old = Path(shutil.copytree(cnn, tmp_path / "old"))
    for way in ("linear", "knn"):
        (old / f"predictions-{way}-val.csv").unlink()
    rows = done([old, vit], tmp_path / "out")["rows"]
    assert [len(row["calibration"]) for row in rows] == [1, 1, 4, 4]
    assert "before their answers were kept" in (tmp_path / "out" / "compare.html").read_text()
    (old / "predictions-knn-test.csv").unlink()
    with pytest.raises(DataError, match=r"has no predictions-knn-test.csv, which every comparison needs"):
        done([old, vit], tmp_path / "other")

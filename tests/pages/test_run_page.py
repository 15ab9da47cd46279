"""The page of one fine-tuning: every section, the numbers of report.json, and nobody's name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evax.adaptation.examine import ERRORS_PER_FINDING, Scored, examine, run_checks
from evax.adaptation.protocol import write_predictions
from evax.data.building import build_store
from evax.data.labelled import data_fingerprint
from evax.data.manifest import Manifest
from evax.data.store import open_store
from evax.errors import DataError
from evax.evaluation.classification import choose_thresholds
from evax.evaluation.report import evaluate_classifier
from evax.files import read_json, write_json
from evax.pages.run import write_run_page
from pages import Page

FINDINGS = ("Effusion", "Mass")
SECTIONS = {"short", "steps", "data", "finetuning", "subgroups", "errors", "labels", "environment", "limits"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """240 small images of 120 people with names one would recognise, one of them in validation and test."""
    raw, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    patients = [f"Lovelace^Ada{number // 2:03}" for number in range(240)]
    names = [f"{patient}-{number}.png" for number, patient in enumerate(patients)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(raw / name)
    table = pd.DataFrame({"image": names, "patient": patients, "study": "Lovelace-study"})
    table["view"], table["age"] = np.where(np.arange(240) % 3, "PA", "AP"), rng.integers(20, 79, 240) * 1.0
    table["sex"] = np.where(np.arange(240) // 2 % 2, "F", "M")
    table["split"] = ["train"] * 61 + ["val"] * 59 + ["test"] * 118 + ["train"] * 2
    table.loc[60, "split"] = "test"  # image 61 of the same person stays for validation
    for finding in FINDINGS:
        table[finding] = (rng.random(240) < 0.4).astype(np.float32)
    build_store(Manifest(table, FINDINGS, False, "csv:squares", raw), raw / "store", size=32)
    return open_store(raw / "store")


def scored(store, split: str, rng) -> Scored:
    rows = store.rows(split)
    labels = store.manifest.labels()[rows].astype(np.float64)
    probabilities = np.clip(0.3 + 0.3 * labels + 0.2 * rng.standard_normal(labels.shape), 0.01, 0.99)
    return Scored(rows, labels, probabilities)


def write_run(store, folder: Path, **changes) -> Path:
    """What evax finetune leaves behind, without the training."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    validation, test = scored(store, "val", rng), scored(store, "test", rng)
    thresholds = choose_thresholds(validation.probabilities, validation.labels)
    patients = store.manifest.table["patient"].to_numpy(str)[test.rows]
    metrics = evaluate_classifier(
        test.probabilities, test.labels, FINDINGS, patients, thresholds, False, resamples=50
    )
    labels, train = store.manifest.labels().astype(np.float64), store.rows("train")
    features = np.random.default_rng(2).standard_normal((len(train), 4))
    checks = run_checks(store, train, validation, test, labels, (train, features), folder)
    write_predictions(folder / "predictions-test.csv", store, test.rows, test.labels, test.probabilities)
    steps = [{"event": "step", "step": n, "loss": 1 / n, "lr": 1e-3 / n, "seconds": n} for n in range(1, 6)]
    looks = [{"event": "validation", "step": n, "mauc": 0.6 + n / 100, "seconds": n} for n in (2, 5)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps + looks))
    write_json({"evax": "0.1.0", "date": "2025-11-03T10:00:00", "cores": 2}, folder / "environment.json")
    report = {
        "kind": "finetune", "encoder": "eva_x_tiny_patch16_224", "weights": None, "best_step": 5,
        "data_fingerprint": store.fingerprint, "recipe": {"store": str(store.path)},
        "protocol": {"name": "clean", "thresholds_chosen_on": "validation (Youden)", "label_fraction": 1.0},
        **{name: {"films": 60, "patients": 30} for name in ("train", "validation", "test")},
        "test_metrics": metrics.to_json(), "checks": checks,
        **examine(store, validation, test, np.full(len(FINDINGS), True), thresholds, resamples=50, seed=0),
        "model": {
            "parameters": 5500805, "licence": "Apache-2.0", "intended_use": "Not a medical device.",
            "preprocess": {"store_size": 32, "input_size": 64, "mean": 0.5, "std": 0.25}, "began_from": {},
        },
        "command": "evax finetune 'my store' --out run", "seconds": 12.5,
    }  # fmt: skip
    write_json(report | changes, folder / "report.json")
    return write_run_page(folder)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory) -> Path:
    return write_run(store, tmp_path_factory.mktemp("run")).parent


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(run / "report.html")


def test_the_page_is_well_formed_and_has_every_section(page):
    assert page.open == []
    assert page.ids >= SECTIONS
    for label in (
        "ROC curve of Mass",
        "Precision and recall of Mass",
        "Calibration of Mass",
        "learning rate of",
    ):
        assert f'aria-label="{label}' in page.source
    assert "5,500,805" in page.text
    assert "evax finetune 'my store' --out run" in page.text
    assert len(page.source) < 3_000_000


def test_no_patient_is_named_on_the_page_in_the_report_or_in_the_list_of_doubtful_labels(run, page):
    written = page.source + (run / "report.json").read_text() + (run / "suspicious.csv").read_text()
    assert "Lovelace" in (run / "predictions-test.csv").read_text()
    assert not re.search("lovelace|ada0", written, re.IGNORECASE)


def test_a_leak_between_splits_shouts_before_the_first_number(run, page):
    check = read_json(run / "report.json")["checks"][0]
    assert not check["passed"]
    assert "(image rows 60, 61)" in check["message"]
    assert page.text.index(check["message"]) < page.text.index("Mean AUC on test")
    assert check["action"] in page.text


def test_the_numbers_of_groups_and_temperatures_are_those_of_the_report(run, page):
    report = read_json(run / "report.json")
    assert [part["attribute"] for part in report["subgroups"]] == ["sex", "age", "view"]
    for part in report["subgroups"]:
        assert part["groups"]
        for group in part["groups"]:
            shown = f"{group['group']} ({group['films']} images of {group['patients']} patients)"
            if group["mauc"] is not None:
                low, high = group["mauc_interval"]
                shown = f"{group['mauc']:.3f} [{low:.3f}, {high:.3f}]"
            assert shown in page.text
    for row in report["calibration"]["findings"]:
        after = f"after temperature {row['temperature']:.2f}: {row['ece']:.3f}, {row['brier']:.3f}"
        assert after in page.text


def test_errors_are_on_the_wrong_side_of_the_threshold_and_shown_by_row(run, page, store):
    report = read_json(run / "report.json")
    thresholds = {row["name"]: row["threshold"] for row in report["test_metrics"]["findings"]}
    assert report["errors"]
    for error in report["errors"]:
        assert store.manifest.table.loc[error["row"], error["finding"]] == error["label"]
        assert (error["probability"] >= thresholds[error["finding"]]) == (error["label"] == 0)
        assert f"row {error['row']} · {error['probability']:.3f}" in page.text
    of_one = [e for e in report["errors"] if e["finding"] == "Mass" and e["label"] == 0]
    assert 0 < len(of_one) <= ERRORS_PER_FINDING


def test_the_most_doubtful_tenth_of_the_labels_is_listed_in_order_and_no_test_label(run, page, store):
    table = pd.read_csv(run / "suspicious.csv")
    assert list(table.columns) == ["film_row", "split", "finding", "label", "score"]
    assert len(table) == 25  # of the 122 images that are not tested x 2 findings
    assert table["score"].is_monotonic_decreasing
    truth = [store.manifest.table.loc[row.film_row, row.finding] for row in table.itertuples()]
    assert (table["label"] == truth).all()
    assert set(table["split"]) == {"train", "validation"}
    assert "Test labels may be mended only blind to every model" in page.text


def test_what_could_not_be_judged_and_how_many_images_chose_the_checkpoint_is_on_the_page(store, tmp_path):
    checks = [
        {"name": "Doubtful labels", "passed": passed, "message": f"said {passed}", "action": ""}
        for passed in (True, None)
    ]
    protocol = {
        "name": "clean", "checkpoint_chosen_on": "validation mAUC", "thresholds_chosen_on": "validation",
    }  # fmt: skip
    changes = {"checks": checks, "protocol": protocol, "validation_films_per_look": 20}
    page = Page(write_run(store, tmp_path / "run", **changes))
    for words in (
        "1 of 2 checks passed, 1 could not be judged",
        "Doubtful labels: could not be judged said None",
        "checkpoint chosen on validation mAUC of 20 of the 60 validation images",
    ):
        assert words in page.text
    assert page.source.count("✓") == 1


def test_a_run_on_a_table_s_split_has_its_images_divided_as_the_table_says(store, tmp_path, page):
    table = store.manifest.table[["image", "split"]].copy()
    table.loc[:9, "split"] = "val"  # of 61 that train in the store
    path = tmp_path / "fold-0.csv"
    table.iloc[:-2].to_csv(path, index=False)  # the last two are left out
    changes = {
        "data_fingerprint": data_fingerprint(store, path),
        "recipe": {"store": str(store.path), "split": str(path)},
    }
    folded = Page(write_run(store, tmp_path / "run", **changes))
    assert folded.pictures == page.pictures
    assert "No pictures" not in folded.text
    assert "split table fold-0.csv" in folded.text
    assert "train 50 images" in folded.text
    assert "no split 2 images" in folded.text
    path.unlink()
    bare = Page(write_run_page(tmp_path / "run"))
    assert bare.pictures == page.pictures
    assert "split table fold-0.csv, which is not there any more or was changed" in bare.text
    assert "no split 240 images" in bare.text


def test_without_its_store_the_page_has_the_same_numbers_and_says_why_there_are_no_pictures(run, page):
    report = read_json(run / "report.json")
    try:
        write_json(report | {"recipe": {"store": "gone"}}, run / "report.json")
        bare = Page(write_run_page(run))
    finally:
        write_json(report, run / "report.json")
        write_run_page(run)
    assert "No pictures: gone is not there any more" in bare.text
    assert bare.pictures == 0 < page.pictures
    assert f"{report['test_metrics']['mauc']['value']:.3f}" in bare.text


def test_another_protocol_than_clean_is_said_loudly(store, tmp_path):
    protocol = {"name": "paper", "warning": "the test images chose", "thresholds_chosen_on": "test"}
    loud = Page(write_run(store, tmp_path / "run", protocol=protocol | {"label_fraction": 1.0}))
    assert "Protocol paper, not clean." in loud.text
    assert loud.text.index("the test images chose") < loud.text.index("Mean AUC on test")
    assert loud.text.count("not clean") == 1


def test_a_report_of_an_older_evax_is_named_with_what_it_lacks(run, tmp_path):
    report = read_json(run / "report.json")
    for name in ("environment.json", "suspicious.csv"):
        (tmp_path / name).write_text((run / name).read_text())
    del report["subgroups"]
    write_json(report, tmp_path / "report.json")
    with pytest.raises(DataError, match=r"report\.json has no 'subgroups'.*run that step again"):
        write_run_page(tmp_path)

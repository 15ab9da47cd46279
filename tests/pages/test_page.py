"""The page shows what the files of a run say, requests nothing, and names a file that is broken."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evax.data.building import build_store
from evax.data.manifest import Manifest
from evax.data.store import open_store
from evax.errors import DataError
from evax.evaluation.localization import THRESHOLDS, localization_scores
from evax.evaluation.published import PUBLISHED_MAPS
from evax.evaluation.report import evaluate_classifier, marked
from evax.explain.localization import protocol_entries
from evax.explain.overlay import overlay
from evax.files import read_json, write_json
from evax.pages.run import write_demo_page
from finished_runs import change_json
from pages import Page

FINDINGS = ("Effusion", "Mass", "Hernia")  # no test image has a hernia
SECTIONS = {"store": "data", "pretrain": "pretraining", "finetune": "finetuning", "localize": "localisation"}


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> Path:
    """A store of 40 small images of 20 patients, with a box, unknown labels and one file that was lost."""
    raw, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    names = [f"{number:03}.png" for number in range(40)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (48, 40), dtype=np.uint8)).save(raw / name)
    table = pd.DataFrame({"image": [*names, "lost.png"], "patient": [f"p{n // 2}" for n in range(41)]})
    table["study"], table["view"], table["sex"] = "", "PA", ["F", "M", ""] * 13 + ["F", "M"]
    table["age"] = [np.nan, *np.linspace(20, 80, 40)]
    table["split"] = ["test"] * 16 + ["val"] * 6 + ["train"] * 19
    table["Effusion"] = np.float32([1, 0] * 20 + [0])
    table["Mass"] = np.float32([0, 0, 1, np.nan] * 10 + [0])
    table["Hernia"] = np.float32([0] * 39 + [1, 0])
    boxes = pd.DataFrame(
        [("000.png", "Effusion", 0.2, 0.3, 0.4, 0.3)],
        columns=["image", "finding", "x", "y", "width", "height"],
    )
    store = raw / "store"
    manifest = Manifest(table, FINDINGS, False, "forty squares", raw, boxes)
    build_store(manifest, store, size=32, workers=1, split_note="by patient, seed 0")
    return store


def write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_pretraining(folder: Path) -> None:
    folder.mkdir()
    step = {"event": "step", "lr": 1e-3}
    steps = [
        step | {"step": n, "images": 128 * n, "cosine": n / 20, "loss": -n / 20, "seconds": n}
        for n in range(1, 13)
    ]
    probe = {"event": "probe", "knn_findings": 2, "rankme": 9.5}
    first, last = (probe | {"step": n, "images": 128 * n, "knn_auc": 0.5 + n / 100} for n in (0, 12))
    write_lines(folder / "log.jsonl", [{"event": "start", "step": 0}, first, *steps, last])
    report = {
        "kind": "pretrain", "encoder": "eva_x_tiny_patch16_224",
        "tokenizer": {"name": "efficientnet_lite0", "layer": "2", "view": 256, "weights": "0123abcd"},
        "image_size": 128, "batch_size": 64, "mask_ratio": 0.3, "steps": 12, "images": 1536,
        "resumed": 2, "images_per_s": 33.14, "final_cosine": 0.5678,
        "stores": ["feedbeef"], "knn_auc_first": 0.5123, "knn_auc_last": 0.6234, "rankme_last": 9.5,
    }  # fmt: skip
    write_json(report, folder / "report.json")


def write_finetuning(
    folder: Path, films: Path, seed: int = 0, exclusive: bool = False, weights: str | None = None
):
    folder.mkdir()
    store, rng = open_store(films), np.random.default_rng(seed)
    table = store.manifest.table.loc[store.rows("test")]
    labels = table[list(FINDINGS)].to_numpy(np.float64)
    if exclusive:
        labels = np.eye(3)[np.arange(len(table)) % 3]
    probabilities = np.clip(rng.random(labels.shape) * 0.6 + 0.3 * (labels == 1), 0.01, 0.99)
    patients, thresholds = table["patient"].to_numpy(str), np.array([0.5, 0.4, np.nan])
    report = evaluate_classifier(
        probabilities, labels, FINDINGS, patients, thresholds, exclusive, resamples=50
    )
    predictions = table[["image", "patient"]].copy()
    for column, finding in enumerate(FINDINGS):
        predictions[f"label:{finding}"] = labels[:, column]
        predictions[f"probability:{finding}"] = probabilities[:, column]
    predictions.to_csv(folder / "predictions-test.csv", index=False)
    steps = [{"event": "step", "step": n, "loss": 1 / n, "lr": 1e-3, "seconds": n} for n in range(1, 9)]
    checks = [{"event": "validation", "step": n, "mauc": 0.6 + n / 100, "seconds": n} for n in (4, 8)]
    write_lines(folder / "log.jsonl", steps + checks)
    protocol = {
        "name": "clean", "checkpoint_chosen_on": "validation mAUC", "test_scored": "once",
        "thresholds_chosen_on": "validation (Youden)", "split": "by patient, seed 0",
        "label_fraction": 0.01, "seed": seed,
        "interval": "patient-clustered bootstrap, percentile, 50 resamples",
    }  # fmt: skip
    sizes = {name: {"films": 19, "patients": 10} for name in ("train", "validation", "test")}
    facts = {"kind": "finetune", "encoder": "eva_x_tiny_patch16_224", "weights": weights}
    facts |= {"protocol": protocol, "best_step": 8, "test_metrics": report.to_json()}
    write_json(facts | sizes, folder / "report.json")


def write_localization(folder: Path, protocol: str = "clean") -> None:
    (folder / "overlays").mkdir(parents=True)
    film = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    overlay(film, film, [(0.2, 0.3, 0.4, 0.3)]).save(folder / "overlays" / "000.png")
    pointing = [
        {"finding": "Pleural-Mass", "films": 8, "hits": 5, "rate": 0.625, "interval": [0.3, 0.9]},
        {"finding": "Pleural", "films": 1, "hits": 1, "rate": 1.0, "interval": [None, None]},
    ]
    ious = np.array([0.6, 0.3, 0.3, 0.1, 0.1, 0.1, 0.1, 0.0, 0.2])
    patients = [f"p{n}" for n in range(9)]
    further = {"films": 8, "thresholds": [0.25, 0.3], "share_of_film": 0.125, "empty_maps": 2}
    rows = [
        {"finding": name, "truth": "boxes", **further, **localization_scores(ious[part], patients[part], 50)}
        for name, part in (("Pleural-Mass", slice(8)), ("Pleural", slice(8, 9)))
    ]
    everything = {"films": 9, "hits": 6, "rate": 6 / 9, "interval": [0.4, 0.9]}
    curve = {name: np.linspace(0.4, 0, 60).tolist() for name in ("ap25", "ap50", "map", "miou")}
    localization = {
        "overall": {"pointing": everything, **further, **localization_scores(ious, patients, 50)},
        "findings": rows,
        "curve": {"threshold": THRESHOLDS.tolist(), **curve},
    }
    report = {
        "kind": "localize", "at": "norm1", "split": "test", "data_fingerprint": "feed",
        "protocol": protocol_entries(protocol, "34 cases on 30 val images", side=32, resamples=2000),
        "pointing": pointing, "localization": localization,
        "published": [asdict(PUBLISHED_MAPS[0])],
        "overlays": [
            {"picture": "000.png", "finding": "Pleural-Mass", "row": 3, "probability": 0.75, "hit": True,
             "truth": "boxes"}
        ],
    }  # fmt: skip
    write_json(report, folder / "report.json")


def write_journal(run: Path, kinds: list[str], title: str = "evax trial", names: dict | None = None):
    """One step per kind, its folder named after it."""
    steps = [
        {"kind": kind.split("-")[0], "name": (names or {}).get(kind, kind), "seconds": 12.3, "folder": kind,
         "command": f"evax {kind} images --out {kind}"}
        for kind in kinds
    ]  # fmt: skip
    environment = {"evax": "0.1.0", "gpu": None, "cores": 2, "commit": "abc1234"}
    environment["date"] = "2025-11-03T10:00:00+00:00"
    write_json({"title": title, "steps": steps, "environment": environment}, run / "run.json")


KINDS = ["store", "pretrain", "finetune", "finetune-random", "localize"]


@pytest.fixture(scope="session")
def whole(tmp_path_factory, films) -> Path:
    """A run with its page: store, pre-training, two classifiers tested on the same images, localisation."""
    run = tmp_path_factory.mktemp("whole")
    shutil.copytree(films, run / "store")
    write_pretraining(run / "pretrain")
    write_finetuning(run / "finetune", films, seed=0, weights=str(run / "pretrain" / "encoder"))
    write_finetuning(run / "finetune-random", films, seed=1)
    write_localization(run / "localize")
    write_journal(run, KINDS)
    assert write_demo_page(run) == run / "report.html"
    return run


@pytest.fixture(scope="session")
def reader(whole) -> Page:
    """The page of the whole run."""
    return Page(whole / "report.html")


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy of the whole run, to be changed."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_run_of_protocol_paper_is_marked_with_its_warning_and_its_looks(run):
    folder = run / "finetune"
    marks = {"name": "paper", "warning": "the test images chose", "quirk_selection_on_test": "the best look"}
    protocol = read_json(folder / "report.json")["protocol"] | marks
    looks = {"looks": 3, "mauc": {"value": 0.7, "step": 4}, "top1_macc": {"value": 0.8765, "step": 8}}
    change_json(folder / "report.json", protocol=protocol, paper_protocol=looks)
    log = folder / "log.jsonl"
    log.write_text(log.read_text().replace('"validation"', '"test"'))
    text = read_again(run).text
    assert text.lower().count("protocol paper") >= 3  # at the number, at the run, at the warning
    assert text.count("Protocol paper, not clean.") == 1
    for words in ("the test images chose", "selection on test", "0.876", "test mAUC, which chose"):
        assert words in text
    assert "Comparison on the same test images" not in text  # the other run is clean


def read_again(run: Path, kinds: list[str] | None = None) -> Page:
    """The page written anew, of some kinds of step only."""
    if kinds is not None:
        write_journal(run, kinds)
    return Page(write_demo_page(run))


def test_the_page_asks_for_nothing_outside_itself_and_every_link_inside_arrives(reader):
    films = [address for address in reader.addresses if address.startswith("data:image/jpeg;base64,")]
    assert len(films) == 13
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import|fetch\(|XMLHttpRequest", reader.source)
    assert len(reader.all_ids) == len(reader.ids)
    assert {address[1:] for address in reader.addresses if address.startswith("#")} <= reader.ids


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_section_appears_when_its_data_is_there_and_only_then(reader, run, kind):
    assert SECTIONS[kind] in reader.ids
    ids = read_again(run, [kind]).ids
    assert ids & set(SECTIONS.values()) == {SECTIONS[kind]}
    assert {"short", "steps", "environment", "limits"} <= ids


def test_the_step_of_a_folder_that_is_gone_says_so_and_has_no_section(run):
    shutil.rmtree(run / "localize")
    page = read_again(run, ["localize"])
    assert "localize (no longer in this folder)" in page.text
    assert "localisation" not in page.ids


def test_every_number_of_a_test_is_on_the_page_with_its_interval_and_its_images(whole, reader):
    metrics = read_json(whole / "finetune" / "report.json")["test_metrics"]
    for mean in (metrics["mauc"], metrics["map"], metrics["macc"]):
        low, high = mean["interval"]
        assert f"{mean['value']:.3f} [{low:.3f}, {high:.3f}]" in reader.text
    assert metrics["mauc"]["findings_entered"] == 2
    films = f"2 of 3 findings, {metrics['n']} test images of {metrics['patients']} patients. Protocol clean"
    assert films in reader.text
    for finding in metrics["findings"][:2]:
        low, high = finding["auroc_interval"]
        of_roc = f"{marked(finding)} AUC {finding['auroc']:.3f} [{low:.3f}, {high:.3f}]"
        assert of_roc in reader.text
        assert f"ECE {finding['ece']:.3f}, Brier {finding['brier']:.3f}" in reader.text
        assert f"{finding['average_precision']:.3f}" in reader.text
        found = round(finding["sensitivity"] * finding["positives"])
        assert f"{found} found , {finding['positives'] - found} missed" in reader.text


FACTS = {
    "a finding without positive images": [
        "Hernia † 0 / 16 not defined 0 present, 16 absent not defined",
        "† fewer than 5 patients with the finding, or without it",
    ],
    "protocol and origin of the weights": [
        "checkpoint chosen on validation mAUC", "test scored once", "starts from random weights",
        "starts from weights of pretrain/encoder",
    ],
    "images, patients and labels of the store": [
        "40 of 20 patients", "rejected files 1", "test 16 images 8 patients", "forty squares",
        "Effusion 50.0 % 9 of 18 50.0 % 3 of 6 50.0 % 8 of 16 0",
        "Mass 38.5 % 5 of 13 20.0 % 1 of 5 33.3 % 4 of 12 10",  # 10: images on which it is not known
        "known for 39 images",
    ],
    "pre-training": [
        "0.512 → 0.623", "0.568 (mean of the last 12 steps)", "33.1 image views per second",
        "tokenizer efficientnet_lite0, layer 2, sees 256 × 256 pixels, weights 0123abcd ",
        "crops 128 × 128 pixels", "optimizer steps 12 of 64 views each", "resumed 2 times",
    ],
    "runs tested on the same images": [
        "mean AUC on the same 16 test images", "Same test images, same labels, protocol clean",
    ],
    "hits of the localisation": [
        "Pleural-Mass (5 of 8)", "0.625 [0.300, 0.900]", "1.000 [not defined]", "6 of 9",
        "Pleural-Mass probability 0.75, peak inside the box",
    ],
    "overlaps of the localisation": [
        "Pleural-Mass boxes 8 / 8 / 8 0.625 [0.300, 0.900] 0.125 0.375",
        "all 9 / 8 / 9 0.667 [0.400, 0.900] 0.125 0.333", "0.25 to 0.30",
        "threshold chosen on 34 cases on 30 val images", "2 of 9 maps are 0 everywhere",
        "Published, not re-run", "EVA-X-S 14.74 2.95 8.84 9.18",
        "accuracies without a ranking, not average precisions",
    ],
}  # fmt: skip


@pytest.mark.parametrize("part", FACTS)
def test_what_the_files_say_stands_on_the_page(reader, part):
    assert [words for words in FACTS[part] if words not in reader.text] == []


def test_what_does_not_belong_on_the_page_is_not_there_and_its_curves_are(whole, reader):
    assert "Hernia AUC" not in reader.text
    assert str(whole) not in reader.source  # a path inside the run is given from there
    assert "comparison" in reader.ids
    store = open_store(whole / "store")
    assert store.fingerprint in reader.text
    assert f"{store.mean:.4f} ± {store.std:.4f}" in reader.text
    for title in ("cosine with the tokenizer", "learning rate", "kNN mean AUC", "RankMe (effective rank)"):
        assert f'aria-label="{title} of pretrain against image views"' in reader.source


def test_a_pre_training_without_probes_says_nothing_of_them_and_commands_are_no_optimizer_steps(run):
    log = run / "pretrain" / "log.jsonl"
    log.write_text("".join(line for line in log.open() if '"probe"' not in line))
    change_json(run / "pretrain" / "report.json", knn_auc_first=None, knn_auc_last=None, rankme_last=None)
    text = read_again(run, ["pretrain"]).text
    for words, shown in (
        ("kNN", False), ("The probe", False), ("1 command in", True),
        ("optimizer steps 12 of 64 views each", True),
    ):  # fmt: skip
        assert (words in text) == shown


def test_the_log_of_an_interrupted_run_counts_each_step_once(run):
    before = read_again(run, ["pretrain"]).source
    log = run / "pretrain" / "log.jsonl"
    first = next(line for line in log.read_text().splitlines() if '"step": 1,' in line)
    log.write_text(json.dumps(json.loads(first) | {"cosine": 99.0}) + "\n" + log.read_text())
    assert read_again(run, ["pretrain"]).source == before


@pytest.mark.parametrize("difference", ["films", "labels", "protocol"])
def test_runs_that_differ_in_images_labels_or_protocol_are_never_compared(run, difference):
    folder = run / "finetune-random"
    if difference == "protocol":
        change_json(folder / "report.json", protocol__name="paper")
    else:
        table = pd.read_csv(folder / "predictions-test.csv")
        column, value = ("image", "other.png") if difference == "films" else ("label:Effusion", 0.0)
        table.loc[0, column] = value
        table.to_csv(folder / "predictions-test.csv", index=False)
    reader = read_again(run, ["finetune", "finetune-random"])
    assert "comparison" not in reader.ids
    assert ("protocol paper" in reader.text) == (difference == "protocol")


def test_exclusive_findings_have_a_table_of_true_against_most_probable(reader, run, films):
    assert "Confusion matrix" not in reader.text
    folder = run / "finetune-exclusive"
    write_finetuning(folder, films, exclusive=True)
    text = read_again(run, ["finetune-exclusive"]).text
    balanced = read_json(folder / "report.json")["test_metrics"]["balanced_accuracy"]
    table = pd.read_csv(folder / "predictions-test.csv")
    truth, answer = (
        table.filter(regex=f"^{kind}:").to_numpy().argmax(1) for kind in ("label", "probability")
    )
    counts = " ".join(str(int(((truth == 0) & (answer == k)).sum())) for k in range(3))
    for words in (
        f"Balanced accuracy {balanced['value']:.3f}", "Predicted class, each against the others",
        f"true \\ predicted Effusion Mass Hernia Effusion {counts}",
    ):  # fmt: skip
        assert words in text
    assert "no threshold" not in text


def test_a_threshold_at_an_end_of_the_grid_is_remarked_upon(run):
    remark = "A threshold lies at an end of the grid"
    assert remark not in read_again(run, ["localize"]).text
    change_json(run / "localize" / "report.json", localization__overall__thresholds=[0.3, 0.6])
    assert remark in read_again(run, ["localize"]).text


def test_a_localisation_in_the_paper_s_protocol_says_so_wherever_its_numbers_are(run):
    assert "not clean" not in read_again(run, ["localize"]).text
    shutil.rmtree(run / "localize")
    write_localization(run / "localize", "paper")
    text = read_again(run, ["localize"]).text
    for words in (
        "Protocol paper, not clean. localize: the cases that are reported chose the threshold",
        "localize · protocol paper",
        "Protocol paper. Test images; 95 % intervals",
        "the curve chose them",
    ):
        assert words in text


def test_a_command_is_shown_as_it_is_typed(run):
    command = "evax prepare 'a b' --out x && echo \"<done>\""
    journal = read_json(run / "run.json")
    write_json(journal | {"steps": [journal["steps"][1] | {"command": command}]}, run / "run.json")
    assert command in read_again(run).text


def test_names_cannot_put_code_on_the_page(run):
    attack = '<script>alert("x")</script><img src="https://example.org/x.png">'
    kinds = ["store", "pretrain", "finetune"]
    write_journal(run, kinds, title=attack, names=dict.fromkeys(kinds, attack))
    change_json(run / "finetune" / "report.json", protocol__split=attack)
    reader = read_again(run)
    assert reader.tags.count("script") == 1
    assert not any(address.startswith("http") for address in reader.addresses)
    assert attack in reader.text


def test_synthetic_images_are_announced_before_the_first_number(reader, run):
    assert "Synthetic images." not in reader.text
    assert "Research software, not a medical device." in reader.text
    step = {"kind": "fetch", "name": "x", "command": "evax fetch phantoms --out raw", "seconds": 1}
    finetuning = read_json(run / "run.json")["steps"][2]
    change_json(run / "run.json", steps=[step | {"folder": "raw"}, finetuning])
    text = read_again(run).text
    assert text.index("Synthetic images.") < text.index("Mean AUC on test")


@pytest.mark.parametrize(
    "file",
    ["run.json", "pretrain/report.json", "finetune/report.json", "localize/report.json", "store/store.json"],
)
def test_a_damaged_file_is_an_error_with_its_name_and_the_old_page_stays(run, file):
    before = (run / "report.html").read_text(encoding="utf-8")
    write_journal(run, [file.split("/")[0].replace("run.json", "store")])
    (run / file).write_text('{"kind": ')
    with pytest.raises(DataError, match=re.escape(file)):
        write_demo_page(run)
    assert (run / "report.html").read_text(encoding="utf-8") == before
    assert not list(run.glob(".report*"))


@pytest.mark.parametrize(
    ("file", "key"),
    [("run.json", "title"), ("pretrain/report.json", "encoder"), ("finetune/report.json", "best_step")],
)
def test_a_file_that_lacks_something_is_named_with_what_it_lacks(run, file, key):
    write_journal(run, [file.split("/")[0].replace("run.json", "store")])
    content = read_json(run / file)
    del content[key]
    write_json(content, run / file)
    with pytest.raises(DataError, match=f"{re.escape(file)} has no '{key}'"):
        write_demo_page(run)


def test_a_broken_line_of_a_log_is_named_with_its_number_unless_it_is_the_last(run):
    write_journal(run, ["finetune"])
    log = run / "finetune" / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"event": "step", "st')
    write_demo_page(run)
    log.write_text(whole + '{"event": "step", "st\n')
    with pytest.raises(DataError, match=r"finetune/log\.jsonl, line 11, is not"):
        write_demo_page(run)


def test_predictions_of_another_run_are_refused(run):
    path = run / "finetune" / "predictions-test.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(DataError, match=r"predictions-test\.csv has 15 images, its report 16"):
        write_demo_page(run)


def test_without_predictions_and_logs_the_numbers_are_still_shown(run):
    for name in ("predictions-test.csv", "log.jsonl"):
        (run / "finetune" / name).unlink()
    reader = read_again(run, ["finetune", "finetune-random"])
    value = read_json(run / "finetune" / "report.json")["test_metrics"]["mauc"]["value"]
    assert f"{value:.3f}" in reader.text
    assert "comparison" not in reader.ids


def test_a_step_of_an_unknown_kind_is_refused(run):
    write_journal(run, ["brew"])
    with pytest.raises(DataError, match="kind 'brew'; known: export, fetch, finetune"):
        write_demo_page(run)


@pytest.mark.long
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_the_page_without_sideways_scrolling(whole, tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: install it to look at the page as a reader would")
    measure = "document.title = document.documentElement.scrollWidth > innerWidth ? 'too wide' : 'fits'"
    page = (whole / "report.html").read_text(encoding="utf-8")
    (tmp_path / "measured.html").write_text(f"{page}<script>{measure}</script>", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom"]
    address = (tmp_path / "measured.html").as_uri()
    shown = subprocess.run(
        [browser, *options, address], capture_output=True, text=True, timeout=60, check=True
    )
    assert "<title>fits</title>" in shown.stdout

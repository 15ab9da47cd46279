"""Sections of a page: a store, a classifier, a localisation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.metrics import precision_recall_curve

from evax.boxed import located
from evax.data.leaks import unnamed_patients
from evax.data.manifest import SPLITS
from evax.data.store import ImageStore
from evax.errors import DataError
from evax.evaluation.calibration import reliability_curve, with_temperatures
from evax.evaluation.classification import roc_curve
from evax.evaluation.localization import THRESHOLDS
from evax.evaluation.metrics import TOP1, metrics_in
from evax.evaluation.published import MARK
from evax.evaluation.report import marked
from evax.evaluation.study_rows import WAYS
from evax.pages import figures
from evax.pages.drawing import data_uri, image_picture, jpeg
from evax.pages.figures import age_histogram
from evax.runs.files import Facts, interval, numbers, of_way, read_facts, read_log, read_predictions

EXAMPLES_IN_A_ROW = 6  # on a screen of 1280 pixels


def data_sheet(name: str, store: ImageStore) -> dict[str, Any]:
    """What a reader must know of a store before believing a number measured on it."""
    table, ages = store.manifest.table, store.manifest.table["age"].to_numpy(dtype=np.float64)
    splits = [split for split in (*SPLITS, "") if (table["split"] == split).any()]  # "": left out of all
    known = ages[np.isfinite(ages)]
    quartiles = np.percentile(known, [25, 50, 75]) if len(known) else None
    return {
        "name": name,
        "store": store,
        "patients": people(table),
        "unnamed": unnamed_patients(store),
        "splits": [
            (split or "no split", len(part), people(part))
            for split in splits
            for part in [table[table["split"] == split]]
        ],
        "findings": [(finding, *prevalence(table, finding, splits)) for finding in store.manifest.findings],
        "views": Counter(view or "not stated" for view in table["view"]).most_common(),
        "sexes": Counter(sex or "not stated" for sex in table["sex"]).most_common(),
        "ages": (len(known), quartiles),
        "age_figure": age_histogram(ages, label=f"Ages in {name}, images") if len(known) else None,
        "boxes": len(store.manifest.boxes),
        "masks": {name: len(store.masked_rows(name)) for name in store.mask_findings()},
        "examples": [example(store, row) for row in example_rows(store)],
    }


def people(table: pd.DataFrame) -> int:
    """Patients of these images; images without a patient are not counted."""
    return int(table.loc[table["patient"] != "", "patient"].nunique())


def prevalence(table: pd.DataFrame, finding: str, splits: Sequence[str]) -> tuple[list[tuple[int, int]], int]:
    """(images with the finding, images where it is known) per split, and the images where it is not known."""
    labels = table[finding]
    known = (labels == 0) | (labels == 1)
    per_split = [
        (
            int(((labels == 1) & (table["split"] == split)).sum()),
            int((known & (table["split"] == split)).sum()),
        )
        for split in splits
    ]
    return per_split, int((~known).sum())


def example_rows(store: ImageStore) -> list[int]:
    """One image per finding (one with a box where there is one), then images spread over the store."""
    table, boxes = store.manifest.table, store.manifest.boxes
    rows: list[int] = []
    for finding in store.manifest.findings:
        present = table[finding] == 1
        boxed = present & table["image"].isin(boxes.loc[boxes["finding"] == finding, "image"])
        candidates = [int(row) for row in np.flatnonzero(boxed if boxed.any() else present)]
        rows += [row for row in candidates if row not in rows][:1]
    wanted = math.ceil(max(len(rows), 2 * EXAMPLES_IN_A_ROW) / EXAMPLES_IN_A_ROW) * EXAMPLES_IN_A_ROW
    spread = np.linspace(0, len(store) - 1, 2 * wanted).astype(int).tolist()
    return list(dict.fromkeys([*rows, *spread]))[:wanted]


def example(store: ImageStore, row: int) -> dict[str, Any]:
    """An image with its boxes as a picture, and what is known of it."""
    film, boxes = store.manifest.table.iloc[row], store.manifest.boxes
    own = boxes.loc[boxes["image"] == film["image"], ["x", "y", "width", "height"]]
    present = [finding for finding in store.manifest.findings if film[finding] == 1]
    corners = [(float(x), float(y), float(width), float(height)) for x, y, width, height in own.to_numpy()]
    return {
        "picture": data_uri(image_picture(store.pixels(row), corners)),
        "findings": ", ".join(present) or "no finding labelled",
        "notes": " · ".join(str(note) for note in (film["view"], film["sex"], film["split"]) if note),
    }


def fine_tuning(name: str, folder: Path, run: Path) -> dict[str, Any]:
    """The report of a fine-tuning run with its figures; predictions, where kept, give ROC and calibration."""
    report = read_facts(folder / "report.json")
    return tested(name, report, folder / "predictions-test.csv") | {
        "weights": start_of(report["weights"], run),
        "curves": training_curves(name, read_log(folder / "log.jsonl"), report),
        "protocol": protocol_in_full(report),
    }


def probing(folder: Path) -> list[dict[str, Any]]:
    """Both probes of a run of evax probe, as two classifiers of the same images."""
    report = read_facts(folder / "report.json")
    views = []
    for way, own in (("linear", "strength"), ("knn", "neighbours")):
        part = of_way(report, way)
        view = tested(WAYS[way], part, folder / f"predictions-{way}-test.csv")
        views.append(view | {"protocol": {**part["protocol"], own: report[way][own]}})
    return views


COLUMNS_OF_TABLES = ("auroc", "average_precision", "accuracy", "sensitivity")  # which templates place


def tested(name: str, report: Facts, predictions_file: Path) -> dict[str, Any]:
    """What every classifier has: its scores on the test images, without curves of a training."""
    metrics = report["test_metrics"]
    predictions = read_predictions(
        predictions_file, [finding["name"] for finding in metrics["findings"]], metrics["n"]
    )
    defined = [finding for finding in metrics["findings"] if finding["auroc"] is not None]
    of_films: dict[str, Any] = {
        "rocs": [], "precision_recall": [], "reliability": [], "confusion": None, "films": None,
    }  # fmt: skip
    return {
        "name": name,
        "report": report,
        "weights": start_of(report["weights"], predictions_file.parent),
        "metrics": metrics,
        "means": metrics_in(metrics),
        "further": [metric for metric in metrics_in(metrics) if metric.column not in COLUMNS_OF_TABLES],
        "curves": [],
        "forest": forest(name, defined) if defined else None,
        "protocol_name": report["protocol"]["name"],
        "protocol": report["protocol"],
        "details": None,
        **(of_films if predictions is None else image_by_image(predictions, report)),
    }


def protocol_in_full(report: Facts) -> dict[str, Any]:
    """The protocol card, with how many of the validation images chose the checkpoint."""
    looked_at, protocol = report.get("validation_films_per_look"), dict(report["protocol"])
    if looked_at:  # 0 in protocol paper, where test images chose
        of = report["validation"]["films"]
        protocol["checkpoint_chosen_on"] += f" of {looked_at:,} of the {of:,} validation images"
    return protocol


def start_of(weights: str | None, run: Path) -> str:
    """The weights a fine-tuning began with, in words; a path inside the run is given from there."""
    if weights is None:
        return "random weights"
    path = Path(weights)
    if located(path) != path:
        return f"{weights}, which comes with evax"
    return f"weights of {path.relative_to(run) if path.is_relative_to(run) else path}"


def image_by_image(predictions: pd.DataFrame, report: Facts) -> dict[str, Any]:
    """What needs the probability of every test image."""
    metrics = report["test_metrics"]
    findings, temperatures = metrics["findings"], calibrations(report)
    after = calibrated(predictions, report)
    ranked = [each for each in findings if each["auroc"] is not None]
    return {
        "rocs": [(each, roc(each, predictions)) for each in ranked],
        "precision_recall": [(each, precision_recall(each, predictions)) for each in ranked],
        "reliability": [
            (each, temperatures.get(each["name"]), reliability(each, predictions, after))
            for each in findings
            if each["ece"] is not None
        ],
        "confusion": confusion(predictions, metrics),
        "films": predictions.filter(regex="^(image$|label:)"),
    }


def calibrations(report: Facts) -> dict[str, Facts]:
    """Finding -> its temperature with the scores after it; findings without a temperature are left out."""
    rows = report.get("calibration", {}).get("findings", [])
    return {row["name"]: row for row in rows if row["temperature"] is not None}


def calibrated(predictions: pd.DataFrame, report: Facts) -> pd.DataFrame | None:
    """The predictions after the temperatures of the report, None where it has none."""
    known = calibrations(report)
    if not known:
        return None
    names = [finding["name"] for finding in report["test_metrics"]["findings"]]
    temperatures = np.array([known[name]["temperature"] if name in known else math.nan for name in names])
    columns, after = [f"probability:{name}" for name in names], predictions.copy()
    before = predictions[columns].to_numpy(np.float64)
    after[columns] = with_temperatures(before, temperatures, exclusive=report["calibration"]["shared"])
    return after


def training_curves(name: str, log: dict[str, pd.DataFrame], report: Facts) -> list[tuple[str, str]]:
    """Title and curve of the loss and of the mAUC that chose the checkpoint, as far as they were logged."""
    curves = []
    looked_at, of = report.get("validation_films_per_look"), report["validation"]["films"]
    some = f" on {looked_at:,} of {of:,} images" if looked_at and looked_at < of else ""
    looks = (
        ("step", "loss", "training loss"),
        ("validation", "mauc", f"validation mAUC{some}"),
        ("test", "mauc", "test mAUC, which chose the checkpoint"),  # protocol paper
        ("step", "lr", "learning rate"),
    )
    for event, key, title in looks:
        if event in log and key in log[event]:
            steps, label = numbers(log[event], "step"), f"{title} of {name} against steps"
            best = None if event == "step" else report["best_step"]
            svg = figures.curve_panel(
                steps, numbers(log[event], key), label=label, x_label="step", y_label=title, best=best,
                chance=0.5 if key == "mauc" else None,
            )  # fmt: skip
            curves.append((title, svg))
    return curves


def forest(name: str, findings: list[Facts]) -> str:
    """The AUC of each finding with its interval."""
    rows = [(marked(finding), finding["auroc"], interval(finding["auroc_interval"])) for finding in findings]
    label = f"AUC per finding of {name} with 95 % intervals"
    return figures.interval_plot(
        rows, label=label, x_label="AUC (dashed: chance)", limits=(0.5, 1), reference=0.5
    )


def cases(predictions: pd.DataFrame, finding: str) -> tuple[Any, Any]:
    """Probabilities and truth of the images on which a finding is known."""
    known = predictions[predictions[f"label:{finding}"].notna()]
    return known[f"probability:{finding}"].to_numpy(np.float64), (known[f"label:{finding}"] == 1).to_numpy()


def roc(finding: Facts, predictions: pd.DataFrame) -> str:
    """The ROC curve of a finding, with the operating point that its threshold gives."""
    false_positive_rate, true_positive_rate, _ = roc_curve(*cases(predictions, finding["name"]))
    has_point = finding["sensitivity"] is not None and finding["specificity"] is not None
    point = (1 - finding["specificity"], finding["sensitivity"]) if has_point else None
    label = f"ROC curve of {finding['name']}"
    return figures.roc_panel(false_positive_rate, true_positive_rate, label=label, point=point)


def precision_recall(finding: Facts, predictions: pd.DataFrame) -> str:
    """Precision against recall of a finding, with the operating point that its threshold gives."""
    probabilities, positives = cases(predictions, finding["name"])
    precision, recall, _ = precision_recall_curve(positives, probabilities, drop_intermediate=True)
    has_point = finding["sensitivity"] is not None and finding["ppv"] is not None
    return figures.precision_recall_panel(
        recall, precision, label=f"Precision and recall of {finding['name']}", chance=finding["prevalence"],
        point=(finding["sensitivity"], finding["ppv"]) if has_point else None,
    )  # fmt: skip


def reliability(finding: Facts, predictions: pd.DataFrame, after: pd.DataFrame | None = None) -> str:
    """Predicted against observed frequency of a finding; after: the same images after calibration."""
    curve = reliability_curve(*cases(predictions, finding["name"]))
    mended = None if after is None else reliability_curve(*cases(after, finding["name"]))
    return figures.reliability_panel(curve, label=f"Calibration of {finding['name']}", after=mended)


def confusion(predictions: pd.DataFrame, metrics: Facts) -> list[tuple[str, list[int]]] | None:
    """True finding -> images per most probable finding, when each image has exactly one; else None."""
    if metrics["macc"]["reading"] != TOP1:
        return None
    names = [finding["name"] for finding in metrics["findings"]]
    truth = predictions[[f"label:{name}" for name in names]].to_numpy().argmax(axis=1)
    answer = predictions[[f"probability:{name}" for name in names]].to_numpy().argmax(axis=1)
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (truth, answer), 1)
    return list(zip(names, counts.tolist(), strict=True))


def comparisons(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs that were tested on the same images with the same labels under the same protocol, two or more."""
    groups: list[list[dict[str, Any]]] = []
    for run in (
        run for run in runs if run["films"] is not None and run["metrics"]["mauc"]["value"] is not None
    ):
        for group in groups:
            first = group[0]
            if run["protocol_name"] == first["protocol_name"] and run["films"].equals(first["films"]):
                group.append(run)
                break
        else:
            groups.append([run])
    return [{"runs": group, "figure": comparison_figure(group)} for group in groups if len(group) > 1]


def comparison_figure(group: list[dict[str, Any]]) -> str:
    """Mean AUC of each run with its interval."""
    rows = [
        (run["name"], run["metrics"]["mauc"]["value"], interval(run["metrics"]["mauc"]["interval"]))
        for run in group
    ]
    films = group[0]["metrics"]["n"]
    return figures.interval_plot(
        rows, label="Mean AUC of the runs with 95 % intervals", limits=(0.5, 1), reference=0.5,
        x_label=f"mean AUC on the same {films} test images (dashed: chance)",
    )  # fmt: skip


def localisation(name: str, folder: Path) -> dict[str, Any]:
    """What the section shows of the folder of an evax localize."""
    report = read_facts(folder / "report.json")
    scored, scores = report["pointing"], report["localization"]
    of_finding = {row["finding"]: row for row in scored}
    return {
        "name": name,
        "report": report,
        "protocol_name": report["protocol"]["name"],
        "hits": sum(row["hits"] for row in scored),
        "films": sum(row["films"] for row in scored),
        "figure": pointing_figure(name, scored),
        "curve": threshold_figure(name, scores),
        "at_an_end": bool({THRESHOLDS[0], THRESHOLDS[-1]} & set(scores["overall"]["thresholds"])),
        "rows": [(row, of_finding[row["finding"]]) for row in scores["findings"]],
        "published_mark": MARK,
        "pictures": pictures(report, folder / "overlays"),
    }


def pictures(report: Facts, folder: Path) -> list[tuple[str, str, str]]:
    """Finding, what is to be said, and the picture of each overlay. Raises DataError for one that is gone."""
    shown = []
    for overlay in report["overlays"]:
        path = folder / Path(overlay["picture"]).name
        try:
            with Image.open(path) as picture:
                film = data_uri(jpeg(picture))
        except OSError as error:
            raise DataError(f"The picture {path} cannot be read: {error}. Run that step again.") from error
        region = "mask" if overlay["truth"] == "masks" else "box"
        peak = f"peak {'inside' if overlay['hit'] else 'outside'} the {region}"
        shown.append((overlay["finding"], f"probability {overlay['probability']:.2f}, {peak}", film))
    return shown


def pointing_figure(name: str, scored: list[Facts]) -> str:
    """The share of hits per finding with its interval."""
    rows = [
        (f"{row['finding']} ({row['hits']} of {row['films']})", row["rate"], interval(row["interval"]))
        for row in scored
    ]
    label, x_label = f"Pointing game of {name}", "share of peaks inside"
    return figures.interval_plot(rows, label=label, x_label=x_label, limits=(0, 1), bars=True)


def threshold_figure(name: str, scores: Facts) -> str:
    """The scored cases' mAP and mIoU at every threshold, and the thresholds that were chosen."""
    curve = scores["curve"]
    return figures.threshold_panel(
        np.array(curve["threshold"]),
        {"mAP": np.array(curve["map"]), "mIoU": np.array(curve["miou"])},
        label=f"mAP and mIoU of {name} against the threshold",
        x_label="threshold of the map",
        y_label="over the scored cases",
        chosen=scores["overall"]["thresholds"],
    )

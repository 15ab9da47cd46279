"""A run folder -> report.html: one file that shows what was done, on which films, and what came out."""

from __future__ import annotations

import base64
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image
from sklearn.metrics import precision_recall_curve

from evax.data.manifest import SPLITS
from evax.data.store import ImageStore, open_store
from evax.errors import DataError
from evax.evaluation.calibration import reliability_curve
from evax.evaluation.classification import roc_curve
from evax.evaluation.report import TOP1
from evax.evaluation.temperature import with_temperature
from evax.files import read_json, replaced_whole
from evax.reporting import figures

EXAMPLES_IN_A_ROW = 6  # on a screen of 1280 pixels
KINDS = {"store", "fetch", "pretrain", "finetune", "localize", "predict"}


def write_report(run: Path) -> Path:
    """Reads the run folder and writes its report.html; returns that path.

    run: holds run.json and the folders its steps name; a step whose results are absent has no section.
    Raises DataError naming the file that is missing, damaged or incomplete.
    """
    journal = read_facts(run / "run.json")
    steps = [
        dict(step) | {"path": run / step["folder"], "kind": known_kind(step)} for step in journal["steps"]
    ]

    def views(kind: str, file: str, view: Callable[[str, Path], dict[str, Any]]) -> list[dict[str, Any]]:
        mine = [step for step in steps if step["kind"] == kind and (step["path"] / file).is_file()]
        return [view(step["name"], step["path"]) for step in mine]

    return render(
        run / "report.html",
        title=journal["title"],
        steps=steps,
        environment=journal["environment"],
        stores=views("store", "store.json", lambda name, folder: data_sheet(name, open_store(folder))),
        pretrainings=views("pretrain", "report.json", pre_training),
        runs=views("finetune", "report.json", lambda name, folder: fine_tuning(name, folder, run)),
        localisations=views("localize", "report.json", localisation),
    )


def render(
    page: Path,
    *,
    title: str,
    steps: list[dict[str, Any]],
    environment: dict[str, Any],
    stores: list[dict[str, Any]] | None = None,
    pretrainings: list[dict[str, Any]] | None = None,
    runs: list[dict[str, Any]] | None = None,
    localisations: list[dict[str, Any]] | None = None,
) -> Path:
    """Writes the page and returns its path; what is not given has no section."""
    text = template().render(
        title=title,
        steps=steps,
        environment=environment,
        stores=stores or [],
        pretrainings=pretrainings or [],
        runs=runs or [],
        comparisons=comparisons(runs or []),
        localisations=localisations or [],
        synthetic=any(makes_phantoms(step) for step in steps) or reads_phantoms(stores or []),
    )
    with replaced_whole(page) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return page


class Facts(dict[str, Any]):
    """An object of a JSON file; a key it lacks is a DataError that names the file."""

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise DataError(f"{self.path} has no '{key}' where the report needs it: run that step again.")


def read_facts(path: Path) -> Facts:
    """A JSON file whose objects, at any depth, are Facts. Raises DataError naming the file."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    facts: Facts = _as_facts(content, path)
    return facts


def _as_facts(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return Facts({key: _as_facts(item, path) for key, item in value.items()}, path)
    return [_as_facts(item, path) for item in value] if isinstance(value, list) else value


def read_log(path: Path) -> dict[str, pd.DataFrame]:
    """The lines of a log.jsonl per kind of event, in order; empty without the file.

    A run that was interrupted repeats steps when it goes on: the last line of a step counts.
    """
    if not path.is_file():
        return {}
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            rows.append(dict(json.loads(line)) | {"event": json.loads(line)["event"]})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}, line {number}, is not a JSON object with an 'event': {line[:60]!r}."
            ) from error
    table = pd.DataFrame(rows, columns=list(dict.fromkeys(key for row in rows for key in row)))
    return {
        str(event): part.drop_duplicates("step", keep="last") if "step" in part else part
        for event, part in (table.groupby("event") if len(table) else ())
    }


def known_kind(step: Facts) -> str:
    """The kind of a step. Raises DataError for one the report does not know."""
    if step["kind"] not in KINDS:
        raise DataError(
            f"{step.path}: a step is of kind '{step['kind']}'; known: {', '.join(sorted(KINDS))}."
        )
    return str(step["kind"])


def makes_phantoms(step: dict[str, Any]) -> bool:
    """Whether a step draws or reads synthetic films."""
    return step["kind"] in ("fetch", "store") and "phantom" in step["command"]


def reads_phantoms(stores: list[dict[str, Any]]) -> bool:
    """Whether a store was made of synthetic films, as far as its source says so."""
    return any("phantom" in str(sheet["store"].card["source"]).lower() for sheet in stores)


def data_sheet(name: str, store: ImageStore) -> dict[str, Any]:
    """What a reader must know of a store before believing a number measured on it."""
    table, ages = store.manifest.table, store.manifest.table["age"].to_numpy(dtype=np.float64)
    known = ages[np.isfinite(ages)]
    quartiles = np.percentile(known, [25, 50, 75]) if len(known) else None
    return {
        "name": name,
        "store": store,
        "patients": people(table),
        "splits": [
            (split, len(part), people(part)) for split in SPLITS for part in [table[table["split"] == split]]
        ],
        "findings": [(finding, *prevalence(table, finding)) for finding in store.manifest.findings],
        "views": Counter(view or "not stated" for view in table["view"]).most_common(),
        "sexes": Counter(sex or "not stated" for sex in table["sex"]).most_common(),
        "ages": (len(known), quartiles),
        "age_figure": figures.age_histogram(ages, label=f"Ages in {name}, films") if len(known) else None,
        "boxes": len(store.manifest.boxes),
        "examples": [example(store, row) for row in example_rows(store)],
    }


def people(table: pd.DataFrame) -> int:
    """Patients of these films; films without a patient are not counted."""
    return int(table.loc[table["patient"] != "", "patient"].nunique())


def prevalence(table: pd.DataFrame, finding: str) -> tuple[list[tuple[int, int]], int]:
    """(films with the finding, films where it is known) per split, and the films where it is not known."""
    labels = table[finding]
    known = (labels == 0) | (labels == 1)
    per_split = [
        (
            int(((labels == 1) & (table["split"] == split)).sum()),
            int((known & (table["split"] == split)).sum()),
        )
        for split in SPLITS
    ]
    return per_split, int((~known).sum())


def example_rows(store: ImageStore) -> list[int]:
    """One film per finding (one with a box where there is one), then films spread over the store."""
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
    """A film with its boxes as a picture, and what is known of it."""
    film, boxes = store.manifest.table.iloc[row], store.manifest.boxes
    own = boxes.loc[boxes["image"] == film["image"], ["x", "y", "width", "height"]]
    present = [finding for finding in store.manifest.findings if film[finding] == 1]
    corners = [(float(x), float(y), float(width), float(height)) for x, y, width, height in own.to_numpy()]
    return {
        "picture": data_uri(figures.film_picture(store.pixels(row), corners)),
        "findings": ", ".join(present) or "no finding labelled",
        "notes": " · ".join(str(note) for note in (film["view"], film["sex"], film["split"]) if note),
    }


def pre_training(name: str, folder: Path) -> dict[str, Any]:
    """The report of a pre-training run and its curves against image views."""
    report, log = read_facts(folder / "report.json"), read_log(folder / "log.jsonl")

    def curve(event: str, key: str, title: str, chance: float | None = None) -> list[tuple[str, str]]:
        table = log.get(event)
        if table is None or key not in table or not np.isfinite(numbers(table, key)).any():
            return []
        views, label = numbers(table, "images"), f"{title} of {name} against image views"
        svg = figures.curve_panel(
            views, numbers(table, key), label=label, x_label="image views", y_label=title, chance=chance
        )
        return [(title, svg)]

    probes = log.get("probe", pd.DataFrame())
    return {
        "name": name,
        "report": report,
        "probe_findings": sorted({int(n) for n in probes.get("knn_findings", ()) if n}),
        "curves": [
            *curve("step", "cosine", "cosine with the tokenizer"),
            *curve("step", "lr", "learning rate"),
            *curve("probe", "knn_auc", "kNN mean AUC", chance=0.5),
            *curve("probe", "rankme", "RankMe (effective rank)"),
        ],
    }


def fine_tuning(name: str, folder: Path, run: Path) -> dict[str, Any]:
    """The report of a fine-tuning run with its figures; predictions, where kept, give ROC and calibration."""
    report = read_facts(folder / "report.json")
    metrics = report["test_metrics"]
    predictions = read_predictions(folder / "predictions-test.csv", metrics)
    defined = [finding for finding in metrics["findings"] if finding["auroc"] is not None]
    of_films: dict[str, Any] = {
        "rocs": [], "precision_recall": [], "reliability": [], "confusion": None, "films": None,
    }  # fmt: skip
    return {
        "name": name,
        "report": report,
        "weights": start_of(report["weights"], run),
        "metrics": metrics,
        "curves": training_curves(name, read_log(folder / "log.jsonl"), report["best_step"]),
        "forest": forest(name, defined) if defined else None,
        "protocol_name": report["protocol"]["name"],
        "details": None,
        **(of_films if predictions is None else film_by_film(predictions, report)),
    }


def film_by_film(predictions: pd.DataFrame, report: Facts) -> dict[str, Any]:
    """What needs the probability of every test film."""
    metrics = report["test_metrics"]
    findings, calibrated = metrics["findings"], calibrations(report)
    after = with_temperatures(predictions, findings, report)
    ranked = [each for each in findings if each["auroc"] is not None]
    return {
        "rocs": [(each, roc(each, predictions)) for each in ranked],
        "precision_recall": [(each, precision_recall(each, predictions)) for each in ranked],
        "reliability": [
            (each, calibrated.get(each["name"]), reliability(each, predictions, after))
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


def with_temperatures(predictions: pd.DataFrame, findings: list[Facts], report: Facts) -> pd.DataFrame | None:
    """The predictions after the temperatures of the report, None where it has none."""
    calibrated = calibrations(report)
    if not calibrated:
        return None
    columns = [f"probability:{finding['name']}" for finding in findings]
    before, after = predictions[columns].to_numpy(np.float64), predictions.copy()
    if report["calibration"]["shared"]:
        temperature = next(iter(calibrated.values()))["temperature"]
        after[columns] = with_temperature(before, temperature, exclusive=True)
        return after
    for column, name, values in zip(columns, (each["name"] for each in findings), before.T, strict=True):
        if name in calibrated:
            after[column] = with_temperature(values, calibrated[name]["temperature"], exclusive=False)
    return after


def training_curves(name: str, log: dict[str, pd.DataFrame], best_step: int) -> list[tuple[str, str]]:
    """Title and curve of the loss and of the mAUC that chose the checkpoint, as far as they were logged."""
    curves = []
    looks = (
        ("step", "loss", "training loss"),
        ("validation", "mauc", "validation mAUC"),
        ("test", "mauc", "test mAUC, which chose the checkpoint"),  # protocol paper
        ("step", "lr", "learning rate"),
    )
    for event, key, title in looks:
        if event in log and key in log[event]:
            steps, label = numbers(log[event], "step"), f"{title} of {name} against steps"
            best = None if event == "step" else best_step
            svg = figures.curve_panel(
                steps, numbers(log[event], key), label=label, x_label="step", y_label=title, best=best
            )
            curves.append((title, svg))
    return curves


def forest(name: str, findings: list[Facts]) -> str:
    """The AUC of each finding with its interval."""
    rows = [(finding["name"], finding["auroc"], interval(finding["auroc_interval"])) for finding in findings]
    label = f"AUC per finding of {name} with 95 % intervals"
    return figures.interval_plot(
        rows, label=label, x_label="AUC (dashed: chance)", limits=(0.5, 1), reference=0.5
    )


def read_predictions(path: Path, metrics: Facts) -> pd.DataFrame | None:
    """The table of a test, None where it was not kept. Raises DataError unless it fits its report."""
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path, dtype={"image": str, "patient": str}, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from error
    wanted = [
        f"{kind}:{finding['name']}" for finding in metrics["findings"] for kind in ("label", "probability")
    ]
    if missing := [column for column in ("image", "patient", *wanted) if column not in table]:
        raise DataError(f"{path} lacks the column '{missing[0]}': run that fine-tuning again.")
    if len(table) != metrics["n"]:
        raise DataError(
            f"{path} has {len(table)} films, its report {metrics['n']}: they are of different runs."
        )
    return table


def cases(predictions: pd.DataFrame, finding: str) -> tuple[Any, Any]:
    """Probabilities and truth of the films on which a finding is known."""
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
    """Predicted against observed frequency of a finding; after: the same films after calibration."""
    curve = reliability_curve(*cases(predictions, finding["name"]))
    calibrated = None if after is None else reliability_curve(*cases(after, finding["name"]))
    return figures.reliability_panel(curve, label=f"Calibration of {finding['name']}", after=calibrated)


def confusion(predictions: pd.DataFrame, metrics: Facts) -> list[tuple[str, list[int]]] | None:
    """True finding -> films per most probable finding, when each film has exactly one; else None."""
    if metrics["macc"]["reading"] != TOP1:
        return None
    names = [finding["name"] for finding in metrics["findings"]]
    truth = predictions[[f"label:{name}" for name in names]].to_numpy().argmax(axis=1)
    answer = predictions[[f"probability:{name}" for name in names]].to_numpy().argmax(axis=1)
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (truth, answer), 1)
    return list(zip(names, counts.tolist(), strict=True))


def comparisons(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs that were tested on the same films with the same labels under the same protocol, two or more."""
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
        x_label=f"mean AUC on the same {films} test films (dashed: chance)",
    )  # fmt: skip


def localisation(name: str, folder: Path) -> dict[str, Any]:
    """The pointing game and the pictures that were drawn for it."""
    report = read_facts(folder / "report.json")
    scored = report["pointing"]
    pictures = []
    for shown in report["overlays"]:
        path = folder / "overlays" / Path(shown["picture"]).name
        try:
            with Image.open(path) as picture:
                film = data_uri(figures.jpeg(picture))
        except OSError as error:
            raise DataError(f"The picture {path} cannot be read: {error}. Run that step again.") from error
        peak = "peak inside the box" if shown["hit"] else "peak outside the box"
        pictures.append((shown["finding"], f"probability {shown['probability']:.2f}, {peak}", film))
    return {
        "name": name,
        "report": report,
        "hits": sum(row["hits"] for row in scored),
        "films": sum(row["films"] for row in scored),
        "figure": pointing_figure(name, scored) if scored else None,
        "pictures": pictures,
    }


def pointing_figure(name: str, scored: list[Facts]) -> str:
    """The share of hits per finding with its interval."""
    rows = [
        (f"{row['finding']} ({row['hits']} of {row['films']})", row["rate"], interval(row["interval"]))
        for row in scored
    ]
    label, x_label = f"Pointing game of {name}", "share of peaks inside a true box"
    return figures.interval_plot(rows, label=label, x_label=x_label, limits=(0, 1), bars=True)


def numbers(table: pd.DataFrame, column: str) -> Any:
    """A column of a log as float64, NaN where a line has none."""
    return pd.to_numeric(table[column]).to_numpy(np.float64)


def interval(ends: list[float | None]) -> tuple[float, float] | None:
    """[low, high] of a report, None where it is not defined."""
    low, high = ends
    return None if low is None or high is None else (low, high)


def start_of(weights: str | None, run: Path) -> str:
    """The weights a fine-tuning began with, in words; a path inside the run is given from there."""
    if weights is None:
        return "random weights"
    path = Path(weights)
    return f"weights of {path.relative_to(run) if path.is_relative_to(run) else path}"


def data_uri(jpeg: bytes) -> str:
    """A picture that travels inside the page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def template(name: str = "report.html.j2") -> Template:
    """A page, with escaping on; a name it does not find is an error; numbers as `show_...` write them."""
    environment = Environment(
        loader=PackageLoader("evax.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": show_number, "interval": show_interval, "duration": show_duration}
    environment.filters |= {"percent": show_percent, "count": lambda value: f"{value:,}"}
    environment.globals["inline"] = inliner()
    return environment.get_template(name)


def inliner() -> Callable[[str], Markup]:
    """A function that puts figures on one page: each gets ids of its own."""
    numbers = itertools.count(1)
    return lambda svg: Markup(figures.with_prefixed_ids(svg, f"figure{next(numbers)}-"))


def show_number(value: float | None, digits: int = 3) -> str:
    """Three decimals, or that there is no value."""
    return "not defined" if value is None else f"{value:.{digits}f}"


def show_interval(ends: list[float | None]) -> str:
    """The 95 % interval in brackets."""
    known = interval(ends)
    return "[not defined]" if known is None else f"[{known[0]:.3f}, {known[1]:.3f}]"


def show_percent(part: int | float, whole: int | float = 1) -> str:
    """A share of a whole, or a dash where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def show_duration(seconds: int | float) -> str:
    """Seconds, minutes or hours, as one would say it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

"""Run folders -> report.html: the page of one command, and of a demo with several steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evax.data.labelled import column_of, data_fingerprint
from evax.data.store import ImageStore, open_store
from evax.errors import DataError
from evax.evaluation.report import ERRORS_PER_FINDING
from evax.evaluation.subgroups import ENOUGH
from evax.pages import figures
from evax.pages.drawing import data_uri, image_picture
from evax.pages.figures import interval_plot
from evax.pages.masks import segmentation
from evax.pages.sections import comparisons, data_sheet, fine_tuning, localisation, probing
from evax.pages.template import show_interval, show_number, write_page
from evax.runs.files import (
    Facts,
    interval,
    numbers,
    read_facts,
    read_log,
    read_suspicious,
    tokenizer_in_words,
)

KINDS = {"store", "fetch", "pretrain", "probe", "finetune", "localize", "predict", "export"}


def write_demo_page(run: Path) -> Path:
    """Reads the run folder and writes its report.html; returns that path.

    run: holds run.json and the folders its steps name; a step whose results are absent has no section.
    Raises DataError naming the file that is missing, damaged or incomplete.
    """
    journal = read_facts(run / "run.json")
    steps = [
        dict(step) | {"path": run / step["folder"], "kind": known_kind(step), "page": page_of(run, step)}
        for step in journal["steps"]
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


def page_of(run: Path, step: Facts) -> str | None:
    """Where a step's own page or table is, from the page of the demo."""
    folder = Path(step["folder"])
    places = (folder / "report.html", *((folder,) if step["kind"] in ("predict", "export") else ()))
    return next((place.as_posix() for place in places if (run / place).is_file()), None)


SECTIONS = ("stores", "pretrainings", "runs", "localisations", "segmentations")


def render(
    page: Path,
    *,
    title: str,
    steps: list[dict[str, Any]],
    environment: dict[str, Any],
    **sections: list[dict[str, Any]],
) -> Path:
    """Writes the page and returns its path. sections: some of SECTIONS; the others are left out."""
    shown: dict[str, list[dict[str, Any]]] = {name: [] for name in SECTIONS} | sections
    return write_page(
        page,
        "report.html.j2",
        title=title,
        steps=steps,
        environment=environment,
        comparisons=comparisons(shown["runs"]),
        synthetic=any(map(makes_phantoms, steps)) or reads_phantoms(shown["stores"]),
        **shown,
    )


def known_kind(step: Facts) -> str:
    """The kind of a step. Raises DataError for one the report does not know."""
    if step["kind"] not in KINDS:
        raise DataError(
            f"{step.path}: a step is of kind '{step['kind']}'; known: {', '.join(sorted(KINDS))}."
        )
    return str(step["kind"])


def makes_phantoms(step: dict[str, Any]) -> bool:
    """Whether a step draws or reads synthetic images."""
    return step["kind"] in ("fetch", "store") and "phantom" in step["command"]


def reads_phantoms(stores: list[dict[str, Any]]) -> bool:
    """Whether a store was made of synthetic images, as far as its source says so."""
    return any("phantom" in str(sheet["store"].card["source"]).lower() for sheet in stores)


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
        "tokenizer": tokenizer_in_words(report["tokenizer"]),
        "probed": len(probes) > 0,
        "probe_findings": sorted({int(n) for n in probes.get("knn_findings", ()) if n}),
        "curves": [
            *curve("step", "cosine", "cosine with the tokenizer"),
            *curve("step", "lr", "learning rate"),
            *curve("probe", "knn_auc", "kNN mean AUC", chance=0.5),
            *curve("probe", "rankme", "RankMe (effective rank)"),
        ],
    }


SUSPICIOUS = 12  # pictures


def write_run_page(folder: Path) -> Path:
    """Reads the folder of a finished run of these five jobs and writes its report.html.

    Pictures need the store that the run was made of; without it the page says so and has none.
    Raises DataError naming a file that is missing, damaged or incomplete.
    """
    report, name = read_facts(folder / "report.json"), folder.resolve().name
    step = {
        "kind": report["kind"], "name": name, "command": report["command"], "seconds": report["seconds"],
        "folder": name, "path": folder, "page": None,
    }  # fmt: skip
    sections: dict[str, Any]
    if report["kind"] in ("finetune", "probe", "segment"):
        store = store_of(report)
        stores = [] if store is None else [data_sheet(store.path.name, store)]
    if report["kind"] == "segment":
        sections = {"segmentations": [segmentation(name, folder)], "stores": stores}
    elif report["kind"] in ("finetune", "probe"):
        if report["kind"] == "probe":
            runs = [view | {"details": details(view["report"], store)} for view in probing(folder)]
        else:
            whole = details(report, store) | of_training(report, folder, store)
            runs = [fine_tuning(name, folder, folder) | {"details": whole}]
        sections = {"runs": runs, "stores": stores}
    elif report["kind"] == "pretrain":
        sections = {"pretrainings": [pre_training(name, folder)]}
    else:
        sections = {"localisations": [localisation(name, folder)]}
    return render(
        folder / "report.html",
        title=f"evax {report['kind']} · {name}",
        steps=[step],
        environment=read_facts(folder / "environment.json"),
        **sections,
    )


def store_of(report: Facts) -> ImageStore | None:
    """The store a run was made of, divided as for the run; None when it is not there or holds other images."""
    try:
        store = open_store(report["recipe"]["store"])
    except DataError:
        return None
    films, _, split = report["data_fingerprint"].partition(
        "+"
    )  # of images and, where one was given, of a table
    if store.fingerprint != films:
        return None
    return divided_by(store, Path(report["recipe"]["split"]), report["data_fingerprint"]) if split else store


def divided_by(store: ImageStore, table: Path, fingerprint: str) -> ImageStore:
    """The store as if its split were that of a table; in no split where the table is gone or was changed."""
    said, named = f"table {table.name}", [""] * len(store)
    try:
        kept = data_fingerprint(store, table) == fingerprint
        named = column_of(store, table, "split") if kept else named
    except DataError:
        kept = False
    divided = copy.copy(store)
    divided.card = store.card | {
        "split": said if kept else f"{said}, which is not there any more or was changed"
    }
    divided.manifest = replace(store.manifest, table=store.manifest.table.assign(split=named))
    return divided


def details(report: Facts, store: ImageStore | None) -> dict[str, Any]:
    """What the page of several runs leaves out of each classifier: subgroups and errors."""
    return {
        "enough": ENOUGH,
        "subgroups": [subgroup(part) for part in report["subgroups"]],
        "errors": errors(report["errors"], store),
        "errors_per_finding": ERRORS_PER_FINDING,
        "no_pictures": ""
        if store is not None
        else f"No pictures: {report['recipe']['store']} is not there any more, or holds other images.",
    }


def of_training(report: Facts, folder: Path, store: ImageStore | None) -> dict[str, Any]:
    """What else it leaves out of a fine-tuning: what the weights had learned, and doubtful labels."""
    suspicious = read_suspicious(folder / "suspicious.csv")
    return {
        "began_from": lineage(report),
        "suspicious": [suspect(row, store) for row in suspicious.head(SUSPICIOUS).to_dict("records")],
        "suspicious_listed": len(suspicious),
    }


def lineage(report: Facts) -> str:
    """What the weights had learned from before, as far as their bundle says."""
    began = report["model"]["began_from"]
    if "images" not in began:
        return "not known: the weights do not say" if report["weights"] else "nothing: random weights"
    stores = ", ".join(began.get("stores", []))
    return f"{began['images']:,} image views without labels, stores {stores}"


def subgroup(part: Facts) -> dict[str, Any]:
    """One attribute: the figure of the means, the table per finding, and what cannot be said."""
    compared = [group for group in part["groups"] if group["mauc"] is not None]
    scored = [group for group in part["groups"] if any(f["auroc"] is not None for f in group["findings"])]
    gap, findings = part["gap"], part["findings_compared"]
    notes = [f"over {len(findings)} findings; bars: 95 % intervals"]
    if gap["value"] is not None:
        size = f"{show_number(gap['value'])} {show_interval(gap['interval'])}"
        notes.append(f"gap {size}, {gap['best']} over {gap['worst']}")
    names = [row["name"] for row in part["groups"][0]["findings"]] if part["groups"] else []
    table = [
        (name, [group["findings"][k] for group in scored], part["finding_gaps"][k])
        for k, name in enumerate(names)
    ]
    return {
        "attribute": part["attribute"],
        "figure": subgroup_figure(part["attribute"], compared) if compared else None,
        "notes": notes,
        "shown": scored,
        "table": table if scored else [],
        "said": unsaid(part, compared),
    }


def subgroup_figure(attribute: str, groups: list[Facts]) -> str:
    """The mean AUC of each group with its interval."""
    rows = [
        (f"{group['group']}, n = {group['films']}", group["mauc"], interval(group["mauc_interval"]))
        for group in groups
    ]
    label = f"Mean AUC by {attribute} with 95 % intervals"
    return interval_plot(
        rows, label=label, x_label="mean AUC (dashed: chance)", limits=(0.5, 1), reference=0.5
    )


def unsaid(part: Facts, compared: list[Facts]) -> str:
    """The groups that are too small, and the images of which the group is not known, in words."""
    small = [group for group in part["groups"] if group["mauc"] is None]
    sentences = []
    if small:
        listed = ", ".join(
            f"{group['group']} ({group['films']} images of {group['patients']} patients)" for group in small
        )
        sentences.append(f"Too few patients to be compared in the mean: {listed}.")
    if len(compared) == 1 and not small:
        sentences.append(
            f"All test images with a known {part['attribute']} are of one group: nothing to compare."
        )
    if part["not_stated"]:
        sentences.append(f"Not known for {part['not_stated']} test images.")
    return f"{part['attribute'].capitalize()}: {' '.join(sentences)}" if sentences else ""


def errors(listed: list[Facts], store: ImageStore | None) -> list[tuple[str, list[dict[str, Any]]]]:
    """Headings with their films: false alarms and misses, or wrong answers where one finding is true."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for error in listed:
        if "truth" in error:
            heading, title = "Wrong answers", f"{error['finding']}, labelled {error['truth']}"
        elif error["label"] == 1:
            heading, title = "Missed", f"{error['finding']}, labelled present"
        else:
            heading, title = "False alarms", f"{error['finding']}, labelled absent"
        film = {"title": title, "note": f"row {error['row']} · {error['probability']:.3f}"}
        groups.setdefault(heading, []).append(film | with_picture(error["row"], store))
    return list(groups.items())


def suspect(row: dict[Any, Any], store: ImageStore | None) -> dict[str, Any]:
    """A line of suspicious.csv as a picture with its words."""
    said = "present" if row["label"] == 1 else "absent"
    note = f"row {row['film_row']} · {row['split']} · {row['score']:.2f}"
    return {"title": f"{row['finding']}, labelled {said}", "note": note} | with_picture(
        row["film_row"], store
    )


def with_picture(row: int, store: ImageStore | None) -> dict[str, Any]:
    """The image of a row as a small picture; pixels only, no name."""
    picture = None if store is None else data_uri(image_picture(store.pixels(row), side=200))
    return {"row": row, "picture": picture}

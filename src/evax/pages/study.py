"""The folder of a study of many runs -> report.html: what was run, how its runs spread, where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evax.evaluation.metrics import METRICS, metrics_in
from evax.pages.drawing import svg_of
from evax.pages.figures import interval_plot
from evax.pages.study_figures import (
    FEWEST,
    MEAN,
    few_labels_figure,
    folds_figure,
    seeds_of_folds_figure,
)
from evax.pages.template import write_page
from evax.runs.files import Facts, interval, read_facts


def write_study_page(results: Sequence[Path]) -> Path:
    """Writes report.html beside the results of a study and returns its path.

    results: crossvalidate.json, fewshot.json, seeds.json, or both linear.json and knn.json of a sweep of
    probes; their runs lie beside them.
    Raises DataError naming a file that is missing, damaged or incomplete.
    """
    folder, studies = results[0].parent, [read_facts(path) for path in results]
    first, groups = studies[0], [group for study in studies for group in groups_of(study)]
    not_learned = {run.get("not_learned", "") for _, _, runs in groups for run in runs}
    return write_page(
        folder / "report.html",
        "study.html.j2",
        title=f"{' '.join(first['command'].split()[:2])} · {folder.resolve().name}",
        study=first,
        names=[study["name"] for study in studies],
        over="folds" if first["kind"] == "crossvalidate" else "seeds",
        of_folds=repeats_folds(first),
        metrics=metrics_in(*(group for _, group, _ in groups)),
        spreads=[spread for name, group, _ in groups for spread in spreads_of(name, group)],
        runs=[run_row(name, run, folder) for name, _, runs in groups for run in runs],
        some_not_learned=not_learned != {""},
        learned_apart=len(not_learned) > 1,
        picture=picture(results, first),
        environment=read_facts(folder / "environment.json"),
    )


def repeats_folds(study: Facts) -> bool:
    """Whether each run of this study is a cross-validation."""
    return study["kind"] == "seeds" and "folds" in study["runs"][0]


def groups_of(study: Facts) -> list[tuple[str, Facts, list[Facts]]]:
    """Runs that are summed up together: their name, what holds their spread, and they."""
    if "points" not in study:
        return [(MEAN, study, study["folds"] if study["kind"] == "crossvalidate" else study["runs"])]
    way = f"{study['way']}, " if "way" in study else ""
    return [(way + amount_of(point), point, point["runs"]) for point in study["points"]]


def amount_of(point: Facts) -> str:
    """How many labels a point of a study has, as in its figure."""
    return f"{100 * point['fraction']:.3g} %" if point["count"] is None else f"{point['count']} patients"


def spreads_of(name: str, group: Facts) -> list[dict[str, Any]]:
    """Lines of the table of means: the scores of a group, then the AUROC of each finding where kept."""
    scores = {metric.key: group.get(metric.key) for metric in METRICS}
    return [{"name": name, "lr": group.get("lr"), **scores}] + [
        {"name": finding, "lr": None, **dict.fromkeys(scores), "mauc": spread}
        for finding, spread in group.get("findings", {}).items()
    ]


def run_row(group: str, run: Facts, folder: Path) -> dict[str, Any]:
    """A line of the table of runs, with where its own page is and which of its checks did not pass."""
    own = folder / run["folder"]
    page = "report.html" if (own / "report.html").is_file() else "report.json"
    return {
        "name": run["folder"].partition("/")[2],
        "group": group,
        "link": f"{run['folder']}/{page}",
        "of": run["fold"] if "fold" in run else run["seed"],
        "failed": failed_checks(own),
        "facts": run,
    }


def failed_checks(run: Path) -> list[str]:
    """Names of the checks that a run did not pass; of a cross-validation with the number of its folds."""
    if (run / "report.json").is_file():
        checks = read_facts(run / "report.json").get("checks", [])
        return [check["name"] for check in checks if check["passed"] is False]
    folds = read_facts(run / "crossvalidate.json")["folds"]
    counts = Counter(name for fold in folds for name in failed_checks(run / fold["folder"]))
    return [f"{name} ({count} of {len(folds)} folds)" for name, count in counts.items()]


def picture(results: Sequence[Path], study: Facts) -> tuple[str, list[str], str]:
    """Title, notes and figure: boxes of folds, score against labels, or the seeds one by one."""
    if repeats_folds(study):
        title = "mAUC over folds and seeds"
        notes = [
            f"a dot per fold, and below the line a dot per seed; box: quartiles, from {FEWEST} dots on; "
            "dashed: chance"
        ]
        return title, notes, svg_of(seeds_of_folds_figure(results[0]), title)
    if study["kind"] == "crossvalidate":
        title = "AUROC over folds"
        box = "; box: quartiles" if len(study["folds"]) >= FEWEST else ""
        notes = [f"a dot per fold{box}; dashed: chance"]
        return title, notes, svg_of(folds_figure(results[0]), title)
    if "points" in study:
        title = "mAUC against labelled training patients"
        return title, ["mean and sd over seeds; dashed: chance"], svg_of(few_labels_figure(results), title)
    rows = [
        (f"seed {run['seed']}", run["mauc"], interval(run["mauc_patient_interval"]))
        for run in study["runs"]
        if run["mauc"] is not None
    ]
    title, x_label = "mAUC of each seed", "mAUC (dashed: chance)"
    svg = interval_plot(rows, label=title, x_label=x_label, limits=(0.5, 1), reference=0.5)
    return title, ["bars: 95 % intervals over patients, each of one run alone"], svg

"""python docs/keep_run.py RUN NAME [NOTE]: the numbers of a demo run as docs/results/NAME.json and NAME.md.

What is kept is copied from the run's own files: nothing here is typed by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CURVE_POINTS = 20


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def curve(folder: Path) -> list[dict[str, Any]]:
    """The cosine at about CURVE_POINTS steps, each the mean since the one before."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    stretch = max(1, len(steps) // CURVE_POINTS)
    parts = [steps[start : start + stretch] for start in range(0, len(steps), stretch)]
    return [
        {"images": part[-1]["images"], "cosine": round(sum(line["cosine"] for line in part) / len(part), 4)}
        for part in parts
    ]


def probes(folder: Path) -> list[dict[str, Any]]:
    """What the probes measured during the run."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["event"] == "probe"]


def record(run: Path) -> dict[str, Any]:
    """Every step's command, time and numbers."""
    journal = read(run / "run.json")
    for step in journal["steps"]:
        folder = run / step["folder"]
        if (folder / "environment.json").is_file():
            step["environment"] = read(folder / "environment.json")
        if step["kind"] == "store":
            card = read(folder / "store.json")
            step["store"] = {key: card[key] for key in ("films", "rejected", "fingerprint", "split")}
        elif (folder / "report.json").is_file():
            step["report"] = read(folder / "report.json")
            if step["kind"] == "pretrain":
                step["curve"], step["probes"] = curve(folder), probes(folder)
            step["report"].pop("recipe", None)
    return journal


def number(value: float | None, interval: list[float | None] | None = None) -> str:
    """Three decimals, with the interval where there is one."""
    if value is None:
        return "not defined"
    ends = "" if interval is None or None in interval else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    return f"{value:.3f}{ends}"


def table(heads: str, rows: list[list[str]]) -> list[str]:
    """A Markdown table; heads are divided by |, one that ends with : is set to the right."""
    names = heads.split("|")
    rules = ["---:" if name.endswith(":") else "---" for name in names]
    cells = [[name.removesuffix(":") for name in names], rules]
    cells += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return ["", *(f"| {' | '.join(row)} |" for row in cells)]


def pretrain_lines(step: dict[str, Any]) -> list[str]:
    """How far the cosine and the probes came."""
    report = step["report"]
    points = [[str(point["images"]), number(point["cosine"])] for point in step["curve"]]
    votes = [
        [str(probe["images"]), number(probe["knn_auc"]), f"{probe['rankme']:.1f}"] for probe in step["probes"]
    ]
    return [
        f"{report['images']} image views in {report['steps']} steps of {report['batch_size']}, "
        f"{report['images_per_s']:.1f} views per second. Mean cosine on hidden patches over the last 20 "
        f"steps: **{number(report['final_cosine'])}**. kNN AUC of frozen features on validation films: "
        f"**{number(report['knn_auc_first'])} before, {number(report['knn_auc_last'])} after** "
        "(one run, no interval).",
        *table("image views:|cosine:", points),
        *table("image views:|kNN AUC:|RankMe:", votes),
    ]


def finetune_lines(step: dict[str, Any]) -> list[str]:
    """The protocol and the test, per finding and in the mean."""
    report, metrics = step["report"], step["report"]["test_metrics"]
    protocol, mean, train = report["protocol"], metrics["mauc"], report["train"]
    rows = [
        [
            row["name"],
            str(row["positives"]),
            number(row["auroc"], row["auroc_interval"]),
            number(row["average_precision"], row["average_precision_interval"]),
        ]
        for row in metrics["findings"]
    ]
    means = [number(part["value"], part["interval"]) for part in (mean, metrics["map"])]
    entered = f"{mean['findings_entered']} of {mean['findings_total']}"
    accuracy = metrics["macc"]
    return [
        f"From {report['weights'] or 'random weights'}; labels of {train['films']} training images of "
        f"{train['patients']} patients; seed {protocol['seed']}. Checkpoint (step {report['best_step']}) "
        f"chosen on {protocol['checkpoint_chosen_on']}. Test: {metrics['n']} images of {metrics['patients']} "
        f"patients, scored {protocol['test_scored']}. Intervals: {protocol['interval']}.",
        *table(
            "finding|positives:|AUROC|average precision",
            [*rows, [f"**mean of {entered}**", "", f"**{means[0]}**", means[1]]],
        ),
        "",
        f"Accuracy ({accuracy['reading']}): {number(accuracy['value'], accuracy['interval'])}.",
    ]


def localize_lines(step: dict[str, Any]) -> list[str]:
    """The pointing game, and the overlap at the threshold."""
    report = step["report"]
    scores, protocol = report["localization"], report["protocol"]
    together = [
        *zip(
            [row["finding"] for row in report["pointing"]],
            report["pointing"],
            scores["findings"],
            strict=True,
        ),
        ("**all**", scores["overall"]["pointing"], scores["overall"]),
    ]
    rows = [
        [
            name,
            str(row["cases"]),
            str(row["patients"]),
            f"{pointing['hits']} of {pointing['films']}: {number(pointing['rate'], pointing['interval'])}",
            number(row["share_of_film"]),
            *(number(row[key], row[f"{key}_interval"]) for key in ("ap25", "ap50", "map", "miou")),
        ]
        for name, pointing, row in together
    ]
    chosen = ", ".join(f"{threshold:.2f}" for threshold in scores["overall"]["thresholds"]) or "none"
    return [
        f"Protocol {protocol['name']}. Grad-CAM at `{report['at']}`, {report['split']} images. A case is "
        f"{protocol['case']}. Threshold {chosen}, chosen on {protocol['threshold_chosen_on']}.",
        *table("finding|cases:|patients:|peak inside|by chance:|AP25|AP50|mAP|mIoU", rows),
    ]


def page(run: dict[str, Any], name: str, note: str) -> str:
    """The record as Markdown; note: what a reader must know of how it was made."""
    facts, steps = run["environment"], run["steps"]
    rows = [[step["kind"], step["name"], str(step["seconds"]), f"`{step['command']}`"] for step in steps]
    lines = [
        f"# {run['title']}",
        "",
        f"`{facts['command']}`, torch {facts['torch']}. Written by `docs/keep_run.py` from the run's files; "
        f"all numbers are in [{name}.json]({name}.json).",
        *(["", note] if note else []),
        *table("step|name|seconds:|command", rows),
    ]
    sections = {"pretrain": pretrain_lines, "finetune": finetune_lines, "localize": localize_lines}
    for step in steps:
        if "report" in step and step["kind"] in sections:
            made = step["environment"]
            lines += ["", f"## {step['kind']}: {step['name']}", "", *sections[step["kind"]](step), ""]
            lines += [
                f"Made {made['date']} at commit `{made['commit']}` on {made['cores']} cores, {made['cpu']}."
            ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes both files."""
    folder, name, note = Path(sys.argv[1]), sys.argv[2], " ".join(sys.argv[3:])
    RESULTS.mkdir(exist_ok=True)
    kept = record(folder)
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(page(kept, name, note), encoding="utf-8")


if __name__ == "__main__":
    main()

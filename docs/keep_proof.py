# ruff: noqa: E501  # a page in pieces
"""python docs/keep_proof.py NAME TITLE COMPARE_FOLDER PRETRAIN_RUN [PROBE_RUN...] [--folds STUDY] [--note FILE]:
a proof of pre-training.

Writes docs/results/NAME.{md,json,svg}: what `evax compare` made of the sweeps, the pre-training that one of them
began with, probes of frozen features, and a cross-validation (its box plot is NAME-folds.svg). What is kept is
copied from the runs' own files: nothing here is typed by hand but the note.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from keep_run import RESULTS, curve, number, probes, read, table


def ends(row: dict[str, Any] | None) -> str:
    """A value with its interval, or a dash."""
    if not row:
        return "-"
    value = row.get("value", row.get("mean"))
    return number(value, row.get("interval"))


def is_sweep(run: Path) -> bool:
    """Whether a run of evax probe went over shares of the labels."""
    return (run / "linear.json").is_file()


def sweep_rows(content: dict[str, Any]) -> list[list[str]]:
    """Per network and share: images, seeds' mean and sd, both intervals, accuracy."""
    rows = []
    for row in content["rows"]:
        spread = (row["spread_over_seeds"] or {}).get("mauc") or {}
        rows.append(
            [
                row["name"],
                "-" if row["label_fraction"] is None else f"{100 * row['label_fraction']:g} %",
                str(len(row["seeds"])),
                ends(row["mauc"]),
                "-" if spread.get("sd") is None else f"{spread['sd']:.3f}",
                "-"
                if not spread
                else number(None if None in spread["interval"] else spread["mean"], spread["interval"]),
                ends(row["macc"]),
            ]
        )
    return rows


def difference_rows(content: dict[str, Any]) -> list[list[str]]:
    """Paired differences of the means."""
    return [
        [
            each["name"],
            each["reference"],
            f"{each['mauc']['value']:+.3f} [{each['mauc']['interval'][0]:+.3f}, {each['mauc']['interval'][1]:+.3f}]",
            f"{each['mauc']['p_holm']:.2g}",
            ends(each["seeds"]),
        ]
        for each in content["differences"]
    ]


def probe_sweep_rows(runs: list[Path]) -> list[list[str]]:
    """Linear probe and nearest neighbours on shares of the labels: mean and sd over seeds."""
    rows = []
    for run in runs:
        for kind in ("linear", "knn"):
            points = read(run / f"{kind}.json")["points"]
            cells = [
                f"{100 * point['fraction']:g} %: {number(point['mauc']['mean'])}"
                + ("" if point["mauc"]["sd"] is None else f" (sd {point['mauc']['sd']:.3f})")
                for point in points
            ]
            rows.append([run.name, kind, "; ".join(cells)])
    return rows


def probe_rows(runs: list[Path]) -> list[list[str]]:
    """Linear probe and nearest neighbours of frozen features, tested once."""
    rows = []
    for run in runs:
        report = read(run / "report.json")
        scores = [
            number(
                report[kind]["test_metrics"][score]["value"], report[kind]["test_metrics"][score]["interval"]
            )
            for kind in ("linear", "knn")
            for score in ("mauc", "macc")
        ]
        rows.append([run.name, *scores])
    return rows


def spread(row: dict[str, Any]) -> list[str]:
    """Mean, sd and t-interval over the folds."""
    return [number(row["mean"]), number(row["sd"]), number(row["mean"], row["interval"])]


def fold_lines(content: dict[str, Any], command: str, name: str) -> list[str]:
    """The section about a cross-validation."""
    folds, pooled = content["folds"], content["pooled"]
    return [
        "## Cross-validation",
        "",
        f"`{command}`",
        "",
        f"{len(folds)} folds of patients, {pooled['n']} images of {pooled['patients']} patients tested once each; the "
        "patients of whom the encoder saw images train in every fold and are tested in none. The t-interval over folds "
        "is too short, because folds share training images (see [how](../how-to/crossvalidate.md)).",
        *table(
            "score|mean|sd:|mean [t-interval over folds]",
            [
                ["mAUC", *spread(content["mauc"])],
                ["mAcc", *spread(content["macc"])],
                *[[f"AUROC {finding}", *spread(row)] for finding, row in content["findings"].items()],
            ],
        ),
        "",
        f"All tested images together: mAUC {ends(pooled['mauc'])}, interval over patients.",
        "",
        f"![a box per finding and one for the mean, every fold a dot]({name}-folds.svg)",
        "",
    ]


def page(title: str, kept: dict[str, Any], name: str, probe_runs: list[Path], note: str) -> str:
    """The record as Markdown."""
    content, pre = kept["compare"], kept["pretrain"]
    report, made = pre["report"], pre["environment"]
    sweeps = {each["folders"][0].rsplit("/runs/", 1)[0]: each["run"] for each in content["rows"]}
    commands = [[folder, f"`{kept['commands'][folder]}`"] for folder in sweeps]
    lines = [
        f"# {title}",
        "",
        f"Written by `docs/keep_proof.py` from the runs' files; all numbers are in [{name}.json]({name}.json).",
        *(["", note] if note else []),
        "",
        "## Pre-training without labels",
        "",
        f"`{made['command']}`",
        "",
        f"{report['images']} image views in {report['steps']} steps of {report['batch_size']} at {report['image_size']} "
        f"pixels. Mean cosine on hidden patches over the last 20 steps: **{number(report['final_cosine'])}**. kNN AUC "
        f"on validation films: {number(report['knn_auc_first'])} before, **{number(report['knn_auc_last'])}** after. "
        f"SHA-256 of the encoder's `model.safetensors`: `{pre['sha256']}`. Commit `{made['commit']}`, {made['date']}, "
        f"{made['cores']} cores, {made['cpu']}.",
        *table("image views:|cosine:", [[str(p["images"]), number(p["cosine"])] for p in pre["curve"]]),
        *table(
            "image views:|kNN AUC:|RankMe:",
            [[str(p["images"]), number(p["knn_auc"]), f"{p['rankme']:.1f}"] for p in pre["probes"]],
        ),
        "",
        "## Few labels",
        "",
        f"Test: {content['test']['films']} images of {content['test']['patients']} patients, the same for all; "
        f"{content['statistics']['interval']}. mAUC and mAcc are means over the seeds, their intervals are over "
        "patients; sd and t-interval are over seeds.",
        *table(
            "network|labels:|seeds:|mAUC [patients]|sd:|mAUC [seeds]|mAcc [patients]", sweep_rows(content)
        ),
        "",
        f"![score against share of labels]({name}.svg)",
        "",
        "Differences, the same resampled patients for both rows, p after Holm over the rows; seed by seed, mean and "
        "t-interval:",
        *table("network|against|mAUC difference [patients]|p:|seed by seed", difference_rows(content)),
        *table("sweep|command", commands),
        "",
    ]
    if probe_runs:
        lines += [
            "## Frozen features, all labels",
            *table(
                "encoder|linear mAUC|linear mAcc|kNN mAUC|kNN mAcc",
                probe_rows([run for run in probe_runs if not is_sweep(run)]),
            ),
            "",
            "On shares of the labels, seeds 0 to 4 (all labels: one run):",
            *table("encoder|probe|mAUC", probe_sweep_rows([run for run in probe_runs if is_sweep(run)])),
            "",
        ]
    if kept["folds"]:
        lines += fold_lines(kept["folds"]["result"], kept["folds"]["command"], name)
    return "\n".join(lines)


def main() -> None:
    """Reads the runs, writes the three files."""
    import hashlib

    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("title")
    parser.add_argument("compare", type=Path)
    parser.add_argument("pretrain", type=Path)
    parser.add_argument("probes", type=Path, nargs="*")
    parser.add_argument("--folds", type=Path)
    parser.add_argument("--note", type=Path)
    asked = parser.parse_args()
    content = read(asked.compare / "compare.json")
    folders = {row["folders"][0].rsplit("/runs/", 1)[0] for row in content["rows"]}
    weights = (asked.pretrain / "encoder" / "model.safetensors").read_bytes()
    kept = {
        "compare": content,
        "commands": {
            folder: read(Path(folder) / "environment.json")["command"] for folder in sorted(folders)
        },
        "fewshot": {folder: read(Path(folder) / "fewshot.json") for folder in sorted(folders)},
        "pretrain": {
            "report": read(asked.pretrain / "report.json"),
            "environment": read(asked.pretrain / "environment.json"),
            "sha256": hashlib.sha256(weights).hexdigest(),
            "curve": curve(asked.pretrain),
            "probes": probes(asked.pretrain),
        },
        "frozen": {
            str(run): read(run / ("linear.json" if is_sweep(run) else "report.json")) for run in asked.probes
        },
        "folds": asked.folds
        and {
            "result": read(asked.folds / "crossvalidate.json"),
            "command": read(asked.folds / "environment.json")["command"],
        },
    }
    import json

    note = asked.note.read_text(encoding="utf-8").strip() if asked.note else ""
    (RESULTS / f"{asked.name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{asked.name}.md").write_text(
        page(asked.title, kept, asked.name, asked.probes, note), encoding="utf-8"
    )
    shutil.copy(asked.compare / "few-labels.svg", RESULTS / f"{asked.name}.svg")
    if asked.folds:
        shutil.copy(asked.folds / "crossvalidate.svg", RESULTS / f"{asked.name}-folds.svg")


if __name__ == "__main__":
    main()

"""Run folders as finetune and fewshot leave them, with answers drawn instead of learned: cheap."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from evax.evaluation.classification import choose_thresholds
from evax.evaluation.report import evaluate_classifier
from evax.evaluation.study_rows import row_of_share, summarize_points
from evax.files import write_json

FINDINGS = ("Effusion", "Mass", "Hernia")
ENCODER = "eva_x_tiny_patch16_224"


def write_run(
    folder: Path,
    skill: float,
    *,
    findings=FINDINGS,
    patients: int = 60,
    films_each: int = 2,
    exclusive: bool = False,
    encoder: str = ENCODER,
    fraction: float = 1.0,
    seed: int = 0,
    not_learned: tuple[str, ...] = (),
    **changes,
) -> Path:
    """skill: how far the scores of positives lie above the others. changes: of the report.

    The images and labels depend on their number and the findings alone; no test image has a hernia.
    """
    folder.mkdir(parents=True)
    answers = {}
    for split, chance in (("val", 7), ("test", 8)):
        rng = np.random.default_rng(chance)
        people = np.repeat([f"p{number:03}" for number in range(patients)], films_each)
        labels = (rng.random((len(people), len(findings))) < 0.3).astype(np.float64)
        if exclusive:
            labels = np.eye(len(findings))[rng.integers(len(findings), size=len(people))]
        elif "Hernia" in findings and split == "test":
            labels[:, findings.index("Hernia")] = 0
        noise = rng.standard_normal(labels.shape)  # what all networks find hard
        noise = noise + np.random.default_rng([chance, seed, round(1000 * skill)]).standard_normal(
            labels.shape
        )
        scores = skill * labels + noise
        scores = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True) if exclusive else scores
        scores = scores if exclusive else 1 / (1 + np.exp(-scores))
        answers[split] = (people, labels, scores.astype(np.float32))
        table = pd.DataFrame({"image": [f"{split}{n}.png" for n in range(len(people))], "patient": people})
        for k, finding in enumerate(findings):
            table[f"label:{finding}"], table[f"probability:{finding}"] = (
                labels[:, k],
                scores[:, k].astype("f4"),
            )
        table.to_csv(folder / f"predictions-{split}.csv", index=False)
    learned = np.array([name not in not_learned for name in findings])
    thresholds = choose_thresholds(answers["val"][2], answers["val"][1])
    people, labels, scores = answers["test"]
    metrics = evaluate_classifier(
        scores, labels, findings, people, thresholds, exclusive, resamples=10, learned=learned
    )
    sizes = {"films": len(people), "patients": patients}
    report = {
        "kind": "finetune",
        "encoder": encoder,
        "weights": None,
        "data_fingerprint": "0123456789abcdef",
        "protocol": {
            "name": "clean", "test_scored": "once", "thresholds_chosen_on": "validation (Youden)",
            "checkpoint_chosen_on": "validation mAUC", "split": "by patient", "label_fraction": fraction,
            "seed": seed, "interval": "patients", "uncertain": "ignore", "blank": "ignore",
        },
        "recipe": {"image_size": 64, "out": str(folder)},
        "train": sizes, "validation": sizes, "test": sizes,
        "best_step": 1, "validation_mauc": 0.5, "test_metrics": metrics.to_json(),
    }  # fmt: skip
    write_json(report | changes, folder / "report.json")
    return folder


def write_sweep(folder: Path, skill: float, *, fractions=(0.1, 1.0), seeds=(0, 1, 2), **options) -> Path:
    shares = []
    for fraction in fractions:
        runs = []
        for seed in seeds:
            path = folder / "runs" / f"share-{fraction:g}-seed-{seed}"
            write_run(path, skill * (0.5 + fraction / 2), fraction=fraction, seed=seed, **options)
            runs.append(row_of_share(json.loads((path / "report.json").read_text())))
        shares.append(({"fraction": fraction, "count": None, "lr": 1e-3, "lr_trials": []}, runs))
    content = {"kind": "fewshot", "name": "sweep", "data_fingerprint": "0123456789abcdef"}
    write_json(content | summarize_points(shares), folder / "fewshot.json")
    return folder


def change_json(path: Path, **changes) -> None:
    """Values at dotted paths, `protocol__uncertain="ones"`."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(json.dumps(content))

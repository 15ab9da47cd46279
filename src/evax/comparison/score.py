"""Scored rows -> the facts of a comparison, ready for compare.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evax.comparison.read import MAY_DIFFER, OF_SOME, Entry, Runs, protocol_entry
from evax.config import flat_options
from evax.evaluation.classification import (
    has_few,
    only_learned,
    operating_points,
    patients_of_each_side,
    predictive_values,
)
from evax.evaluation.comparison import Difference, holm
from evax.evaluation.intervals import LEAST_RUNS, Interval, seed_interval
from evax.evaluation.networks import (
    Ground,
    ScoredNetwork,
    calibration_errors,
    finding_differences,
    mean_differences,
    wins,
)
from evax.evaluation.report import plain
from evax.options.training import PLACES


def rows_of(
    runs: Runs,
    scored: Sequence[ScoredNetwork],
    costs: Sequence[Mapping[str, Any]],
    ground: Ground,
    prevalence: float | None,
) -> list[dict[str, Any]]:
    """Everything that is known of each row by itself.

    costs: one per row, added as they are. prevalence: see `predictive_values`; None leaves it out.
    """
    won_by = wins(scored, [entry.fraction for entry in runs.entries])
    return [
        {
            "name": entry.name,
            "run": entry.run,
            "learned_by": entry.learned_by,
            "curve": entry.curve,
            "folders": [str(training.folder) for training in entry.trainings],
            "encoder": entry.report["encoder"],
            "weights": entry.report["weights"],
            "label_fraction": entry.fraction,
            "train": {unit: entry.range_of("train", unit) for unit in ("films", "patients")},
            "seeds": entry.seeds,
            **own_numbers(numbers, ground),
            "wins": won,
            "spread_over_seeds": seed_spread(numbers),
            "findings": finding_rows(entry, numbers, runs, ground, prevalence),
            "calibration": calibration_of(entry, ground),
            **cost,
        }
        for entry, numbers, won, cost in zip(runs.entries, scored, won_by, costs, strict=True)
    ]


def shared_protocol(entries: Sequence[Entry]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the protocols of all rows say, and what only some of them have to say, see OF_SOME.

    The latter each as {"entry": "checkpoint_chosen_on", "values": [per row, None where it has none]}.
    """
    first, cards = entries[0].trainings[0], [entry.report["protocol"] for entry in entries]
    names = [
        name for name in dict.fromkeys(name for card in cards for name in card) if name not in MAY_DIFFER
    ]
    apart = [name for name in names if name in OF_SOME and not all(name in card for card in cards)]
    shared = {name: protocol_entry(first, name) for name in names if name not in apart}
    return shared, [{"entry": name, "values": [card.get(name) for card in cards]} for name in apart]


def own_numbers(numbers: ScoredNetwork, ground: Ground) -> dict[str, Any]:
    """Each mean with its interval over patients."""
    _, means = numbers.intervals(ground)
    return {
        name: {
            "value": plain(numbers.means[name]),
            **ends(interval, "interval"),
            "partial": interval.partial,
        }
        for name, interval in means.items()
    } | {"findings_entered": numbers.entered}


def seed_spread(numbers: ScoredNetwork) -> dict[str, Any] | None:
    """Mean, sd and t-interval over seeds, apart from the patients'; None for one training."""
    if len(numbers.probabilities) == 1:
        return None
    return {
        name: {
            "mean": plain(values.mean()),
            "sd": plain(values.std(ddof=1)),
            **ends(seed_interval(values), "interval"),
            "method": seed_interval(values).method,
        }
        for name, values in numbers.per_training.items()
    }


def finding_rows(
    entry: Entry, numbers: ScoredNetwork, runs: Runs, ground: Ground, prevalence: float | None
) -> list[dict[str, Any]]:
    """AUROC with its interval, and what comes of the decisions; means over the trainings.

    Findings count as present at the validation thresholds; of exclusive classes the most probable one does.
    """
    (intervals, _), people = numbers.intervals(ground), patients_of_each_side(ground.labels, ground.patients)
    decided = [
        operating_points(training.test.probabilities, ground.labels, training.thresholds, ground.exclusive)
        for training in entry.trainings
    ]
    rows = []
    for k, name in enumerate(runs.findings):
        seen = ~np.isnan(ground.labels[:, k])
        positives = ground.labels[seen, k] == 1
        points = [each[k] for each in decided]
        point = {key: float(np.mean([getattr(each, key) for each in points])) for key in asdict(points[0])}
        row: dict[str, Any] = {
            "name": name,
            "learned": bool(entry.learned[k]),
            "positives": int(positives.sum()),
            "negatives": int((~positives).sum()),
            "few_patients": has_few(*people[k].tolist()),
            "auroc": plain(float(numbers.auroc[k])),
            **ends(intervals[k], "auroc_interval"),
            **{key: plain(value) for key, value in point.items()},
        }
        if prevalence is not None:
            ppv, npv = predictive_values(point["sensitivity"], point["specificity"], prevalence)
            row |= {"prevalence": prevalence, "ppv_there": plain(ppv), "npv_there": plain(npv)}
        rows.append(row)
    return rows


def calibration_of(entry: Entry, ground: Ground) -> dict[str, dict[str, float | None]]:
    """Mean ECE and Brier score as answered and recalibrated on validation, means over the trainings."""
    labels = ground.labels if ground.exclusive else only_learned(ground.labels, ground.entering)
    errors = [
        calibration_errors(
            training.test.probabilities,
            labels,
            (training.validation.probabilities, training.validation.labels) if training.validation else None,
            ground.exclusive,
        )
        for training in entry.trainings
    ]
    methods = [method for method in errors[0] if all(method in each for each in errors)]
    return {
        method: {
            measure: plain(float(np.mean([each[method][measure] for each in errors])))
            for measure in ("ece", "brier")
        }
        for method in methods
    }


def differences_of(
    entries: Sequence[Entry],
    scored: Sequence[ScoredNetwork],
    references: Sequence[int | None],
    ground: Ground,
) -> list[dict[str, Any]]:
    """Every row minus its reference: per finding and in the means, with p adjusted by Holm.

    The findings of one row are one family; the mAUCs of all rows are another; so are their mAPs, their mAccs.
    """
    pairs = [(row, other) for row, other in enumerate(references) if other is not None]
    means = [mean_differences(scored[row], scored[other], ground) for row, other in pairs]
    keys = [metric.key for metric in ground.metrics]
    adjusted = {name: holm([each[name].p for each in means]) for name in keys}
    found = []
    for number, (row, other) in enumerate(pairs):
        findings = finding_differences(scored[row], scored[other], ground)
        together = holm([each.p for each in findings])
        found.append(
            {
                "name": entries[row].name,
                "reference": entries[other].name,
                **{name: shown(means[number][name], adjusted[name][number]) for name in keys},
                "findings": [shown(each, p) for each, p in zip(findings, together, strict=True)],
                "higher": sum(each.value > 0 for each in findings),
                "lower": sum(each.value < 0 for each in findings),
                "seeds": paired_seeds(entries[row], entries[other], scored[row], scored[other]),
            }
        )
    return found


def paired_seeds(
    entry: Entry, reference: Entry, numbers: ScoredNetwork, others: ScoredNetwork
) -> dict[str, Any] | None:
    """The difference seed by seed: of two sweeps with the same seeds, which drew the same patients."""
    if entry.seeds != reference.seeds or len(entry.seeds) == 1:
        return None
    values = numbers.per_training["mauc"] - others.per_training["mauc"]
    interval = seed_interval(values, within=(-1.0, 1.0))
    return {"mean": plain(values.mean()), **ends(interval, "interval"), "method": interval.method}


def ground_in_words(runs: Runs, references: Sequence[int | None], ground: Ground) -> dict[str, Any]:
    """What every number of the comparison must carry."""
    report = runs.entries[0].report
    several = any(len(entry.trainings) > 1 for entry in runs.entries)
    films = len(ground.patients)
    if not ground.one_image_each:
        why = (
            f"not used: {films} test images are of {ground.people} patients, and DeLong's test counts images "
            "as independent, which makes p too small; patients were resampled instead"
        )
    elif several:
        why = "for rows of one training only: it compares two curves, not means over seeds"
    else:
        why = "used per finding: each patient has one test image"
    shared, apart = shared_protocol(runs.entries)
    reading = report["test_metrics"]["macc"]["reading"]
    without = [entry.name for entry, other in zip(runs.entries, references, strict=True) if other is None]
    return {
        "data_fingerprint": report["data_fingerprint"],
        "findings": list(runs.findings),
        "not_learned": {
            name: [entry.name for entry in runs.entries if not entry.learned[k]]
            for k, name in enumerate(runs.findings)
            if not ground.entering[k]
        },
        "few_patients": [name for name, few in zip(runs.findings, ground.few, strict=True) if few],
        "test": {"films": films, "patients": ground.people},
        "validation": report["validation"],
        "recipe_differs": differing_entries(
            [entry.report["kind"] for entry in runs.entries],
            [
                [flat_options(training.report["recipe"]) for training in entry.trainings]
                for entry in runs.entries
            ],
            PLACES - {"weights"},
        ),
        "protocol": shared,
        "protocol_of_some": apart,
        "statistics": {
            "interval": f"patient-clustered bootstrap, percentile, {ground.resamples} resamples, 95 %",
            "difference": "the same resampled patients for both rows; p is the level at which the interval "
            f"leaves out 0, at least {2 / (ground.resamples + 1):.2g}, or as the row says where "
            "resamples were left out of it",
            "means": "over the findings that all rows have learned; in a resample, over those of them with "
            "images that have and images that lack them",
            "delong": why,
            "adjusted": "Holm: over the findings of one row; over the rows for each mean",
            "seeds": "mean, sd (n - 1) and, from "
            f"{LEAST_RUNS} seeds on, 95 % t-interval over the seeds of a row: another training on "
            "the same images. The intervals over patients do not hold it, nor it them",
            "macc": reading,
            "not_compared": without,
        },
    }


def ends(interval: Interval, name: str) -> dict[str, Any]:
    """An interval for JSON, and how many resamples were left out of it."""
    return {name: plain(interval), "undefined": interval.undefined}


def shown(difference: Difference, adjusted: float) -> dict[str, Any]:
    """A difference for JSON."""
    return {
        "value": plain(difference.value),
        **ends(difference.interval, "interval"),
        "interval_method": difference.interval.method,
        "partial": difference.interval.partial,
        "p": plain(difference.p),
        "p_least": plain(difference.least_p),
        "p_holm": plain(float(adjusted)),
        "test": difference.test,
    }


def differing_entries(
    kinds: Sequence[str], recipes: Sequence[Sequence[Mapping[str, Any]]], but: Collection[str]
) -> list[dict[str, Any]]:
    """Each as {"entry": "optimizer.lr", "values": [per row: the distinct values of its trainings]}, None for
    what a recipe lacks.

    kinds: the command of each row; what only the recipes of one command have is compared among its own rows.
    recipes: per row those of its trainings, see flat_options. but: entries that may differ.
    """
    names = list(dict.fromkeys(name for row in recipes for recipe in row for name in recipe))
    found = []
    for name in names:
        values = [distinct([recipe.get(name) for recipe in row]) for row in recipes]
        asked = {kind for kind, row in zip(kinds, recipes, strict=True) if any(name in one for one in row)}
        compared = [value for kind, value in zip(kinds, values, strict=True) if kind in asked]
        if name not in but and any(each != compared[0] for each in compared):
            found.append({"entry": name, "values": values})
    return found


def distinct(values: Sequence[Any]) -> list[Any]:
    """Each value once, in order; lists are values too."""
    return [value for number, value in enumerate(values) if value not in values[:number]]

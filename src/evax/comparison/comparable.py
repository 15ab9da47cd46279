"""Which trainings may be compared: same films, labels and protocol, or a sentence that says why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evax.comparison.trainings import Training
from evax.errors import DataError
from evax.evaluation.report import TOP1
from evax.runs.files import NO_THRESHOLDS, Facts

# of a protocol: what a comparison may be about, and what follows from the share of the labels
MAY_DIFFER = {"label_fraction", "label_count", "patients_in_several_parts", "seed", "interval"}
# what a fine-tuning has to say and a probe has not, or the other way round; those who say it must agree
OF_SOME = ("checkpoint_chosen_on", "strength_chosen_on", "features")
UNSAID = {"subset": "fixed", "stratified": False}  # of probes, and of runs before there was a choice


class Tested(Protocol):
    """A run with the films it was tested on."""

    @property
    def folder(self) -> Path: ...
    @property
    def report(self) -> Facts: ...
    @property
    def images(self) -> Any:
        """(S,), names of the test films in order."""


def refuse_other_films(first: Tested, other: Tested) -> None:
    """Raises DataError unless both numbers are about the same findings on the same films."""
    where = f"{first.folder} and {other.folder}"
    ours, theirs = first.report, other.report
    if ours["data_fingerprint"] != theirs["data_fingerprint"]:
        raise DataError(
            f"{where} learned from different stores (fingerprints {ours['data_fingerprint'][:12]} and "
            f"{theirs['data_fingerprint'][:12]}): a difference could come from the films. "
            "Run one of them again on the other's store."
        )
    names = [[row["name"] for row in report["test_metrics"]["findings"]] for report in (ours, theirs)]
    if names[0] != names[1]:
        raise DataError(
            f"{where} were tested for different findings ({', '.join(names[0])} and {', '.join(names[1])}): "
            "their means are different quantities. Run one of them again with the other's labels."
        )
    if not np.array_equal(first.images, other.images):
        apart = len(set(first.images) ^ set(other.images))
        raise DataError(
            f"{where} were not tested on the same films: {apart} films are in one test split only. "
            "Run both on one store with one split."
        )


def protocol_entry(training: Tested, key: str) -> Any:
    """Of its protocol; what older runs and probes do not say is what it then was.

    Older runs of exclusive classes chose thresholds, which no number of a comparison uses.
    """
    protocol, accuracy = training.report["protocol"], training.report["test_metrics"].get("macc", {})
    exclusive = accuracy.get("reading") == TOP1
    if key == "thresholds_chosen_on" and exclusive and protocol["name"] != "paper":
        return NO_THRESHOLDS
    return protocol.get(key, UNSAID.get(key))


def refuse_other_protocols(trainings: Sequence[Tested]) -> None:
    """Raises DataError unless all trainings agree in whatever chose and scored them."""
    for key in sorted({key for training in trainings for key in training.report["protocol"]} - MAY_DIFFER):
        bound = [each for each in trainings if key not in OF_SOME or key in each.report["protocol"]]
        for other in bound[1:]:
            mine, yours = (protocol_entry(each, key) for each in (bound[0], other))
            if mine != yours:
                raise DataError(
                    f"{bound[0].folder} and {other.folder} were run under different protocols: "
                    f"{key.replace('_', ' ')} is '{mine}' in the first and '{yours}' in the second. "
                    "Run one of them again as the other."
                )


def refuse_other_labels(first: Training, other: Training) -> None:
    """Raises DataError unless both were held against the same labels."""
    where = f"{first.folder} and {other.folder}"
    both = first.learned & other.learned  # of the others, a probe keeps no labels where it knows none
    silent = [np.isnan(each.test.labels).all(axis=0) & both for each in (first, other)]
    if (apart := np.flatnonzero(silent[0] != silent[1])).size:
        quiet = other if silent[1][apart[0]] else first
        name = first.report["test_metrics"]["findings"][apart[0]]["name"]
        raise DataError(
            f"{where} cannot be compared: no training film of {quiet.folder} knows {name}, so that its mean "
            "is over fewer findings. Run both with --findings that all their training films know, or compare "
            "larger shares."
        )
    if not np.array_equal(first.test.labels[:, both], other.test.labels[:, both], equal_nan=True):
        raise DataError(
            f"{where} have other labels for the same test films: one table was changed. Run it again."
        )

"""What every number must carry, and the table it can be recomputed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from evax.config import to_plain
from evax.data.labelled import data_fingerprint, shared_patients, split_rows
from evax.data.labels import blank_policy
from evax.data.store import ImageStore
from evax.evaluation.thresholds import ThresholdRule
from evax.files import replaced_whole
from evax.options.adaptation import AdaptingConfig, FinetuneConfig, LabelledConfig
from evax.options.training import PLACES
from evax.runs.files import NO_THRESHOLDS

CLEAN = {  # validation chooses, test is scored once
    "name": "clean",
    "test_scored": "once",
}

LEAKING = {  # as the text of the paper's real-world study reads; validation chooses all the same
    "name": "split by film",
    "leak": "images were split, not patients: a patient may train and be tested, which flatters the result",
}


def thresholds_chosen_on(config: LabelledConfig, exclusive: bool) -> str:
    """On what a LabelledConfig chooses its thresholds, and how, as a description. exclusive: of its store."""
    return NO_THRESHOLDS if exclusive else f"validation ({ThresholdRule.of(config.thresholds).in_words()})"


def strength_chosen_on(exclusive: bool) -> str:
    """How the strength of a linear probe is chosen, see `fit_linear_probe`."""
    return (
        "validation log loss, mean of the classes" if exclusive else "validation mAUC, one for all findings"
    )


def label_policy(config: LabelledConfig, store: ImageStore) -> dict[str, Any]:
    """The entries of a protocol that are of labels of whole images."""
    return {
        "thresholds_chosen_on": thresholds_chosen_on(config, store.manifest.exclusive),
        "stratified": config.stratified,
        "uncertain": config.uncertain,
        **({"uncertain_ones": ", ".join(config.uncertain_ones)} if config.uncertain_ones else {}),
        "blank": blank_policy(store.manifest.source, config.blank),
    }


def protocol_card(
    config: AdaptingConfig,
    store: ImageStore,
    *,
    train: Int64[np.ndarray, " _"],
    validation: Int64[np.ndarray, " _"],
    test: Int64[np.ndarray, " _"],
    **chosen: Any,
) -> dict[str, Any]:
    """Encoder, data, split, sizes and protocol of a run that learned from labels or masks.

    chosen: further entries of the protocol: what was chosen on what, see also
    label_policy.
    """
    patients = store.manifest.table["patient"].to_numpy(dtype=str)
    rows = {"train": train, "validation": validation, "test": test}
    return {
        "encoder": config.encoder,
        "weights": str(config.weights) if config.weights else None,
        "data_fingerprint": data_fingerprint(store, config.split),
        "protocol": {
            **CLEAN,
            **(LEAKING if config.split_by == "film" else {}),
            **chosen,
            "split": f"table {config.split.name}" if config.split else store.card["split"],
            "label_fraction": _label_fraction(config, store),
            "label_count": config.label_count,
            "patients_in_several_parts": shared_patients(store, (train, validation, test)),
            "seed": config.seed,
            "interval": f"patient-clustered bootstrap, percentile, {config.resamples} resamples",
        },
        "recipe": to_plain(config),
        **{name: {"films": len(part), "patients": len(set(patients[part]))} for name, part in rows.items()},
    }


def _label_fraction(config: AdaptingConfig, store: ImageStore) -> float:
    """Share of the training patients whose labels a run used, also where their number was given."""
    if config.label_count is None:
        return float(config.label_fraction)
    train, _, _ = split_rows(store, config.split, config.split_by, needs_validation=False)
    return float(config.label_count / store.manifest.table["patient"].iloc[train].nunique())


def without_places(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a card says of a run: no path, so that equal runs leave equal bundles wherever they lie.

    facts: see protocol_card. Data and weights have their digests.
    """
    recipe = {name: value for name, value in facts["recipe"].items() if name not in PLACES}
    return {name: value for name, value in facts.items() if name != "weights"} | {"recipe": recipe}


def write_predictions(
    path: Path,
    store: ImageStore,
    rows: Int64[np.ndarray, " S"],
    labels: Float[np.ndarray, "S K"],
    probabilities: Float[np.ndarray, "S K"],
    protocol: str | None = None,
) -> None:
    """One line per film: image, patient, then label and probability of every finding; of exclusive classes
    also the predicted one, which is the most probable.

    protocol: in a column of its own when it is not the clean one.
    """
    table = store.manifest.table.loc[rows, ["image", "patient"]].reset_index(drop=True)
    if protocol:
        table["protocol"] = protocol
    for column, finding in enumerate(store.manifest.findings):
        table[f"label:{finding}"] = labels[:, column]
        table[f"probability:{finding}"] = probabilities[:, column]
    if store.manifest.exclusive:
        table["predicted"] = np.asarray(store.manifest.findings, dtype=object)[probabilities.argmax(axis=1)]
    with replaced_whole(path) as unfinished:
        table.to_csv(unfinished, index=False)


PAPER = {  # in place of the entries of CLEAN; each quirk below says what it does to the number
    "name": "paper",
    "warning": "the test images chose the checkpoint: optimistic, never to be compared with a clean number",
    "checkpoint_chosen_on": "test mAUC",
    "thresholds_chosen_on": "nothing: the released code has none",
    "test_scored": "at every look; the best look is the result",
}


def paper_entries(config: FinetuneConfig, exclusive: bool) -> dict[str, str]:
    """Entries of the protocol card of a run as the released code does it; a quirk is there when it acted.

    exclusive: exactly one finding is true per image.
    """
    quirks = {
        "selection_on_test": (True, "the look with the highest test mAUC gives checkpoint and result"),
        "validation_unused": (True, "validation images choose nothing; their predictions are kept"),
        "sigmoid_scores": (exclusive, "outputs of a softmax head are scored with sigmoids, one by one"),
        "top1_as_macc": (exclusive, "mAcc is top-1 accuracy, and its best look need not be that of mAUC"),
        "constant_lr": (
            config.optimizer.schedule == "constant", "the learning rate stays at its peak after the warm-up",
        ),
        "new_final_norm": (config.fc_norm == "new", "the norm of pre-training is discarded"),
        "positions_without_antialias": (
            not config.position_antialias, "a position table of another size is resampled without antialias",
        ),
        "central_crop": (
            config.resize_size is not None and config.resize_size > config.image_size,
            f"only the central {config.image_size} of {config.resize_size} pixels are seen, per side",
        ),
        "guessed_labels": (
            config.train_uncertain in ("mixed", "smooth"),
            "uncertain training labels count by finding: Atelectasis and Edema present, others absent",
        ),
    }  # fmt: skip
    return PAPER | {f"quirk_{name}": text for name, (acted, text) in quirks.items() if acted}


def best_of_the_looks(looks: Sequence[dict[str, Any]], exclusive: bool) -> dict[str, Any]:
    """The two numbers the released code reports, each the highest of any look at the test images.

    looks: lines of the log with step, mauc and, for exclusive findings, top1.
    """
    best = {"looks": len(looks), "mauc": _highest(looks, "mauc")}
    return best | {"top1_macc": _highest(looks, "top1")} if exclusive else best


def _highest(looks: Sequence[dict[str, Any]], score: str) -> dict[str, Any]:
    look = max(looks, key=lambda line: line[score])
    return {"value": look[score], "step": look["step"]}

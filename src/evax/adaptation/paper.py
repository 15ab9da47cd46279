"""The protocol of the authors' released code, named quirk by quirk (facts section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PAPER = {  # in place of the entries of CLEAN; each quirk below says what it does to the number
    "name": "paper",
    "warning": "the test films chose the checkpoint: optimistic, never to be compared with a clean number",
    "checkpoint_chosen_on": "test mAUC",
    "thresholds_chosen_on": "nothing: the released code has none",
    "test_scored": "at every look; the best look is the result",
}


def paper_entries(config: Any, exclusive: bool) -> dict[str, str]:
    """Entries of the protocol card of a run as the released code does it; a quirk is there when it acted.

    config: a FinetuneConfig. exclusive: exactly one finding is true per film.
    """
    quirks = {
        "selection_on_test": (True, "the look with the highest test mAUC gives checkpoint and result"),
        "validation_unused": (True, "validation films choose nothing; their predictions are kept"),
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
    """The two numbers the released code reports, each the highest of any look at the test films.

    looks: lines of the log with step, mauc and, for exclusive findings, top1.
    """
    best = {"looks": len(looks), "mauc": _highest(looks, "mauc")}
    return best | {"top1_macc": _highest(looks, "top1")} if exclusive else best


def _highest(looks: Sequence[dict[str, Any]], score: str) -> dict[str, Any]:
    look = max(looks, key=lambda line: line[score])
    return {"value": look[score], "step": look["step"]}

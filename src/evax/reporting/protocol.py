"""What every number must carry, and the table it can be recomputed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from evax.config import to_plain
from evax.data.labels import blank_policy
from evax.data.store import ImageStore
from evax.files import replaced_whole

CLEAN = {  # validation chooses, test is scored once
    "name": "clean",
    "thresholds_chosen_on": "validation (Youden)",
    "test_scored": "once",
}


def protocol_card(
    config: Any,
    store: ImageStore,
    *,
    train: Int64[np.ndarray, " _"],
    validation: Int64[np.ndarray, " _"],
    test: Int64[np.ndarray, " _"],
    **chosen: str,
) -> dict[str, Any]:
    """Encoder, data, split, sizes and protocol of a run that learned from labels.

    config: a LabelledConfig. chosen: further entries of the protocol, what was chosen on what.
    """
    patients = store.manifest.table["patient"].to_numpy(dtype=str)
    rows = {"train": train, "validation": validation, "test": test}
    return {
        "encoder": config.encoder,
        "weights": str(config.weights) if config.weights else None,
        "data_fingerprint": store.fingerprint,
        "protocol": {
            **CLEAN,
            **chosen,
            "split": store.card["split"],
            "label_fraction": config.label_fraction,
            "seed": config.seed,
            "interval": f"patient-clustered bootstrap, percentile, {config.resamples} resamples",
            "uncertain": config.uncertain,
            "blank": blank_policy(store.manifest.source, config.blank),
        },
        "recipe": to_plain(config),
        **{name: {"films": len(part), "patients": len(set(patients[part]))} for name, part in rows.items()},
    }


def write_predictions(
    path: Path,
    store: ImageStore,
    rows: Int64[np.ndarray, " S"],
    labels: Float[np.ndarray, "S K"],
    probabilities: Float[np.ndarray, "S K"],
    protocol: str | None = None,
) -> None:
    """One line per film: image, patient, then label and probability of every finding.

    protocol: in a column of its own when it is not the clean one.
    """
    table = store.manifest.table.loc[rows, ["image", "patient"]].reset_index(drop=True)
    if protocol:
        table["protocol"] = protocol
    for column, finding in enumerate(store.manifest.findings):
        table[f"label:{finding}"] = labels[:, column]
        table[f"probability:{finding}"] = probabilities[:, column]
    with replaced_whole(path) as unfinished:
        table.to_csv(unfinished, index=False)

"""What every number must carry, and the table it can be recomputed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from evax.data.store import ImageStore
from evax.files import replaced_whole

CLEAN = {  # validation chooses, test is scored once
    "name": "clean",
    "thresholds_chosen_on": "validation (Youden)",
    "test_scored": "once",
}


def store_facts(store: ImageStore, **rows: Int64[np.ndarray, " _"]) -> dict[str, Any]:
    """Fingerprint and split of a store, and how many films and patients each set of rows has."""
    patients = store.manifest.table["patient"].to_numpy(dtype=str)
    sizes = {
        name: {"films": len(chosen), "patients": len(set(patients[chosen]))} for name, chosen in rows.items()
    }
    return {"data_fingerprint": store.fingerprint, "split": store.card["split"], **sizes}


def write_predictions(
    path: Path,
    store: ImageStore,
    rows: Int64[np.ndarray, " S"],
    labels: Float[np.ndarray, "S K"],
    probabilities: Float[np.ndarray, "S K"],
) -> None:
    """One line per film: image, patient, then label and probability of every finding."""
    table = store.manifest.table.loc[rows, ["image", "patient"]].reset_index(drop=True)
    for column, finding in enumerate(store.manifest.findings):
        table[f"label:{finding}"] = labels[:, column]
        table[f"probability:{finding}"] = probabilities[:, column]
    with replaced_whole(path) as unfinished:
        table.to_csv(unfinished, index=False)

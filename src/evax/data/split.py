"""People, not films, are split: a pure function of patient and seed, so adding data moves nobody."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from evax.data.manifest import Manifest
from evax.errors import ConfigError


def split_position(patient: str, seed: int) -> float:
    """A stable number in [0, 1) for this patient."""
    digest = hashlib.blake2b(f"{seed}:{patient}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def assign_splits(manifest: Manifest, validation: float, test: float, seed: int) -> Manifest:
    """The manifest with every film in "train", "val" or "test", all films of a patient together.

    validation, test: shares of the patients, together below or equal 1. A release that names its test films
    keeps
    them, and no other film of such a patient is trained on; the rest is divided into train and val only.
    """
    if validation < 0 or test < 0 or validation + test > 1:
        raise ConfigError(f"validation and test are shares with a sum up to 1, got {validation} and {test}.")
    table = manifest.table.copy()
    given_test = set(table.loc[table["split"] == "test", "patient"])
    test_share = 0.0 if given_test else test

    def place(patient: str) -> str:
        if patient in given_test:
            return "test"
        position = split_position(patient, seed)
        if position < test_share:
            return "test"
        return "val" if position < test_share + validation else "train"

    table["split"] = [place(patient) for patient in table["patient"]]
    return replace(manifest, table=table)

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

    validation, test: shares of the patients, together below or equal 1.
    A patient of whom the source puts a film into a split stays there with all films (test before val before
    train). The others are divided by chance, into those splits only that the source leaves empty, and train.
    """
    if validation < 0 or test < 0 or validation + test > 1:
        raise ConfigError(f"validation and test are shares with a sum up to 1, got {validation} and {test}.")
    table = manifest.table.copy()
    given = {split: set(table.loc[table["split"] == split, "patient"]) for split in ("test", "val", "train")}
    test_share = 0.0 if given["test"] else test
    validation_share = 0.0 if given["val"] else validation

    def place(patient: str) -> str:
        if named := next((split for split, patients in given.items() if patient in patients), ""):
            return named
        position = split_position(patient, seed)
        if position < test_share:
            return "test"
        return "val" if position < test_share + validation_share else "train"

    table["split"] = [place(patient) for patient in table["patient"]]
    return replace(manifest, table=table)

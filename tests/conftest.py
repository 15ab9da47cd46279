"""Fixtures shared by all tests: shape checking switched on, real images, small stores of phantoms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# The shapes in signatures are checked in every test; a whole number is a float, as PEP 484 says.
# Jobs are left out: they hand over modules that Fabric has wrapped, which are of another class.
ROOMS = ["data", "models", "weights", "evaluation", "explain", "deploy"]
CHECKED = [*ROOMS, "pretraining.hidden_patches", "pretraining.objective"]
install_import_hook(
    [f"evax.{room}" for room in CHECKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images (EVAX_SHARED, default ../shared); tests that need it say so where it is
    absent.
    """
    data = Path(os.environ.get("EVAX_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not data.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI has the real images, but {data} does not exist; set EVAX_SHARED.")
        pytest.skip(f"real images not present at {data}; set EVAX_SHARED to run this test")
    return data


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A release of 48 synthetic films: images as DICOM and PNG, labels.csv, boxes.csv, masks."""
    from evax.data.phantom_release import write_phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, films=48, seed=5)
    return folder


@pytest.fixture(scope="session")
def phantom_store(phantoms, tmp_path_factory) -> Path:
    """The phantoms as a store of 96-pixel images with all three splits."""
    from evax.data.building import build_store
    from evax.data.sources import read_source
    from evax.data.split import assign_splits

    out = tmp_path_factory.mktemp("stores") / "phantoms"
    manifest = assign_splits(read_source("csv", phantoms, {}), validation=0.25, test=0.25, seed=0)
    build_store(manifest, out, size=96)
    return out

"""Fixtures shared by all tests: shape checking switched on, real films, small stores of phantoms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("evax", "beartype.beartype")  # the shapes in signatures are checked in every test

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real films (EVAX_SHARED, default ../shared); tests that need it say so where it is absent."""
    data = Path(os.environ.get("EVAX_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not data.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI has the real films, but {data} does not exist; set EVAX_SHARED.")
        pytest.skip(f"real films not present at {data}; set EVAX_SHARED to run this test")
    return data

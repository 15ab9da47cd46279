from __future__ import annotations

import jaxtyping
import pytest


@pytest.fixture
def no_shape_checks():
    """Users run without the checks of signatures that tests switch on."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

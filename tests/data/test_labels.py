"""Policies for uncertain and blank labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from evax.data.labels import resolve_labels

WRITTEN = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from([1.0, 0.0, -1.0, np.nan])
)


@pytest.mark.parametrize(("uncertain", "value"), [("ones", 1), ("zeros", 0), ("ignore", np.nan)])
@pytest.mark.parametrize(("blank", "of_blank"), [("zeros", 0), ("ignore", np.nan)])
def test_each_policy_decides_its_own_kind_of_label(uncertain, value, blank, of_blank):
    written = np.array([[1, 0, -1, np.nan]], np.float32)
    resolved = resolve_labels(written, uncertain, blank)
    np.testing.assert_array_equal(resolved, np.array([[1, 0, value, of_blank]], np.float32))


@settings(deadline=None)
@given(WRITTEN, st.sampled_from(["ones", "zeros", "ignore"]), st.sampled_from(["zeros", "ignore"]))
def test_what_the_source_knew_is_kept_and_the_table_is_not_touched(written, uncertain, blank):
    before = written.copy()
    resolved = resolve_labels(written, uncertain, blank)
    known = (written == 0) | (written == 1)
    np.testing.assert_array_equal(resolved[known], written[known])
    np.testing.assert_array_equal(written, before)
    assert set(np.unique(resolved[~np.isnan(resolved)])) <= {0, 1}
    if uncertain != "ignore" and blank != "ignore":
        assert not np.isnan(resolved).any()

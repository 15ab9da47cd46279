"""Policies for uncertain and blank labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from evax.data.labels import blank_policy, resolve_labels
from evax.errors import ConfigError

WRITTEN = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from([1.0, 0.0, -1.0, np.nan])
)


@pytest.mark.parametrize(("uncertain", "value"), [("ones", 1), ("zeros", 0), ("ignore", np.nan)])
@pytest.mark.parametrize(("blank", "of_blank"), [("zeros", 0), ("ignore", np.nan)])
def test_each_policy_decides_its_own_kind_of_label(uncertain, value, blank, of_blank):
    written = np.array([[1, 0, -1, np.nan]], np.float32)
    resolved = resolve_labels(written, uncertain, blank)
    np.testing.assert_array_equal(resolved, np.array([[1, 0, value, of_blank]], np.float32))


def test_blanks_are_absent_in_labels_read_from_reports_and_unknown_elsewhere_unless_chosen():
    sources = ("chexpert", "mimic_cxr", "chestxray14", "csv:mine")
    assert [blank_policy(source, None) for source in sources] == ["zeros", "zeros", "ignore", "ignore"]
    assert blank_policy("chexpert", "ignore") == "ignore"
    assert blank_policy("csv:mine", "zeros") == "zeros"


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


CHEXPERT_5 = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion")


def test_mixed_takes_an_uncertain_atelectasis_or_edema_for_present_and_the_others_for_absent():
    written = np.array([[-1] * 5, [1, 0, 0, 0, 1]], np.float32)
    resolved = resolve_labels(written, "mixed", "zeros", findings=CHEXPERT_5)
    np.testing.assert_array_equal(resolved, np.array([[1, 0, 0, 1, 0], [1, 0, 0, 0, 1]], np.float32))


def test_smooth_draws_every_uncertain_label_by_itself_and_the_same_for_the_same_seed():
    written = np.full((200, 5), -1, np.float32)
    written[0] = [1, 0, np.nan, 1, 0]
    smooth = resolve_labels(written, "smooth", "zeros", findings=CHEXPERT_5)
    np.testing.assert_array_equal(smooth[0], np.array([1, 0, 0, 1, 0], np.float32))
    high, low = smooth[1:, [0, 3]], smooth[1:, [1, 2, 4]]
    assert 0.7 <= high.min() < 0.71 < 0.79 < high.max() <= 0.8
    assert 0.2 <= low.min() < 0.21 < 0.29 < low.max() <= 0.3
    assert len(np.unique(smooth[1:])) > 900, "not one value per column"
    again = resolve_labels(written, "smooth", "zeros", findings=CHEXPERT_5)
    np.testing.assert_array_equal(again, smooth)
    other = resolve_labels(written, "smooth", "zeros", findings=CHEXPERT_5, seed=1)
    assert (other != smooth).any()


@pytest.mark.parametrize("policy", ["mixed", "smooth"])
def test_a_policy_that_depends_on_the_finding_needs_the_findings(policy):
    with pytest.raises(ConfigError, match=f"'{policy}' needs the 2 findings, got 1"):
        resolve_labels(np.zeros((3, 2), np.float32), policy, "zeros", findings=("Edema",))

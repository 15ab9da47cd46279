from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evax.errors import DataError
from evax.evaluation.classification import auroc
from evax.evaluation.subgroups import ENOUGH, compare_groups
from ranking import ranking_intervals


def problem(seed: int, cases: int = 240, patients: int = 120, findings: int = 2):
    rng = np.random.default_rng(seed)
    owner = rng.integers(patients, size=cases)
    labels = (rng.random((cases, findings)) < 0.4).astype(np.float64)
    labels[rng.random(labels.shape) < 0.05] = np.nan
    scores = rng.random(labels.shape) + 0.5 * np.nan_to_num(labels)
    return scores, labels, np.array([f"p{number}" for number in owner]), np.where(owner % 2, "F", "M")


def compare(groups, scores, labels, patients, resamples=60, **options):
    names = [f"finding {k}" for k in range(labels.shape[1])]
    return compare_groups("sex", groups, scores, labels, names, patients, resamples=resamples, **options)


@given(st.integers(0, 10_000))
@settings(max_examples=5, deadline=None)
def test_a_group_has_the_auroc_and_the_interval_width_of_its_own_images(seed):
    scores, labels, patients, groups = problem(seed)
    result = compare(groups, scores, labels, patients)
    assert [group.group for group in result.groups] == ["F", "M"]
    for group in result.groups:
        inside = groups == group.group
        assert group.films == inside.sum()
        for k, finding in enumerate(group.findings):
            known = inside & ~np.isnan(labels[:, k])
            assert finding.auroc == auroc(scores[known, k], labels[known, k] == 1)
            assert (finding.positives, finding.negatives) == (
                (labels[known, k] == 1).sum(),
                (labels[known, k] == 0).sum(),
            )
            assert finding.auroc_interval.low <= finding.auroc <= finding.auroc_interval.high
        assert group.mauc == pytest.approx(np.mean([finding.auroc for finding in group.findings]))
    best, worst = (
        next(g for g in result.groups if g.group == name) for name in (result.gap.best, result.gap.worst)
    )
    assert result.gap.value == pytest.approx(best.mauc - worst.mauc)
    assert result.gap.value >= 0


def test_one_group_of_all_images_has_the_interval_of_the_whole_test_and_no_gap():
    scores, labels, patients, _ = problem(1)
    result = compare(["all"] * len(labels), scores, labels, patients, seed=3)
    whole = ranking_intervals(scores, labels, patients, resamples=60, seed=3)
    (group,) = result.groups
    assert group.mauc_interval == whole.macro_auroc
    assert [finding.auroc_interval for finding in group.findings] == whole.auroc
    assert math.isnan(result.gap.value)
    assert result.gap.best == ""


def test_a_group_of_few_patients_is_named_and_counted_but_not_scored():
    scores, labels, patients, groups = problem(2)
    few = np.isin(patients, np.unique(patients)[: ENOUGH - 1])
    groups = np.where(few, "few", groups)
    result = compare(groups, scores, labels, patients)
    small = next(group for group in result.groups if group.group == "few")
    assert (small.films, small.patients) == (few.sum(), ENOUGH - 1)
    assert math.isnan(small.mauc)
    assert all(math.isnan(finding.auroc) for finding in small.findings)
    assert {result.gap.best, result.gap.worst} == {"F", "M"}


def test_patients_count_and_not_images_when_a_group_is_called_large_enough():
    scores, labels, _, groups = problem(3)
    alone = np.where(groups == "F", "one woman", [f"p{n}" for n in range(len(labels))])
    women = compare(groups, scores, labels, alone).groups[0]
    assert women.films > 50
    assert math.isnan(women.mauc)


def test_a_finding_that_one_group_cannot_score_leaves_the_means_of_all():
    scores, labels, patients, groups = problem(4, findings=3)
    labels[groups == "F", 2] = 0
    result = compare(groups, scores, labels, patients)
    assert result.findings_compared == ("finding 0", "finding 1")
    men = result.groups[1]
    assert not math.isnan(men.findings[2].auroc)
    assert men.mauc == pytest.approx(np.mean([finding.auroc for finding in men.findings[:2]]))
    assert math.isnan(result.finding_gaps[2].value)


def test_a_network_that_fails_on_one_group_has_a_gap_whose_interval_excludes_zero():
    scores, labels, patients, groups = problem(5)
    scores[groups == "F"] = 1 - scores[groups == "F"]
    gap = compare(groups, scores, labels, patients).gap
    assert (gap.best, gap.worst) == ("M", "F")
    assert gap.interval.low > 0.2


def test_images_of_which_the_group_is_not_known_are_counted_and_in_no_group():
    scores, labels, patients, groups = problem(6)
    groups[:7] = ""
    result = compare(groups, scores, labels, patients)
    assert result.not_stated == 7
    assert sum(group.films for group in result.groups) == len(labels) - 7
    assert compare([""] * len(labels), scores, labels, patients).groups == ()


def test_a_list_of_groups_of_another_length_is_refused():
    scores, labels, patients, groups = problem(7)
    with pytest.raises(DataError, match="239 groups and 2 findings"):
        compare(groups[:-1], scores, labels, patients)

"""What stands beside a number whose ground is thin, in the same words on every page and in every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evax.evaluation.learned import FEW

MARK = "†"
FEW_PATIENTS = (
    f"{MARK} fewer than {FEW} patients with the finding, or without it: an anecdote, whose interval "
)
FEW_PATIENTS += "is too short."
PARTIAL = (
    "Over fewer findings: resamples that drew nobody with a rare finding; their mean is over the others."
)


def marked(finding: Mapping[str, Any]) -> str:
    """The name of a finding of a report, marked where few patients have it or lack it."""
    return f"{finding['name']} {MARK}" if finding.get("few_patients") else str(finding["name"])


def has_marked(findings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the mark needs its note."""
    return any(finding.get("few_patients") for finding in findings)


def unlearned(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the findings that were not learned; of runs from before this was kept, none."""
    return [finding["name"] for finding in findings if not finding.get("learned", True)]


def resting(undefined: int | None, partial: int | None) -> str:
    """Which resamples the interval of a mean rests on otherwise than on the rest; "" where on all alike."""
    said = [f"{partial:,} resamples over fewer findings"] if partial else []
    return ", ".join(said + ([f"{undefined:,} left out"] if undefined else []))

"""Shares of the labels, or numbers of patients, that the runs of a sweep learn from.

No job: it has no command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evax.options.adaptation import LabelledConfig


@dataclass(frozen=True)
class LabelPoint:
    """One point of a study: so many labels."""

    fraction: float
    """Share of the training patients, as given, or that of the count."""
    count: int | None = None
    """Number of training patients where that is what was given."""

    def options(self) -> dict[str, Any]:
        """The options of a run at this point."""
        return {"label_fraction": self.fraction if self.count is None else 1.0, "label_count": self.count}

    def in_words(self) -> str:
        """For a person, as in figures."""
        return f"{100 * self.fraction:.3g} %" if self.count is None else f"{self.count} patients"

    def folder(self) -> str:
        """The beginning of the name of such a run's folder."""
        return f"share-{self.fraction:g}" if self.count is None else f"count-{self.count}"


def label_points(
    config: LabelledConfig, fractions: Sequence[float], counts: Sequence[int]
) -> list[LabelPoint]:
    """The points of a study, from few labels to many. Raises DataError for more patients than there are."""
    from evax.data.labelled import LabelShare, split_rows
    from evax.data.store import open_store

    store = open_store(config.store)
    train, _, _ = split_rows(store, config.split, config.split_by)
    people = store.manifest.table["patient"].iloc[train].nunique()
    points = [LabelPoint(fraction) for fraction in fractions]
    points += [LabelPoint(LabelShare(count=count).patients(people) / people, count) for count in counts]
    return sorted(points, key=lambda point: point.fraction)

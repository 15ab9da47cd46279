"""Where findings are: the boxes or masks of a store's films that a heat map is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int64

from evax.data.store import ImageStore

Drawn = Literal["boxes", "masks"]
Truth = Literal["boxes", "masks", "auto"]
Box = tuple[float, float, float, float]
"""x, y, width, height in fractions of the image."""
Regions = dict[int, dict[str, tuple[Box, ...]]]
"""Row -> finding -> its boxes on that film; without boxes the film's mask counts, read when it is needed."""


def kinds_of_truth(
    store: ImageStore, rows: Int64[np.ndarray, " _"], findings: Sequence[str], truth: Truth
) -> dict[str, Drawn]:
    """Finding -> what counts as the truth of all its films.

    truth: "auto" takes masks for the findings of which any of these films has one, else boxes.
    """
    if truth != "auto":
        return dict.fromkeys(findings, truth)
    drawn = store.mask_findings()
    return {
        name: "masks" if name in drawn and np.isin(store.masked_rows(name), rows).any() else "boxes"
        for name in findings
    }


def films_with_regions(
    store: ImageStore, rows: Int64[np.ndarray, " _"], kinds: Mapping[str, Drawn]
) -> Regions:
    """The films of these rows on which a finding was drawn as its kind says, in order."""
    wanted = {store.manifest.table.at[row, "image"]: int(row) for row in rows}
    found: Regions = {}
    for box in store.manifest.boxes.to_dict("records"):
        if box["image"] in wanted and kinds.get(box["finding"]) == "boxes":
            corners = (float(box["x"]), float(box["y"]), float(box["width"]), float(box["height"]))
            of_film = found.setdefault(wanted[box["image"]], {})
            of_film[box["finding"]] = (*of_film.get(box["finding"], ()), corners)
    drawn = store.mask_findings()
    for finding in (name for name, kind in kinds.items() if kind == "masks" and name in drawn):
        for row in np.intersect1d(store.masked_rows(finding), rows):
            found.setdefault(int(row), {})[finding] = ()
    return dict(sorted(found.items()))

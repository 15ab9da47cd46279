"""An audit as one page: what leaks, how many duplicates there are, and pictures of pairs to judge by eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evax.data.duplicates import SAME, Comparison, DuplicatePair, Place
from evax.data.leaks import image_facts
from evax.data.store import ImageStore
from evax.pages.drawing import data_uri, image_picture
from evax.pages.figures import score_histogram
from evax.pages.template import write_page


def write_audit_page(
    path: Path,
    content: dict[str, Any],
    stores: Sequence[ImageStore],
    films: pd.DataFrame,
    found: Comparison,
    leaky: set[int],
    pictures: int,
) -> None:
    """content: of audit.json. films: see film_table. leaky: exposures that are tested and trained on."""
    names = [entry["name"] for entry in content["stores"]]
    known = image_facts(films)

    def side(place: Place) -> dict[str, Any]:
        return {
            "picture": data_uri(image_picture(stores[place.store].pixels(place.row))),
            "name": f"{names[place.store]}, row {place.row}",
            "split": known[place][0] or "no split",
        }

    def leaks(pair: DuplicatePair) -> bool:
        return known[pair.first][1] in leaky

    # the least similar first: they are the ones to doubt
    shown = sorted(found.pairs, key=lambda pair: (not leaks(pair), pair.kind == "exact", pair.similarity))[
        :pictures
    ]
    write_page(
        path,
        "audit.html.j2",
        title="Audit of " + (f"{len(names)} stores" if len(names) > 1 else names[0]),
        content=content,
        names=names,
        pairs=[(pair, leaks(pair), side(pair.first), side(pair.second)) for pair in shown],
        total=len(found.pairs),
        figure_of_similarities=score_histogram(
            found.similarities,
            label="Similarity of the pairs of images that were compared in detail",
            x_label="correlation of fine details (dashed: threshold)",
            y_label="pairs",
            threshold=SAME,
        )
        if len(found.similarities)
        else None,
    )

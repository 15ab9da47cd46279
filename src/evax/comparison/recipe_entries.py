"""In which entries of their recipes the rows of a comparison differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def differing_entries(
    kinds: Sequence[str], recipes: Sequence[Sequence[Mapping[str, Any]]], but: Collection[str]
) -> list[dict[str, Any]]:
    """Each as {"entry": "optimizer.lr", "values": [per row: the distinct values of its trainings]}, None for
    what a recipe lacks.

    kinds: the command of each row; what only the recipes of one command have is compared among its own rows.
    recipes: per row those of its trainings, see flat_options. but: entries that may differ.
    """
    names = list(dict.fromkeys(name for row in recipes for recipe in row for name in recipe))
    found = []
    for name in names:
        values = [distinct([recipe.get(name) for recipe in row]) for row in recipes]
        asked = {kind for kind, row in zip(kinds, recipes, strict=True) if any(name in one for one in row)}
        compared = [value for kind, value in zip(kinds, values, strict=True) if kind in asked]
        if name not in but and any(each != compared[0] for each in compared):
            found.append({"entry": name, "values": values})
    return found


def distinct(values: Sequence[Any]) -> list[Any]:
    """Each value once, in order; lists are values too."""
    return [value for number, value in enumerate(values) if value not in values[:number]]

"""Which test images are also trained on? Patients and duplicates across splits and stores; a gate for runs."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from evax.data.duplicates import DuplicatePair, Place
from evax.data.manifest import SPLITS
from evax.data.sources import is_own
from evax.data.split import without_suffix
from evax.data.store import ImageStore
from evax.errors import DataError
from evax.files import read_json

logger = logging.getLogger("evax")

FORMAT = 1


def image_table(stores: Sequence[ImageStore], pairs: Iterable[DuplicatePair]) -> pd.DataFrame:
    """One line per film: store, row, split, patient, and exposure, a number that duplicates share."""
    films = pd.concat(
        [
            store.manifest.table[["split", "patient"]].assign(store=number, row=np.arange(len(store)))
            for number, store in enumerate(stores)
        ],
        ignore_index=True,
    )
    starts = np.cumsum([0, *map(len, stores)])
    links = np.array([[starts[place.store] + place.row for place in pair[:2]] for pair in pairs], np.int64)
    ends = links.reshape(-1, 2).T
    graph = coo_array((np.ones(ends.shape[1], bool), tuple(ends)), shape=(len(films), len(films)))
    return films.assign(exposure=connected_components(graph, directed=False)[1])


def leaks(films: pd.DataFrame, same_patients: bool) -> list[dict[str, Any]]:
    """Where test images of one store are trained on in another or itself; empty when nowhere.

    films: see film_table. same_patients: a name means the same person in every store; else only within one.
    Returns, per pair of stores: tested and trained (numbers of stores), and how many test images have their
    exposure, or their patient, in train or val of `trained`.
    """
    found = []
    for (a, test), (b, train) in product(_by_store(films, "test"), _by_store(films, "train", "val")):
        known = set(train["patient"]) - {""} if same_patients or a == b else set()
        by_patient = test["patient"].isin(known)
        by_film = test["exposure"].isin(set(train["exposure"]))
        if by_patient.any() or by_film.any():
            found.append(
                {
                    "tested": a,
                    "trained": b,
                    "test_films": len(test),
                    "films_by_exposure": int(by_film.sum()),
                    "films_by_patient": int(by_patient.sum()),
                    "patients": int(test.loc[by_patient, "patient"].nunique()),
                }
            )
    return found


def leaking_exposures(films: pd.DataFrame) -> set[int]:
    """Exposures that are both tested and trained on."""
    tested = set(films.loc[films["split"] == "test", "exposure"])
    return tested & set(films.loc[films["split"].isin(("train", "val")), "exposure"])


class Link(NamedTuple):
    """A test image and one of train or val that are one exposure through other images; no pair has both."""

    tested: Place
    trained: Place
    via: tuple[Place, ...]
    """The images in between, from the tested to the trained one."""


def linked_leaks(films: pd.DataFrame, pairs: Iterable[DuplicatePair]) -> list[Link]:
    """Of each test image, per store that trains on its exposure, the nearest such image if it is no pair."""
    facts, leaky = image_facts(films), leaking_exposures(films)
    beside: defaultdict[Place, list[Place]] = defaultdict(list)
    for pair in pairs:
        if facts[pair.first][1] in leaky:
            beside[pair.first].append(pair.second)
            beside[pair.second].append(pair.first)
    links = []
    for tested in sorted(place for place in beside if facts[place][0] == "test"):
        chains: dict[Place, tuple[Place, ...]] = {tested: ()}  # the images before each, in order of distance
        queue, stores = [tested], set()
        for place in queue:
            if facts[place][0] in ("train", "val") and place.store not in stores:
                stores.add(place.store)
                if via := chains[place][1:]:
                    links.append(Link(tested, place, via))
            for other in beside[place]:
                if other not in chains:
                    chains[other] = (*chains[place], place)
                    queue.append(other)
    return links


def links_between(links: Iterable[Link], leak: dict[str, Any]) -> dict[str, Any]:
    """films: how many test images of a leak are linked only; via: numbers of the stores they are linked by."""
    ends = leak["tested"], leak["trained"]
    own = [link for link in links if (link.tested.store, link.trained.store) == ends]
    return {"films": len(own), "via": sorted({place.store for link in own for place in link.via})}


def patients_in_both(films: pd.DataFrame) -> list[dict[str, Any]]:
    """Per two splits, of one store or of two, how many patient names they have in common, where any."""
    people = [
        (store, split, set(part.loc[part["split"] == split, "patient"]) - {""})
        for store, part in _by_store(films, "", *SPLITS)
        for split in ("", *SPLITS)
    ]
    return [
        {"first": [a, split_a], "second": [b, split_b], "patients": len(some & others)}
        for (a, split_a, some), (b, split_b, others) in combinations(people, 2)
        if some & others
    ]


def duplicate_counts(films: pd.DataFrame, pairs: Sequence[DuplicatePair]) -> list[dict[str, Any]]:
    """Pairs per (store, split) x (store, split), exact and near."""
    facts = image_facts(films)
    counts: dict[tuple[tuple[int, str], ...], Counter[str]] = {}
    for pair in pairs:
        ends = tuple(sorted((place.store, facts[place][0]) for place in (pair.first, pair.second)))
        counts.setdefault(ends, Counter())[pair.kind] += 1
    return [
        {"first": list(first), "second": list(second), "exact": kinds["exact"], "near": kinds["near"]}
        for (first, second), kinds in sorted(counts.items())
    ]


def image_facts(films: pd.DataFrame) -> dict[Place, tuple[str, int]]:
    """Split and exposure of every image."""
    places = map(Place, films["store"].tolist(), films["row"].tolist())
    return dict(zip(places, zip(films["split"], films["exposure"].tolist(), strict=True), strict=True))


def _by_store(films: pd.DataFrame, *splits: str) -> list[tuple[int, pd.DataFrame]]:
    """The images of these splits, store by store; stores without any are left out."""
    chosen = films[films["split"].isin(splits)]
    return [(store, chosen[chosen["store"] == store]) for store in sorted(set(chosen["store"].tolist()))]


def unknown_patients(store: ImageStore) -> Bool[np.ndarray, " films"]:
    """Images whose source named no patient: each stands for itself, of a DICOM tree for its study."""
    table = store.manifest.table
    stems = table["image"].map(without_suffix)
    names = table["image"], stems, stems.str.rpartition("/")[2]
    unknown = table["patient"] == ""
    for name in names:
        unknown |= table["patient"] == name
    if store.manifest.source == "dicom":  # pseudonyms of patients and of studies are never equal
        unknown |= table["patient"] == table["study"]
    result: Bool[np.ndarray, " films"] = unknown.to_numpy(dtype=bool)
    return result


def unnamed_patients(store: ImageStore) -> int:
    """How many patients of a store are images or studies that name nobody."""
    patients = store.manifest.table.loc[unknown_patients(store), "patient"]
    return int(patients[patients != ""].nunique())


def describe_store(name: str, store: ImageStore, number: int, found: list[dict[str, Any]]) -> dict[str, Any]:
    """What the audit keeps of a store; passed: none of its train or val images is tested anywhere, as far as
    patients are known.
    """
    table = store.manifest.table
    unknown = unknown_patients(store)
    return {
        "name": name,
        "fingerprint": store.fingerprint,
        "films": len(store),
        "patients": int(table.loc[~unknown, "patient"].nunique()),
        "films_of_unknown_patients": int(unknown.sum()),
        "splits": {split: int((table["split"] == split).sum()) for split in SPLITS},
        "passed": all(leak["trained"] != number for leak in found),
    }


def warn_if_patients_tested(stores: Sequence[ImageStore]) -> None:
    """Warns where patients of the test split of one store are trained on in another, as far as names tell.

    A warning and not an error: training learns from no test split, and what tests on these patients refuses.
    """
    people = [
        [set(store.people(store.rows(*splits)).tolist()) - {0} for splits in (("test",), ("train", "val"))]
        for store in stores
    ]
    for i, k in permutations(range(len(stores)), 2):
        tested, trained = stores[i], stores[k]
        test, train = tested.rows("test"), trained.rows("train", "val")
        if shared := len(people[i][0] & people[k][1]):
            logger.warning(
                "%d patients of the test split of %s are in the train or validation split of %s, so the "
                "encoder cannot be tested on that split. Prepare both with the same --seed, --validation and "
                "--test, or leave one store out.",
                shared, tested.path, trained.path,
            )  # fmt: skip
        if not is_own(tested.manifest.source) or not is_own(trained.manifest.source):
            continue
        first, second = (
            set(store.manifest.table["patient"][rows[~unknown_patients(store)[rows]]])
            for store, rows in ((tested, test), (trained, train))
        )
        comparable = 0 != tested.namespace_mark() == trained.namespace_mark()
        if not comparable and (alike := len(first & second)):
            logger.warning(
                "%d patients of the test split of %s have names of train or validation patients of %s. Their "
                "tables differ, so whether these are the same people is not known: evax audit compares the "
                "images.",
                alike, tested.path, trained.path,
            )  # fmt: skip


def require_audit(audit: Path, stores: Iterable[ImageStore]) -> None:
    """Raises DataError unless `evax audit` has seen exactly these stores and none trains on a tested image;
    warns of those whose patients it could not compare.
    """
    content = read_json(audit)
    if not isinstance(content, dict) or content.get("kind") != "audit" or content.get("format") != FORMAT:
        raise DataError(f"{audit} is not an audit: give the audit.json that evax audit wrote.")
    known = {entry["fingerprint"]: entry for entry in content["stores"]}
    for store in stores:
        if store.fingerprint not in known:
            raise DataError(
                f"{audit} does not know {store.path} (fingerprint {store.fingerprint}), or it was prepared "
                "anew since: run evax audit on all stores again."
            )
        if not known[store.fingerprint]["passed"]:
            raise DataError(
                f"{store.path} failed {audit}: images or patients that it trains on are tested. See "
                f"{audit.with_name('audit.html')}; prepare the stores with the same patient names and "
                "--seed, or leave this store out."
            )
        if unknown := known[store.fingerprint].get("films_of_unknown_patients", 0):
            logger.warning(
                "%s compared the images of %s as pictures, but not the patients of %d of them, who are "
                "unknown: other images of these people may be tested.",
                audit, store.path, unknown,
            )  # fmt: skip

"""evax audit: are images or patients of a test split also trained on, in the same store or in another?"""

from __future__ import annotations

import csv
import logging
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from evax.config import job
from evax.data.duplicates import SAME, DuplicatePair, check_large_enough, compare_images
from evax.data.leaks import (
    FORMAT,
    Link,
    describe_store,
    duplicate_counts,
    image_facts,
    image_table,
    leaking_exposures,
    leaks,
    linked_leaks,
    links_between,
    patients_in_both,
    unknown_patients,
)
from evax.data.store import open_store, short_names
from evax.errors import DataError
from evax.files import open_csv, replaced_whole, write_json
from evax.options.data import AuditConfig
from evax.pages.audit import write_audit_page
from evax.runs.log import run_folder
from evax.runs.progress import counting_bar

logger = logging.getLogger("evax")

COLUMNS = (
    "store", "row", "split", "other_store", "other_row", "other_split",
    "kind", "similarity", "inverted", "tested_and_trained", "via",
)  # fmt: skip


@job(AuditConfig)
def audit(config: AuditConfig) -> Path:
    """Writes audit.json, duplicates.csv and audit.html; returns the path of audit.json.

    Raises DataError for a store that cannot be compared, and for leaks when fail_on_leaks is set.
    """
    stores = [open_store(path) for path in config.stores]
    check_large_enough(stores)  # before a bar is drawn
    for store in stores:
        store.check_pictures()
    names = short_names(config.stores)
    with run_folder(config.out, config) as log, counting_bar("comparing", sum(map(len, stores))) as show:
        found = compare_images(
            stores, lambda done, total, note: show(done * sum(map(len, stores)) // max(total, 1), note)
        )
    log.write("compared", films=sum(map(len, stores)), candidates=found.candidates)
    films = image_table(stores, found.pairs)
    links = linked_leaks(films, found.pairs)
    leaking = [leak | {"linked": links_between(links, leak)} for leak in leaks(films, config.same_patients)]
    content = {
        "kind": "audit",
        "format": FORMAT,
        "stores": [
            describe_store(name, store, number, leaking)
            for number, (name, store) in enumerate(zip(names, stores, strict=True))
        ],
        "passed": not leaking,
        "patients_checked": not any(map(any, map(unknown_patients, stores))),
        "leaks": leaking,
        "same_patients": config.same_patients,
        "shared_patients": patients_in_both(films),
        "duplicates": duplicate_counts(films, found.pairs),
        "similarity_threshold": SAME,
        "candidates": found.candidates,
        "compared_in_detail": len(found.similarities),
    }
    write_json(content, config.out / "audit.json")
    leaky = leaking_exposures(films)
    write_duplicates(config.out / "duplicates.csv", names, films, found.pairs, leaky, links)
    write_audit_page(config.out / "audit.html", content, stores, films, found, leaky, config.pictures)
    say(content, names, config.out)
    if leaking and config.fail_on_leaks:
        raise DataError(f"{len(leaking)} leaks, see {config.out / 'audit.html'}.")
    return config.out / "audit.json"


def write_duplicates(
    path: Path,
    names: list[str],
    films: pd.DataFrame,
    pairs: list[DuplicatePair],
    leaky: set[int],
    links: list[Link],
) -> None:
    """One line per pair, then one per leak that only other images link ("linked", by the images of `via`); by
    store and row number: no names of images, which may be names of patients.
    """
    known = image_facts(films)
    with replaced_whole(path) as unfinished, open_csv(unfinished) as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for first, second, kind, similarity, inverted in pairs:
            (split, exposure), (other_split, _) = known[first], known[second]
            where = names[first.store], first.row, split, names[second.store], second.row, other_split
            leaks = int(exposure in leaky)
            table.writerow([*where, kind, f"{similarity:.3f}", int(inverted), leaks, ""])
        for tested, trained, via in links:
            ends = ((names[place.store], place.row, known[place][0]) for place in (tested, trained))
            through = "; ".join(f"{names[place.store]} {place.row}" for place in via)
            table.writerow([*chain.from_iterable(ends), "linked", "", "", 1, through])


def say(content: dict[str, Any], names: list[str], out: Path) -> None:
    """The result in the terminal; a leak cannot be overlooked."""
    exact, near = (sum(row[kind] for row in content["duplicates"]) for kind in ("exact", "near"))
    logger.info("%d exact and %d near duplicates, listed in %s.", exact, near, out / "duplicates.csv")
    for leak in content["leaks"]:
        logger.warning(
            "LEAK: of %d test images of %s, %d are also in train or val of %s as pictures, %d by patient "
            "(%d patients).%s",
            leak["test_films"], names[leak["tested"]], leak["films_by_exposure"], names[leak["trained"]],
            leak["films_by_patient"], leak["patients"], links_in_words(leak["linked"], names),
        )  # fmt: skip
    for store in content["stores"]:
        if unknown := store["films_of_unknown_patients"]:
            logger.warning(
                "%s: the patients of %d of %d images are unknown; whether they are also in another split or "
                "store could not be checked.", store["name"], unknown, store["films"],
            )  # fmt: skip
    if not content["leaks"]:
        logger.info(
            "No test image%s is in a train or val split of these stores.",
            ", and no patient of one," if content["patients_checked"] else ", as a picture,",
        )


def links_in_words(linked: dict[str, Any], names: list[str]) -> str:
    """How images are linked that are no pair; "" where all are pairs."""
    if not linked["films"]:
        return ""
    stores = ", ".join(names[number] for number in linked["via"])
    return f" {linked['films']} of them only via images of {stores}: kind linked in duplicates.csv."

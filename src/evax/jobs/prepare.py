"""evax prepare: a folder of images -> a store."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from evax.config import job
from evax.data.building import build_store
from evax.data.manifest import Manifest
from evax.data.sources import list_source, read_source
from evax.data.sources.disk import check_disk
from evax.data.sources.own.dicom import name_of_key
from evax.data.split import assign_splits, follow_lists
from evax.data.views import NOT_FRONTAL
from evax.errors import DataError
from evax.files import name_of
from evax.options.data import PrepareConfig
from evax.published import MERGED_520K_MEAN, MERGED_520K_STD
from evax.runs.progress import counting_bar

logger = logging.getLogger("evax")


@job(PrepareConfig)
def prepare(config: PrepareConfig) -> Path:
    """Builds the store and returns its folder; an interrupted build goes on.

    Raises DataError for a folder that is not what the source says, that does not pass --verify, or that holds
    no readable image.
    """
    if config.verify:
        verify_release(config)
    manifest = frontal_only(read_source(config.source, config.raw, source_options(config)))
    if config.lists:
        manifest = follow_lists(manifest, config.lists)
    manifest = assign_splits(manifest, config.validation, config.test, config.seed)
    named = f"the lists of {name_of(config.lists.name)}" if config.lists else "the release's"
    note = (
        f"by patient, seed {config.seed}, validation {config.validation:g}, test {config.test:g} or {named}"
    )
    with counting_bar(f"preparing {config.raw.name}", len(manifest.table)) as show:
        store = build_store(
            manifest,
            config.out,
            size=config.size,
            workers=config.workers or os.cpu_count() or 1,
            bits=config.bits,
            split_note=note,
            options=chosen_options(config, len(manifest.table)),
            on_progress=lambda done, total, rejected: show(done, f"{rejected} rejected"),
        )
    for name, share in (("train", 1.0), ("val", config.validation), ("test", config.test)):
        if share and not len(store.rows(name)):
            logger.warning("The split %s of %s is empty.", name, config.out)
    counts = ", ".join(f"{name} {len(store.rows(name))}" for name in ("train", "val", "test"))
    rejected = store.card["rejected"]
    logger.info(
        "%s: %d images (%s), %d rejected%s.",
        config.out, len(store), counts, rejected, ", reasons in rejected.csv" if rejected else "",
    )  # fmt: skip
    published = (
        f" (published: {MERGED_520K_MEAN}, {MERGED_520K_STD})" if config.source == "merged_520k" else ""
    )
    measured = "the train split" if store.measured < len(store) else "all images"
    logger.info(
        "Pixels: mean %.8f, standard deviation %.8f%s. Measured on %s.",
        store.mean, store.std, published, measured,
    )  # fmt: skip
    if config.mask_value and not any(
        mask.any() for row in range(len(store)) for mask in store.masks(row).values()
    ):
        logger.warning(
            "No mask holds the value %s, so all are empty. Check --mask-value, delete %s and prepare again.",
            " ".join(map(str, config.mask_value)), config.out,
        )  # fmt: skip
    log_issues(store.card.get("issues", {}), config.source)
    if config.statistics:
        from evax.pages.statistics import write_statistics  # matplotlib

        write_statistics(config.out / "statistics", [config.out])
        logger.info("What it is made of: %s.", config.out / "statistics" / "statistics.html")
    return config.out


def log_issues(issues: dict[str, int], source: str) -> None:
    """What is unusual about the images, and what a person should look at before a model learns from it.

    A DICOM tree leaves such images out unless it is asked to keep them.
    """
    if issues:
        counts = ", ".join(f"{count} {name}" for name, count in issues.items())
        logger.info("Unusual: %s; the table's column issues says which images.", counts)
    unwanted = {
        name: count
        for name, count in issues.items()
        if name in ("lateral", "other_view", "burned_in_annotation") or name.startswith("body_part_")
    }
    if unwanted and source != "dicom":
        logger.warning(
            "The store holds images that are no frontal chest images or show names: %s (column issues). Leave "
            "them out with --source dicom, or drop their rows from the table, and prepare again.",
            ", ".join(f"{count} {name}" for name, count in unwanted.items()),
        )
    if "above_bits" in issues:
        logger.warning(
            "%d images hold values above the depth of the store (--bits) and show them white. "
            "Burnt-in markers may; images of a deeper detector belong in a store of their own.",
            issues["above_bits"],
        )  # fmt: skip
    if "below_bits" in issues:
        logger.warning(
            "%d images use less than a sixteenth of the depth of the store (--bits): they are dark, or of a "
            "shallower detector and belong in a store of their own.",
            issues["below_bits"],
        )  # fmt: skip
    for name in ("looks_inverted", "looks_rotated"):
        if name in issues:
            logger.warning(
                "%d images have the issue %s: look at them; nothing was changed.", issues[name], name
            )


def frontal_only(manifest: Manifest) -> Manifest:
    """The images that no source calls lateral, or a slice; logs how many are left out."""
    views = manifest.table["view"]
    for view, what in NOT_FRONTAL.items():
        if count := int((views == view).sum()):
            logger.info("%d %s are left out.", count, what)
    return manifest.select(~views.isin(list(NOT_FRONTAL)).to_numpy())


def verify_release(config: PrepareConfig) -> None:
    """Raises DataError with every difference between tables, published counts and disk."""
    manifest = list_source(config.source, config.raw, source_options(config))
    if faults := check_disk(manifest):
        listing = "\n  ".join(faults)
        raise DataError(f"{config.raw} differs from {config.source} in {len(faults)} ways:\n  {listing}")
    logger.info(
        "%s: all %d images of %s are there and whole.", config.raw, len(manifest.table), config.source
    )


def chosen_options(config: PrepareConfig, films: int) -> dict[str, str]:
    """What decides a store, for a sentence about another one; no names of the user's folders and tables."""
    names = (
        "source", "size", "bits", "validation", "test", "seed", "label_column", "findings", "patient_pattern",
        "region", "mask_value", "keep_burned_in",
    )  # fmt: skip
    options = {name: getattr(config, name) for name in names} | {"number of images": films}
    for name in ("lists", "tested"):  # of published experiments
        folder = getattr(config, name)
        options[name] = folder and name_of(folder.name)
    if config.source == "dicom":
        options["the key of the pseudonyms"] = name_of_key(source_options(config)["private"])[:8]
    return {name: "not given" if value is None else str(value) for name, value in options.items()}


def source_options(config: PrepareConfig) -> dict[str, Any]:
    """The options that were set, for the source to accept or refuse."""
    names = (
        "table", "label_column", "findings", "patient_pattern", "region", "mask_value", "tested",
        "private", "keep_burned_in",
    )  # fmt: skip
    options = {name: getattr(config, name) for name in names if getattr(config, name) not in (None, False)}
    if config.source == "dicom":
        options.setdefault("private", config.out.with_name(f"{config.out.name}.private"))
    return options

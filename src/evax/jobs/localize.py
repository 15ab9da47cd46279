"""evax localize: does Grad-CAM of a classifier find what was drawn on the images of a store?"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from evax.config import command_line, job
from evax.data.store import ImageStore, open_store
from evax.deploy.bundle import check_test_unseen, warn_if_other_bits
from evax.deploy.predictor import Predictor, open_bundle
from evax.errors import ConfigError, DataError
from evax.explain.localization import (
    Localized,
    Maps,
    chosen_thresholds,
    draw_overlays,
    images_with_regions,
    kinds_of_truth,
    protocol_entries,
    published_maps,
    score_localization,
    write_cases,
)
from evax.findings import as_spelled
from evax.options.results import LocalizeConfig
from evax.runs.files import write_report
from evax.runs.log import run_folder
from evax.runs.progress import progress_bar


@job(LocalizeConfig)
def localize(config: LocalizeConfig) -> Path:
    """Scores every (image, finding) of the split whose place is known; returns the path of report.json.

    Raises DataError when no image of the split has a box (or mask) of a finding the bundle knows, and for test
    images that the bundle learned from.
    """
    start = time.perf_counter()
    predictor, store = open_bundle_and_store(config)
    findings = predictor.card.findings
    check_spellings(store, findings)
    kinds = kinds_of_truth(store, store.rows(config.split), findings, config.truth)
    films = images_with_regions(store, store.rows(config.split), kinds)
    if not films:
        raise DataError(nothing_drawn(config, findings))
    if config.split == "test":
        check_test_unseen(config.bundle, store, np.array(list(films), dtype=np.int64))
    with run_folder(config.out, config):
        maps = Maps.of(predictor, store, config.at, config.protocol, progress_bar)
        pairs = maps.pairs(films)
        if not pairs:
            raise DataError(f"All masks of {config.split} images of {config.store} are empty at its size.")
        patients = store.manifest.table["patient"].loc[[pair.row for pair in pairs]].tolist()
        chosen = chosen_thresholds(maps, pairs, patients, config.split, kinds, config.seed)
        localized = Localized(pairs, chosen.places, patients)
        write_cases(config.out / "cases.csv", store, localized, config.protocol)
        report = {
            "kind": "localize",
            "at": config.at,
            "split": config.split,
            "data_fingerprint": store.fingerprint,
            "bundle": str(config.bundle),
            "protocol": protocol_entries(config.protocol, chosen.on, maps.side, config.resamples),
            **score_localization(localized, findings, config.resamples, config.seed),
            "published": published_maps(store),
            "overlays": draw_overlays(config.out, store, pairs, maps.preprocess, findings, config.overlays),
            "command": command_line("localize", config),
            "seconds": round(time.perf_counter() - start, 1),
        }
        write_report(report, config.out / "report.json")
        from evax.pages.run import write_run_page  # matplotlib

        write_run_page(config.out)
    return config.out / "report.json"


def open_bundle_and_store(config: LocalizeConfig) -> tuple[Predictor, ImageStore]:
    """The classifier and the store. Raises what says that they do not fit."""
    predictor, store = open_bundle(config.bundle), open_store(config.store)
    if predictor.card.kind != "classifier":
        raise ConfigError(
            f"{config.bundle} holds weights of kind {predictor.card.kind}; localize needs a classifier. "
            "Fine-tune it first."
        )
    if config.at not in predictor.layers:
        raise ConfigError(
            f"{config.bundle} makes no map at {config.at}: give --at {' or '.join(predictor.layers)}."
        )
    if (needed := predictor.card.preprocess.store_size) != store.size:
        raise DataError(
            f"{config.bundle} was trained on images kept at {needed} pixels, {config.store} keeps them at "
            f"{store.size}: prepare the store with --size {needed}."
        )
    warn_if_other_bits(config.bundle, predictor.card.preprocess, store)
    return predictor, store


def check_spellings(store: ImageStore, findings: tuple[str, ...]) -> None:
    """Raises DataError where boxes or masks of a finding of the bundle are under another spelling of it."""
    for drawn in sorted({*store.manifest.boxes["finding"], *store.mask_findings()} - {*findings}):
        if (finding := as_spelled(drawn, findings)) in findings:
            raise DataError(
                f"{store.path} has boxes or masks of '{drawn}', which the bundle calls '{finding}': prepare "
                "the store again with the bundle's spelling in its table, boxes and masks."
            )


def nothing_drawn(config: LocalizeConfig, findings: tuple[str, ...]) -> str:
    """That no image can be scored, and what to try."""
    what = {"boxes": "a box", "masks": "a mask", "auto": "a box or a mask"}[config.truth]
    other = {"boxes": " Images with masks: --truth masks.", "masks": " Images with boxes: --truth boxes."}
    return (
        f"No {config.split} image of {config.store} has {what} of {', '.join(findings)}."
        f"{other.get(config.truth, '')}"
    )

"""evax segment: a store with masks + an encoder -> a segmenter bundle, tested once."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evax.config import command_line, job
from evax.errors import DataError
from evax.options.adaptation import PAPER_THRESHOLD, SegmentConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from evax.data.masked import MaskedFilms
    from evax.data.preprocess import Preprocess
    from evax.evaluation.segmentation import Overlaps
    from evax.models.segmenter import Segmenter

logger = logging.getLogger("evax")


@job(SegmentConfig)
def segment(config: SegmentConfig) -> Path:
    """Runs the training and the one test; returns the folder of the segmenter bundle.

    Raises DataError for a store without masks or an empty split, WeightsError for weights that do not fit.
    """
    from evax.adaptation.study import refuse_absent_weights
    from evax.runs.log import refuse_used_folder

    start = time.perf_counter()
    refuse_used_folder(config.out, config, None)  # before torch, as the two after it
    films = masked_films_of(config)
    refuse_absent_weights(config)
    from evax.adaptation.fit_segmenter import fit_segmenter
    from evax.adaptation.scoring import overlaps_of
    from evax.deploy.bundle import note_other_size, starting_preprocess
    from evax.models.segmenter import Segmenter
    from evax.runs.device import seeded, start_fabric
    from evax.runs.log import run_folder
    from evax.runs.optimizer import Diverged
    from evax.weights.encoders import create_encoder, digest_of_weights

    note_other_size(config.weights, config.image_size)
    preprocess = replace(
        starting_preprocess(config.encoder, config.weights, films.store, config.image_size),
        resize_size=None,  # masks are of whole films
    )
    with seeded(config.seed):
        encoder = create_encoder(
            config.encoder, config.weights, img_size=config.image_size, drop_path_rate=config.drop_path
        )
        model = Segmenter(encoder, len(films.findings), config.decoder_width)
    weights = digest_of_weights(config.encoder, config.weights)
    fabric = start_fabric(config.precision)
    with run_folder(config.out, config, resume=None) as log:
        try:
            best_step = fit_segmenter(model, films, preprocess, config, fabric, log)
        except Diverged:
            shutil.rmtree(config.out)  # nothing to go on with, and the next try may have the same --out
            raise
        validation, test = (
            overlaps_of(model, films, rows, preprocess, fabric) for rows in (films.validation, films.test)
        )
        write_results(config, films, model, weights, preprocess, validation, test, best_step, fabric, start)
    return config.out / "bundle"


def masked_films_of(config: SegmentConfig) -> MaskedFilms:
    """What is learned from, what chooses and what is tested, as far as its masks are known.

    Raises DataError for a store without masks, a split without any, and test films that the weights
    learned from; ConfigError for a finding without masks.
    """
    from evax.data.labelled import LabelShare, capped_rows, split_rows
    from evax.data.masked import MaskedFilms, findings_with_masks, known_masks
    from evax.data.store import open_store
    from evax.deploy.bundle import refuse_seen_films

    store = open_store(config.store)
    findings = findings_with_masks(store, config.findings)
    parts = split_rows(store, config.split, config.split_by, needs_validation=config.protocol == "clean")
    share = LabelShare(config.label_fraction, config.label_count)

    def chosen(findings: tuple[str, ...]) -> MaskedFilms:
        known = known_masks(store, findings, with_absent=config.absent == "outside")
        pool, validation, test = (rows[known[rows].any(axis=1)] for rows in parts)
        return MaskedFilms(
            store=store,
            findings=findings,
            known=known,
            pool=pool,
            train=share.draw(store, pool, config.seed),
            choosing=capped_rows(store, validation, config.validation_cap),
            validation=validation,
            test=test,
        )

    films = chosen(findings)
    # with fewer findings fewer films are known and other patients drawn, who may not teach another finding
    while (learnable := in_all_splits(config, films)) != films.findings:
        films = chosen(learnable)
    refuse_seen_films(config.weights, store, films.test)
    unused = sum(map(len, parts)) - len(films.pool) - len(films.validation) - len(films.test)
    if unused:
        logger.info("%d films of %s are not used: nothing is known of their masks.", unused, store.path)
    return films


def in_all_splits(config: SegmentConfig, films: MaskedFilms) -> tuple[str, ...]:
    """The findings that can be learned, chosen by and tested; others are named in a warning.

    Raises DataError where none is left, or one that was asked for has no pixel in a split.
    """
    from evax.data.masked import without_pixels

    parts = {"train": films.train, "val": films.validation, "test": films.test}
    if config.protocol == "paper":  # validation chooses nothing
        del parts["val"]
    lacking = without_pixels(films.store, films.findings, parts)
    said = ", ".join(f"{name} (no {split} film)" for name, split in lacking.items())
    left = tuple(name for name in films.findings if name not in lacking)
    if lacking and (config.findings or not left):
        raise DataError(
            f"Not every split of {films.store.path} has a mask with pixels of {said}: leave these out of "
            "--findings, use more labels, or divide the films otherwise (--split)."
        )
    if lacking:
        logger.warning("Left out, because not every split has masks of it: %s.", said)
    return left


def write_results(
    config: SegmentConfig,
    films: MaskedFilms,
    model: Segmenter,
    weights_digest: str | None,
    preprocess: Preprocess,
    validation: Overlaps,
    test: Overlaps,
    best_step: int,
    fabric: Fabric,
    start: float,
) -> None:
    """Thresholds, scores of the test, bundle, table, pictures, report and page.

    weights_digest: of the weights it started from. start: of the job, by time.perf_counter.
    """
    import numpy as np

    from evax.adaptation.protocol import without_places
    from evax.adaptation.scoring import mask_probabilities
    from evax.deploy.bundle import Card, model_facts, save_bundle, save_seen, seen_before, seen_in
    from evax.evaluation.report import plain
    from evax.evaluation.segmentation import choose_thresholds, evaluate_segmenter, global_dice, mean_of
    from evax.pages.masks import draw_masks, write_dice_table
    from evax.pages.result_line import tell_dice
    from evax.pages.run import write_run_page
    from evax.runs.device import precision_of
    from evax.runs.files import write_report

    as_paper = config.protocol == "paper"
    thresholds = np.full(len(films.findings), PAPER_THRESHOLD) if as_paper else choose_thresholds(validation)
    patients = films.store.manifest.table["patient"].to_numpy(dtype=str)[films.test]
    chosen = test.at(thresholds)
    metrics = evaluate_segmenter(chosen, films.findings, patients, config.resamples, config.seed).to_json()
    validation_dice = mean_of(global_dice(validation.at(thresholds))[:, 0])
    protocol = protocol_of(config, films) | {
        "weights_digest": weights_digest,
        "trained_in": precision_of(fabric),
        "validation_mdice": plain(validation_dice),
        "best_step": best_step,
        "steps": config.in_steps(len(films.pool))[0],
    }
    card = Card(
        kind="segmenter",
        encoder=config.encoder,
        preprocess=preprocess,
        findings=films.findings,
        thresholds={
            name: plain(float(value)) for name, value in zip(films.findings, thresholds, strict=True)
        },
        training=without_places(protocol),
        metrics=metrics,
    )
    save_bundle(config.out / "bundle", card, model)
    seen = seen_in(films.store, films.train, films.validation).also(seen_before(config.weights))
    save_seen(config.out / "bundle", seen)
    write_dice_table(config.out / "dice-test.csv", films.store, films.test, films.findings, chosen)
    shown = draw_masks(
        config.out / "pictures", films, chosen, config.pictures,
        lambda rows: mask_probabilities(model, films.store, rows, preprocess, fabric),
    )  # fmt: skip
    curve = {
        name: plain(tuple(row)) for name, row in zip(films.findings, global_dice(validation), strict=True)
    }
    report = {
        "kind": "segment",
        **protocol,
        "test_metrics": metrics,
        "validation_dice_by_threshold": curve,
        "pictures": shown,
        "model": model_facts(card, model, config.weights),
        "command": command_line("segment", config),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_report(report, config.out / "report.json")  # a run folder that has one is finished
    write_run_page(config.out)
    tell_dice(config.out / "report.json")


def protocol_of(config: SegmentConfig, films: MaskedFilms) -> dict[str, Any]:
    """What every number of the run must carry."""
    from evax.adaptation.protocol import protocol_card

    if config.protocol == "paper":
        chosen = {
            "name": "paper",
            "note": "last checkpoint and threshold 0.3, as in the paper's code; validation chose nothing",
            "checkpoint_chosen_on": "nothing: the last one",
            "thresholds_chosen_on": "nothing: 0.3",
        }
    else:
        chosen = {
            "checkpoint_chosen_on": f"mean Dice of {len(films.choosing)} validation films",
            "thresholds_chosen_on": "validation, Dice of all pixels together",
        }
    return protocol_card(
        config, films.store, train=films.train, validation=films.validation, test=films.test, **chosen,
        films_without_the_finding=config.absent, scored_at=f"{films.store.size} x {films.store.size} pixels",
    )  # fmt: skip

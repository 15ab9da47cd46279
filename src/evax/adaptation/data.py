"""Train, validation and test images with their labels or masks, and checks of a call. Imports no torch.

The checks raise before torch is imported, and before anything is timed, downloaded, encoded or trained.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evax.data.labelled import (
    LabelledData,
    LabelShare,
    capped_rows,
    column_of,
    known_labels,
    redrawn_epochs,
    split_rows,
    with_findings,
)
from evax.data.masked import MaskedData, findings_with_masks, findings_without_pixels, known_masks
from evax.data.store import ImageStore, open_store
from evax.deploy.bundle import check_test_unseen
from evax.errors import DataError
from evax.evaluation.checks import one_sided
from evax.options.adaptation import AdaptingConfig, FinetuneConfig, LabelledConfig, SegmentConfig
from evax.runs.log import check_unused_folder
from evax.weights.resolve import check_weights_available, describe_weights, is_packaged

logger = logging.getLogger("evax")
Labels = np.ndarray[Any, Any]


def check_call(config: LabelledConfig, resume: bool | None) -> None:
    """Raises ConfigError for a run folder in use and unknown findings or weights, DataError if there is no
    store or it has no labels, WeightsError for missing weights.

    resume: see start_run.
    """
    check_unused_folder(config.out, config, resume)
    store = with_findings(open_store(config.store), config.findings)
    known_labels(store, config.uncertain, config.blank, config.uncertain_ones)
    check_weights(config)
    if store.manifest.exclusive and config.thresholds != "youden":
        logger.warning(
            "--thresholds %s has no effect: every image of %s has exactly one class, and the most probable "
            "one is predicted.", config.thresholds, store.path,
        )  # fmt: skip


def check_weights(config: AdaptingConfig) -> None:
    """Logs what is started from. Raises ConfigError for an unknown name of weights, WeightsError for a missing
    file.
    """
    logger.info("Starting from %s.", describe_weights(config.encoder, config.weights))
    if config.weights is not None and not is_packaged(config.encoder, config.weights):
        check_weights_available(config.encoder, config.weights)


def check_both_classes_present(findings: Sequence[str], labels: Labels, where: str) -> None:
    """Raises DataError if no finding is both present and absent: such images cannot choose a checkpoint.

    labels: (S, K), 1, 0 or NaN. where: name of these images for the message.
    """
    present, absent = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    if not ((present > 0) & (absent > 0)).any():
        counts = ", ".join(
            f"{name} {some} and {none}" for name, some, none in zip(findings, present, absent, strict=True)
        )
        raise DataError(
            f"No finding has both present and absent images in the {where}: {counts}. Use more data, another "
            "split, or findings that have both (--findings)."
        )


def check_every_class_present(classes: Sequence[str], labels: Labels, where: str) -> None:
    """Raises DataError if an exclusive class has no training image, as it could not be learned.

    labels: (S, K) of all training images; a small share of them may miss a class by chance. where: name of
    these images for the message.
    """
    present = (labels > 0.5).sum(axis=0)
    if missing := [name for name, images in zip(classes, present, strict=True) if not images]:
        counts = ", ".join(f"{name} {images}" for name, images in zip(classes, present, strict=True))
        raise DataError(
            f"No image of the {where} is {' or '.join(missing)} ({counts}), so that class cannot be learned. "
            "Give a split with images of every class (--split), or prepare a store without that class."
        )


def warn_if_constant(findings: Sequence[str], labels: Labels, where: str) -> None:
    """Warns of findings that are present, or absent, on all of these training images.

    labels: (S, K). where: name of these images for the message.
    """
    if constant := one_sided(findings, labels):
        listed = ", ".join(f"{name} is {word}" for name, word in constant.items())
        others = [name for name in findings if name not in constant]
        remedy = f"--findings {shlex.join(others)} leaves it out" if others else "Use other training images"
        logger.warning(
            "%s on every one of the %d %s: it cannot be learned, and its scores will mean nothing. %s.",
            listed, len(labels), where, remedy,
        )  # fmt: skip


def load_labelled(config: FinetuneConfig) -> LabelledData:
    """Train, validation and test images with their labels.

    Raises DataError for a store or split without what training needs, and for test images that the weights
    were trained on.
    """
    as_paper = config.protocol == "paper"
    store = with_findings(open_store(config.store), config.findings)
    findings = store.manifest.findings
    labels = known_labels(store, config.uncertain, config.blank, config.uncertain_ones)
    pool, validation, test = split_rows(store, config.split, config.split_by, needs_validation=not as_paper)
    share = LabelShare(config.label_fraction, config.label_count, labels if config.stratified else None)
    train, epochs = share.draw(store, pool, config.seed), None
    if config.subset == "redrawn":
        shown = config.in_steps(len(pool))[0] * config.batch_size
        train, epochs = redrawn_epochs(store, pool, share, config.seed, shown)
    check_test_unseen(config.weights, store, test)
    # no test image chooses, unless the protocol is the paper's
    choosing = test if as_paper else capped_rows(store, validation, config.validation_cap)
    check_both_classes_present(findings, labels[choosing], f"{'test' if as_paper else 'validation'} split")
    train_labels = known_labels(
        store,
        config.train_uncertain or config.uncertain,
        config.blank,
        () if config.train_uncertain else config.uncertain_ones,
        config.seed,
    )
    if store.manifest.exclusive:
        check_every_class_present(findings, train_labels[pool], f"train split of {store.path}")
    return LabelledData(
        store=store,
        labels=labels,
        train_labels=train_labels,
        pool=pool,
        train=train,
        epochs=epochs,
        choosing=choosing,
        validation=validation,
        test=test,
        sources=load_sources(config.sources, store),
    )


@dataclass(frozen=True, eq=False)
class ProbeData:
    """Train, validation and test images of a store with their labels, for probes."""

    store: ImageStore
    labels: Labels
    """(S, K), 1, 0 or NaN, of the whole store."""
    pool: Labels
    """Rows of the train split."""
    validation: Labels
    test: Labels

    @property
    def findings(self) -> tuple[str, ...]:
        return self.store.manifest.findings

    def draw(self, config: LabelledConfig) -> Labels:
        """Rows of the train split whose labels are used."""
        strata = self.labels if config.stratified else None
        share = LabelShare(config.label_fraction, config.label_count, strata)
        return share.draw(self.store, self.pool, config.seed)


def load_probe_data(config: LabelledConfig) -> ProbeData:
    """Raises as load_labelled."""
    store = with_findings(open_store(config.store), config.findings)
    labels = known_labels(store, config.uncertain, config.blank, config.uncertain_ones)
    pool, validation, test = split_rows(store, config.split, config.split_by)
    check_test_unseen(config.weights, store, test)
    check_both_classes_present(store.manifest.findings, labels[validation], "validation split")
    if store.manifest.exclusive:
        check_every_class_present(store.manifest.findings, labels[pool], f"train split of {store.path}")
    return ProbeData(store, labels, pool, validation, test)


def load_sources(table: Path | None, store: ImageStore) -> list[str] | None:
    """Where each image of the store comes from, by the table of --sources; None without one."""
    return None if table is None else column_of(store, table, "source")


def load_masked(config: SegmentConfig) -> MaskedData:
    """Train, validation and test images, as far as their masks are known.

    Raises DataError for a store without masks, a split without any, and test images that the weights were
    trained on; ConfigError for a finding without masks.
    """
    store = open_store(config.store)
    findings = findings_with_masks(store, config.findings)
    parts = split_rows(store, config.split, config.split_by, needs_validation=config.protocol == "clean")
    share = LabelShare(config.label_fraction, config.label_count)

    def with_masks_of(findings: tuple[str, ...]) -> MaskedData:
        known = known_masks(store, findings, with_absent=config.absent == "outside")
        pool, validation, test = (rows[known[rows].any(axis=1)] for rows in parts)
        return MaskedData(
            store=store,
            findings=findings,
            known=known,
            pool=pool,
            train=share.draw(store, pool, config.seed),
            choosing=capped_rows(store, validation, config.validation_cap),
            validation=validation,
            test=test,
        )

    data = with_masks_of(findings)
    # fewer findings mean fewer known images and another draw of patients, which may miss another finding
    while (learnable := findings_in_all_splits(config, data)) != data.findings:
        data = with_masks_of(learnable)
    check_test_unseen(config.weights, store, data.test)
    unused = sum(map(len, parts)) - len(data.pool) - len(data.validation) - len(data.test)
    if unused:
        logger.info("%d images of %s are not used: nothing is known of their masks.", unused, store.path)
    return data


def findings_in_all_splits(config: SegmentConfig, data: MaskedData) -> tuple[str, ...]:
    """The findings with pixels in every split that is used; warns of the others.

    Raises DataError if none is left, or if one was asked for by --findings.
    """
    parts = {"train": data.train, "val": data.validation, "test": data.test}
    if config.protocol == "paper":  # validation chooses nothing
        del parts["val"]
    lacking = findings_without_pixels(data.store, data.findings, parts)
    listed = ", ".join(f"{name} (no {split} image)" for name, split in lacking.items())
    left = tuple(name for name in data.findings if name not in lacking)
    if lacking and (config.findings or not left):
        raise DataError(
            f"Not every split of {data.store.path} has a mask with pixels of {listed}: leave these out of "
            "--findings, use more labels, or give another split (--split)."
        )
    if lacking:
        logger.warning("Left out, because not every split has masks of it: %s.", listed)
    return left


@dataclass(frozen=True)
class LabelPoint:
    """One point of a study: an amount of labels."""

    fraction: float
    """Share of the training patients, as given, or that of the count."""
    count: int | None = None
    """Number of training patients, if that was given."""

    def options(self) -> dict[str, Any]:
        """The options of a run at this point."""
        return {"label_fraction": self.fraction if self.count is None else 1.0, "label_count": self.count}

    def in_words(self) -> str:
        """As in figures."""
        return f"{100 * self.fraction:.3g} %" if self.count is None else f"{self.count} patients"

    def folder(self) -> str:
        """The beginning of the name of such a run's folder."""
        return f"share-{self.fraction:g}" if self.count is None else f"count-{self.count}"


def label_points(
    config: LabelledConfig, fractions: Sequence[float], counts: Sequence[int]
) -> list[LabelPoint]:
    """The points of a study, from few labels to many. Raises DataError for more patients than there are."""
    store = open_store(config.store)
    train, _, _ = split_rows(store, config.split, config.split_by)
    people = store.manifest.table["patient"].iloc[train].nunique()
    points = [LabelPoint(fraction) for fraction in fractions]
    points += [LabelPoint(LabelShare(count=count).patients(people) / people, count) for count in counts]
    return sorted(points, key=lambda point: point.fraction)

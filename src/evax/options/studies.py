"""Options of the studies: fewshot, crossvalidate and probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro

from evax.config import validated
from evax.data.labels import SplitBy
from evax.errors import ConfigError, unknown_name
from evax.options.adaptation import FinetuneConfig, LabelledConfig

FRACTIONS = (0.01, 0.1, 1.0)  # of the paper's Fig. 3c
SEEDS = (0, 1, 2, 3, 4)
PATIENT: Final = "patient"
FILM: Final = "film"
ATTRIBUTES = ("view", "sex")  # columns of every store that describe an image and do not identify it
SeenFilms = Literal["refuse", "train"]


@validated
@dataclass(frozen=True, kw_only=True)
class FewshotConfig(FinetuneConfig):
    """Fine-tune on growing parts of the training patients, with several seeds; all else is as in finetune.

    A seed draws the patients, the head, the order and the crops. Each run is a folder OUT/runs/*; the results
    are OUT/report.html, fewshot.json, fewshot.csv, fewshot.svg and fewshot.png.
    """

    out: Path
    """Run folder of the sweep; an existing one is continued with resume."""
    name: str = ""
    """Of the curve in figures; empty: encoder and the end of the weights' path."""
    fractions: tuple[float, ...] = ()
    """Shares of the training patients, each in (0, 1]; 0.01, 0.1 and 1 without fractions and counts."""
    counts: tuple[int, ...] = ()
    """Numbers of training patients, besides shares or instead of them."""
    seeds: tuple[int, ...] = SEEDS
    """One run per seed and share."""
    lrs: tuple[float, ...] = ()
    """Peak learning rates to choose from, per share, by the first seed's validation mAUC; the choice then
    holds for all seeds. Empty: optimizer.lr."""
    bundles: bool = False
    """Keep the classifier of every run that this call makes, OUT/runs/*/bundle."""
    resume: bool = False
    """Continue the sweep in OUT: finished runs are not repeated, new shares, counts and seeds are added."""
    label_fraction: Annotated[float, tyro.conf.Suppress] = 1.0
    """Set by fractions."""
    label_count: Annotated[int | None, tyro.conf.Suppress] = None
    """Set by counts."""
    seed: Annotated[int, tyro.conf.Suppress] = 0
    """Set by seeds."""
    protocol: Annotated[Literal["clean", "paper"], tyro.conf.Suppress] = "clean"
    """Of every run; validation chooses the learning rate."""

    def __post_init__(self) -> None:
        if self.label_fraction != 1 or self.label_count is not None or self.seed != 0:
            raise ConfigError(
                "fewshot sets label_fraction, label_count and seed itself: give fractions, counts and seeds."
            )
        super().__post_init__()
        if self.protocol != "clean":
            raise ConfigError("fewshot has the clean protocol only: leave protocol out.")
        check_draws(self.fractions, self.counts, self.seeds)
        if not all(lr > 0 for lr in self.lrs):
            raise ConfigError(f"lrs must be above 0, got {self.lrs}.")


@validated
@dataclass(frozen=True, kw_only=True)
class CrossvalidateConfig(FinetuneConfig):
    """Fine-tune once per fold of the patients, or once per hospital left out; all else is as in finetune.

    All images of the store enter, whatever its split says. Each run is a folder OUT/runs/*; the results are
    OUT/report.html, crossvalidate.json, crossvalidate.csv, crossvalidate.svg and crossvalidate.png. With
    seeds, each is such a study in OUT/runs/seed-*; OUT/report.html, seeds.json and seeds.csv sum them up.
    """

    out: Path
    """Run folder of the study; an existing one is continued with resume."""
    name: str = ""
    """Of the study in its figure; empty: encoder and the end of the weights' path."""
    folds: int = 5
    """Number of folds of patients or images, at least 2; by anything else there are as many as values."""
    by: str = PATIENT
    """patient; film: folds of images drawn by chance, as in the paper's real-world study, so that a patient's
    images may train and be tested, which every report then says; or view, sex or a column of the table, whose
    values are left out one at a time."""
    table: Path | None = None
    """CSV with the columns image or patient, and the one that `by` names, as site."""
    validation: float = 0.2
    """Share of the patients outside the test part that choose instead of training, in (0, 1)."""
    seen: SeenFilms = "refuse"
    """When the encoder was pre-trained on images of the store. train: their patients always train."""
    bundles: bool = False
    """Keep the classifier of every fold that this call runs, OUT/runs/*/bundle."""
    resume: bool = False
    """Continue the study in OUT: finished runs are not repeated."""
    split: Annotated[Path | None, tyro.conf.Suppress] = None
    """Set for each fold."""
    protocol: Annotated[Literal["clean", "paper"], tyro.conf.Suppress] = "clean"
    """Of every fold; its validation images choose the checkpoint."""
    split_by: Annotated[SplitBy, tyro.conf.Suppress] = PATIENT
    """Set by `by`."""
    seeds: tuple[int, ...] = ()
    """The study once per seed, as 0-4: each draws folds, heads, orders and crops of its own, as seed does."""

    def __post_init__(self) -> None:
        if self.split is not None or self.split_by != PATIENT:
            raise ConfigError("crossvalidate makes its own splits: give folds or by.")
        super().__post_init__()
        if self.protocol != "clean":
            raise ConfigError(
                "crossvalidate has the clean protocol only: leave protocol out. For the paper's folds of "
                "images give --by film."
            )
        if self.folds < 2:
            raise ConfigError(f"folds must be at least 2, got {self.folds}.")
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation is a share in (0, 1), got {self.validation}.")
        if self.by in (PATIENT, FILM) and self.table is not None:
            raise ConfigError("table holds the column that by names: give --by, as --by site.")
        if self.table is None and self.by not in (known := (PATIENT, FILM, *ATTRIBUTES)):
            wrong = unknown_name("way to divide images", self.by, known)
            raise ConfigError(f"{wrong} For another column give the CSV that has it, as --table sites.csv.")


@validated
@dataclass(frozen=True, kw_only=True)
class ProbeConfig(LabelledConfig):
    """Score an encoder as it is: logistic regression and a vote of neighbours on the mean of its patches.

    Every image is seen once; validation chooses strength and thresholds, test is scored once. With fractions
    or counts it is a sweep over parts of the labels, on the same features.
    """

    neighbours: int = 20
    """Training images that vote on each image."""
    fractions: tuple[float, ...] = ()
    """Shares of the training patients, each in (0, 1]."""
    counts: tuple[int, ...] = ()
    """Numbers of training patients, besides shares or instead of them."""
    seeds: tuple[int, ...] = ()
    """Of a sweep: one draw of patients per seed and share; 0 1 2 3 4 without it."""
    name: str = ""
    """Of the curves of a sweep in figures; empty: encoder and the end of the weights' path."""
    resume: bool = False
    """Continue the sweep in OUT: images that were encoded and probes that are finished are not repeated, new
    shares, counts and seeds are added."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours <= 0:
            raise ConfigError(f"neighbours must be above 0, got {self.neighbours}.")
        check_draws(self.fractions, self.counts, self.seeds or SEEDS)
        if self.fractions or self.counts:
            if self.label_fraction != 1 or self.label_count is not None:
                raise ConfigError(
                    "Give label_fraction or label_count for one probe, or fractions and counts."
                )
            if self.seed != 0:
                raise ConfigError(f"A sweep has seeds in place of seed, which is {self.seed}: leave it out.")
        elif (self.seeds or self.name) and not self.resume:
            raise ConfigError(
                "seeds and name are those of a sweep: give fractions or counts, too (--fractions 1 for all "
                "labels), or seed for one probe."
            )


def check_draws(fractions: Sequence[float], counts: Sequence[int], seeds: Sequence[int]) -> None:
    """Raises ConfigError when a study could not have these shares, numbers of patients and seeds."""
    for name, values in (("fractions", fractions), ("counts", counts), ("seeds", seeds)):
        if len(set(values)) < len(values):
            raise ConfigError(f"{name} must be different values, got {values}.")
    if not seeds:
        raise ConfigError("seeds must be different values, at least one.")
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise ConfigError(f"fractions must lie in (0, 1], got {fractions}.")
    if not all(count > 0 for count in counts):
        raise ConfigError(f"counts must be above 0, got {counts}.")

"""evax finetune: a labelled store + an encoder -> a classifier bundle, tested once."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evax.adaptation.study import (
    continued,
    over_seeds,
    refuse_at_once,
    refuse_one_sided,
    refuse_other_run,
    refuse_untaught_class,
    report_of,
    warn_of_untaught,
)
from evax.config import job
from evax.errors import ConfigError
from evax.options.adaptation import FinetuneConfig

if TYPE_CHECKING:
    from evax.data.labelled import LearningFilms


@job(FinetuneConfig)
def finetune(config: FinetuneConfig) -> Path:
    """Runs the fine-tuning and the one test; returns the folder of the classifier bundle, or seeds.json.

    Raises DataError for a store without labels or an empty split, WeightsError for weights that do not fit.
    """
    if config.resume and not config.seeds:
        raise ConfigError("Only runs over seeds are continued: give --seeds, or leave --resume out.")
    refuse_at_once(config, config.resume if config.seeds else None)
    if config.seeds:
        return finetune_over_seeds(config)
    from evax.adaptation.examine import CHECKED_FILMS, tell
    from evax.deploy.bundle import note_other_size  # after what is refused at once
    from evax.files import read_json
    from evax.pages.result_line import tell_result

    films = films_of(config)
    warn_of_untaught(films.findings, films.taught[films.train], "training films")
    note_other_size(config.weights, config.image_size)
    bundle = learn_and_test(config, films, CHECKED_FILMS)
    tell_result([config.out / "report.json"])
    tell(read_json(config.out / "report.json")["checks"])
    return bundle


def finetune_over_seeds(config: FinetuneConfig) -> Path:
    """One run per seed, whose classifiers are kept; returns the path of seeds.json."""
    from evax.data.labelled import data_fingerprint
    from evax.data.store import open_store
    from evax.deploy.bundle import note_other_size
    from evax.evaluation.study_rows import auroc_of_each, row_of
    from evax.weights.encoders import digest_of_weights

    films = films_of(config)
    warn_of_untaught(films.findings, films.taught[films.pool], "training films")
    note_other_size(config.weights, config.image_size)
    study = continued(config, config.resume, grows=("seeds",))
    fingerprint = data_fingerprint(open_store(study.store), study.split)
    weights = digest_of_weights(study.encoder, study.weights)
    return over_seeds(
        study, study.seeds, study.resume, asked=config.precision,
        refuse=lambda run: refuse_other_run(run, fingerprint, weights, needs_bundle=False),
        made=lambda run: report_of(run, finetune_in_study, keep_bundle=True),
        row=lambda report: {**row_of(report), **auroc_of_each(report)},
    )  # fmt: skip


def finetune_in_study(config: FinetuneConfig) -> Path:
    """The same as one of many runs, which would all say the same of the same films: the checks stay in the
    report, and doubtful labels are searched among one patient's films, which nothing can contradict.
    """
    return learn_and_test(config, films_of(config), checked_films=1)


def learn_and_test(config: FinetuneConfig, films: LearningFilms, checked_films: int) -> Path:
    """One fine-tuning; returns its bundle. A run folder whose training diverged is taken away again.

    films: see films_of. checked_films: at most so many training films are searched for doubtful labels, a
    forward pass each.
    """
    from evax.adaptation.classify import Finetuned, write_results
    from evax.adaptation.examine import Scored
    from evax.adaptation.fit import fit
    from evax.adaptation.head import start_from_probe
    from evax.adaptation.scoring import predict_rows
    from evax.deploy.bundle import starting_preprocess
    from evax.models.classifier import Classifier
    from evax.runs.device import seeded, start_fabric
    from evax.runs.log import run_folder
    from evax.runs.optimizer import Diverged
    from evax.weights.encoders import digest_of_weights, starting_encoder

    start = time.perf_counter()
    preprocess = replace(
        starting_preprocess(config.encoder, config.weights, films.store, config.image_size),
        resize_size=config.resize_size,
    )
    with seeded(config.seed):
        model = Classifier(starting_encoder(config), len(films.findings))
    weights = digest_of_weights(config.encoder, config.weights)
    fabric = start_fabric(config.precision)
    with run_folder(config.out, config, resume=None) as log:
        try:
            if config.head == "probe":
                log.write("head", validation_mauc=start_from_probe(model, films, preprocess, fabric))
            best_step = fit(model, films, preprocess, config, fabric, log)
        except Diverged:
            shutil.rmtree(config.out)  # nothing to go on with, and the next try may have the same --out
            raise
        softmax = films.exclusive and config.protocol == "clean"
        validation, test = (
            Scored(
                rows, films.labels[rows], predict_rows(model, films.store, rows, preprocess, softmax, fabric)
            )
            for rows in (films.validation, films.test)
        )
        done = Finetuned(model, weights, preprocess, best_step, validation, test)
        write_results(config, films, done, fabric, log, checked_films, start)
    return config.out / "bundle"


def films_of(config: FinetuneConfig) -> LearningFilms:
    """What is learned from, what chooses and what is tested, with their labels.

    Raises DataError for a store or a split that cannot be learned from, and for test films that the encoder
    was pre-trained on.
    """
    from evax.data.labelled import (
        LabelShare,
        LearningFilms,
        capped_rows,
        column_of,
        known_labels,
        redrawn_epochs,
        split_rows,
        with_findings,
    )
    from evax.data.store import open_store
    from evax.deploy.bundle import refuse_seen_films

    as_paper = config.protocol == "paper"
    store = with_findings(open_store(config.store), config.findings)
    labels = known_labels(store, config.uncertain, config.blank, config.uncertain_ones)
    pool, validation, test = split_rows(store, config.split, config.split_by, needs_validation=not as_paper)
    share = LabelShare(config.label_fraction, config.label_count, labels if config.stratified else None)
    train, epochs = share.draw(store, pool, config.seed), None
    if config.subset == "redrawn":
        shown = config.in_steps(len(pool))[0] * config.batch_size
        train, epochs = redrawn_epochs(store, pool, share, config.seed, shown)
    refuse_seen_films(config.weights, store, test)
    # no test film chooses, unless the protocol is the paper's
    choosing = test if as_paper else capped_rows(store, validation, config.validation_cap)
    refuse_one_sided(
        store.manifest.findings, labels[choosing], f"{'test' if as_paper else 'validation'} split"
    )
    taught = known_labels(
        store,
        config.train_uncertain or config.uncertain,
        config.blank,
        () if config.train_uncertain else config.uncertain_ones,
        config.seed,
    )
    if store.manifest.exclusive:
        refuse_untaught_class(store.manifest.findings, taught[pool], f"train split of {store.path}")
    return LearningFilms(
        store=store,
        labels=labels,
        taught=taught,
        pool=pool,
        train=train,
        epochs=epochs,
        choosing=choosing,
        validation=validation,
        test=test,
        sources=None if config.sources is None else column_of(store, config.sources, "source"),
    )

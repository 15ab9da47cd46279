"""evax finetune: a labelled store + an encoder -> a classifier bundle, tested once."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from evax.adaptation.data import check_call, load_labelled, warn_if_constant
from evax.adaptation.study import check_finished_runs, continue_study, make_once, run_seeds
from evax.config import job
from evax.data.labelled import LabelledData
from evax.deploy.bundle import log_other_size
from evax.errors import ConfigError
from evax.evaluation.study_rows import row_of
from evax.files import read_json
from evax.options.adaptation import FinetuneConfig


@job(FinetuneConfig)
def finetune(config: FinetuneConfig) -> Path | str:
    """Runs the fine-tuning and the one test; returns the folder of the classifier bundle, or seeds.json.

    With dry_run it returns the table of what several sizes would cost, and writes nothing.

    Raises DataError for a store without labels or an empty split, WeightsError for weights that do not fit.
    """
    start = time.perf_counter()
    if config.resume and not config.seeds:
        raise ConfigError("Only runs over seeds are continued: give --seeds, or leave --resume out.")
    check_call(config, config.resume if config.seeds else None)
    data = load_labelled(config)
    rows = data.pool if config.seeds else data.train
    warn_if_constant(data.findings, data.train_labels[rows], "training images")
    log_other_size(config.weights, config.image_size)
    if config.dry_run or config.minutes is not None:
        from evax.adaptation.plan import choose_steps, compare_sizes  # torch from here on

        if config.dry_run:
            return compare_sizes(config, data)
        config = choose_steps(config, data, start)
        data = load_labelled(config)  # redrawn labels depend on the steps
    if config.seeds:
        return finetune_over_seeds(config, data)

    from evax.adaptation.classify import train_and_test  # torch from here on
    from evax.adaptation.examine import CHECKED_IMAGES, log_failed_checks
    from evax.pages.result_line import log_test_scores

    bundle = train_and_test(config, data, CHECKED_IMAGES)
    log_test_scores([config.out / "report.json"])
    log_failed_checks(read_json(config.out / "report.json")["checks"])
    return bundle


def finetune_over_seeds(config: FinetuneConfig, data: LabelledData) -> Path:
    """One run per seed, whose classifiers are kept; returns the path of seeds.json."""
    from evax.adaptation.classify import finetune_in_study  # torch from here on
    from evax.weights.encoders import digest_of_weights

    weights = digest_of_weights(config.encoder, config.weights)
    return run_seeds(
        continue_study(config, grows=("seeds",)),
        config.precision,
        check=partial(check_finished_runs, store=data.store, weights=weights),
        report_of=partial(make_once, make=finetune_in_study),
        row_of=row_of,
    )

"""evax pretrain: unlabelled stores -> an encoder, by masked image modelling against a frozen tokenizer."""

from __future__ import annotations

import time
from pathlib import Path

from evax.config import job
from evax.data.leaks import require_audit, warn_if_patients_tested
from evax.data.store import ImageStore, open_store
from evax.options.pretraining import PretrainConfig
from evax.pretraining.resume import check_same_probe_store, original_config
from evax.runs.log import check_unused_folder


@job(PretrainConfig)
def pretrain(config: PretrainConfig) -> Path:
    """Runs the pre-training; returns the folder of the encoder bundle. A finished run is left as it is.

    Under torchrun all processes share the work, and the first one writes.
    Raises ConfigError for a run folder that exists, DataError for stores that cannot be used and for a run
    that diverged, WeightsError for a checkpoint of another run, Interrupted (after saving) when Ctrl-C or
    SIGTERM stopped it.
    """
    start = time.perf_counter()
    check_unused_folder(config.out, config, config.resume)
    begun = original_config(config)
    stores = open_stores(config)
    check_same_probe_store(config)

    from evax.pretraining.run import run_pretraining  # torch from here on

    return run_pretraining(config, begun, stores, start)


def open_stores(config: PretrainConfig) -> list[ImageStore]:
    """All stores, after the audit that was asked for; without one their patients are compared by name."""
    stores = [open_store(path) for path in config.stores]
    if config.audit:
        require_audit(config.audit, stores)
    else:
        warn_if_patients_tested(stores)
    return stores

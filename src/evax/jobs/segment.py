"""evax segment: a store with masks + an encoder -> a segmenter bundle, tested once."""

from __future__ import annotations

import time
from pathlib import Path

from evax.adaptation.data import check_weights, load_masked
from evax.config import job
from evax.deploy.bundle import log_other_size
from evax.options.adaptation import SegmentConfig
from evax.runs.log import check_unused_folder


@job(SegmentConfig)
def segment(config: SegmentConfig) -> Path:
    """Runs the training and the one test; returns the folder of the segmenter bundle.

    Raises DataError for a store without masks or an empty split, WeightsError for weights that do not fit.
    """
    start = time.perf_counter()
    check_unused_folder(config.out, config, None)
    data = load_masked(config)
    check_weights(config)
    log_other_size(config.weights, config.image_size)

    from evax.adaptation.segment import train_and_test_segmenter  # torch from here on
    from evax.pages.result_line import log_dice

    bundle = train_and_test_segmenter(config, data, start)
    log_dice(config.out / "report.json")
    return bundle

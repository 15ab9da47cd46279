"""Learning masks: the steps, and looks at the validation films that choose the checkpoint."""

from __future__ import annotations

import numpy as np
from lightning_fabric import Fabric

from evax.adaptation.fit import Look, Looks, learn_and_choose, ready_to_learn
from evax.adaptation.scoring import overlaps_of
from evax.adaptation.steps import segmentation_step
from evax.data.loader import Batch, Films, training_batches
from evax.data.masked import MaskedFilms, masked_view
from evax.data.preprocess import Preprocess
from evax.evaluation.classification import macro_mean
from evax.evaluation.segmentation import global_dice
from evax.models.segmenter import Segmenter
from evax.options.adaptation import SegmentConfig
from evax.runs.log import RunLog
from evax.runs.optimizer import lr_at_step


def fit_segmenter(
    model: Segmenter,
    films: MaskedFilms,
    preprocess: Preprocess,
    config: SegmentConfig,
    fabric: Fabric,
    log: RunLog,
) -> int:
    """Trains; leaves the weights with the best mean Dice of the validation films in the model and returns
    their step. In the paper's protocol nothing chooses and the last ones stay (facts 5.3).
    """
    steps, schedule = config.in_steps(len(films.pool))
    network, optimizer = ready_to_learn(model, config, len(films.pool), fabric)
    batches = training_batches(
        Films([(films.store, films.train)]),
        batch_size=config.batch_size,
        size=config.image_size,
        crop=masked_view(films, config.image_size, config.crop, config.distort, config.seed),
        seed=config.seed,
        steps=range(steps),
        workers=config.workers,
        channels=1 + len(films.findings),
    )

    def learn(batch: Batch) -> dict[str, float]:
        return segmentation_step(
            network,
            optimizer,
            fabric,
            batch,
            preprocess=preprocess,
            lr=lr_at_step(batch.step, steps, schedule),
            clip_norm=schedule.clip_norm,
        )

    def look() -> Look:
        overlaps = overlaps_of(model, films, films.choosing, preprocess, fabric)
        with_pixels = overlaps.inside.any(axis=0)
        # of each finding at the threshold that serves it best, as the validation films will choose it
        best = np.nanmax(global_dice(overlaps)[with_pixels], axis=1)
        macro = macro_mean(best)
        return Look(macro.value, {"dice": macro.value, "findings": macro.entered})

    chooses = None if config.protocol == "paper" else look
    looks = Looks(
        chooses, config.validate_every, "validation", f"Dice of {len(films.choosing)} validation films"
    )
    return learn_and_choose(model, batches, steps, learn, looks, config.seed, log)

"""What a pre-training leaves: encoder bundle, curves, report and page.

No job: it has no command. Heavy rooms may be imported here; evax pretrain loads it when it has learned.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from evax.config import command_line
from evax.data.loader import Films
from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, Seen, save_bundle, save_seen, seen_before, seen_in
from evax.deploy.lineage import training_so_far
from evax.models.masked import MaskedImageModel
from evax.options.pretraining import PretrainConfig
from evax.pages.drawing import save_figure
from evax.pages.figures import run_curves
from evax.pages.run import write_run_page
from evax.pretraining.watch import images_per_s, summary_of
from evax.runs.files import write_report
from evax.runs.log import RunLog

logger = logging.getLogger("evax")


def write_results(
    config: PretrainConfig,
    begun: PretrainConfig,
    model: MaskedImageModel,
    films: Films,
    preprocess: Preprocess,
    log: RunLog,
    facts: dict[str, Any],
    before: dict[str, Any] | None,
    start: float,
) -> None:
    """Encoder bundle, curves, report and page.

    begun: see begun_with. before: the training of the weights it started from. start: of this part, by
    time.perf_counter.
    """
    # a teacher's films are the student's, too: it learned from what the teacher learned from them
    seen = reduce(Seen.also, [seen_in(*part) for part in films.parts()], seen_before(config.weights))
    seen = seen.also(seen_before(Path(config.tokenizer)))
    images = facts["steps"] * config.batch_size
    # no speed: equal runs leave equal bundles
    training = facts | summary_of(log) | training_so_far(before, images, len(seen.films))
    card = Card(kind="encoder", encoder=config.encoder, preprocess=preprocess, training=training)
    save_seen(config.out / "encoder", seen)
    save_bundle(config.out / "encoder", card, model.encoder)
    save_figure(run_curves(log.events("step"), log.events("probe")), config.out / "curves")
    made = {
        "images_per_s": images_per_s(log),
        "command": command_line("pretrain", begun),
        "seconds": round(log.seconds_before() + time.perf_counter() - start, 1),
        "resumed": len(log.events("start")) - 1,  # a part that was refused or broke off before has no start
    }
    # the report comes last: a run folder that has one is finished
    write_report({"kind": "pretrain", **training, **made}, config.out / "report.json")
    write_run_page(config.out)
    tell_probe(log.events("probe"), config.out / "report.html")


def tell_probe(probes: Sequence[dict[str, Any]], page: Path) -> None:
    """The last words on the terminal: how good the features are at the end, and where the page is."""
    scores = ""
    if probes:
        named = {"kNN AUC": "knn_auc", "linear probe": "linear_auc", "RankMe": "rankme"}
        last = {name: probes[-1].get(key) for name, key in named.items()}
        said = ", ".join(f"{name} {value:.3f}" for name, value in last.items() if value is not None)
        scores = f"After step {probes[-1]['step']}: {said}. "
    logger.info("%sPage: %s", scores, page)

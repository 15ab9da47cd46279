"""Whether a pre-training that goes on is the run that was begun.

No job: it has no command. Heavy rooms are imported inside functions: a run is refused before torch is there.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from evax.config import build, changed_options, read_recipe, to_plain
from evax.errors import ConfigError
from evax.options.pretraining import PretrainConfig
from evax.rounding import exact

if TYPE_CHECKING:
    from evax.data.store import ImageStore
    from evax.models.tokenizers import Tokenizer

logger = logging.getLogger("evax")
MAY_CHANGE = {  # when a run goes on: how fast, and what is watched; nothing that is learned
    "out", "resume", "precision", "compile", "workers", "accumulate", "grad_checkpointing",
    "checkpoint_every", "probe_every", "track", "audit",
    "probe_store",  # by its path; its films and labels are those of before: refuse_other_probe_store
}  # fmt: skip


def begun_with(config: PretrainConfig) -> PretrainConfig:
    """The options that the run was begun with. Raises ConfigError when its config.yaml cannot be used."""
    if not config.resume:
        return config
    path = config.out / "config.yaml"
    return build(PretrainConfig, read_recipe(path, PretrainConfig), str(path))


def refuse_other_options(config: PretrainConfig, begun: PretrainConfig) -> None:
    """A run that goes on before its first checkpoint: only config.yaml says what it is.

    A checkpoint knows it better (identity_of_run): files may have been moved since. Raises ConfigError.
    """
    from evax.runs.checkpoint import checkpoint_paths

    if not config.resume or checkpoint_paths(config.out / "checkpoints"):
        return
    was, now = (
        {name: value for name, value in to_plain(each).items() if name not in MAY_CHANGE}
        for each in (begun, config)
    )
    if changes := changed_options(was, now, but=()):
        raise ConfigError(
            f"{config.out} was begun with other options: {changes}. It has no checkpoint yet: give the "
            "options of before, or delete it and start anew."
        )


def refuse_other_probe_store(config: PretrainConfig) -> None:
    """The probes of a run are one curve, so of one store; they may begin or end when the run goes on.

    Raises ConfigError.
    """
    from evax.data.store import open_store
    from evax.runs.log import read_events

    if not config.resume or config.probe_store is None:
        return
    probes = read_events(config.out / "log.jsonl", "probe")
    before = [line["probe_store"] for line in probes if "probe_store" in line]
    now = open_store(config.probe_store).fingerprint
    if before and before[-1] != now:
        raise ConfigError(
            f"{config.out} was probed on another store than {config.probe_store} (fingerprint "
            f"{before[-1][:12]}, not {now[:12]}), and its curve is of one. Give --probe-store of before, or "
            "leave it out."
        )


def is_finished(config: PretrainConfig, facts: dict[str, Any]) -> bool:
    """Whether a run that shall go on has its report and all of its steps; it is said, and nothing is written.

    facts: see identity_of_run. Raises WeightsError for a run with other options.
    """
    from evax.runs.checkpoint import all_done

    page = config.out / "report.html"
    if not (config.resume and page.with_suffix(".json").is_file()):
        return False
    if done := all_done(config.out / "checkpoints", facts):
        logger.info(
            "%s is finished: all of its %d steps are done. Page: %s", config.out, facts["steps"], page
        )
    return done


def identity_of_run(
    config: PretrainConfig, stores: list[ImageStore], films: int, tokenizer: Tokenizer, weights: str | None
) -> dict[str, Any]:
    """What a resumed run must share with the one that wrote the checkpoint.

    weights: digest of those it started from.
    """
    return {
        "encoder": config.encoder,
        "weights": weights,
        "tokenizer": tokenizer.identity(),
        "stores": [store.fingerprint for store in stores],
        "store_shares": list(config.store_shares),
        "steps": math.ceil(exact(config.epochs) * films / config.batch_size),
        "batch_size": config.batch_size,
        "image_size": config.image_size,
        "mask_ratio": config.mask_ratio,
        "mask": config.mask,
        "tokenizer_norm": config.tokenizer_norm,
        "stop_grad_conv1": config.stop_grad_conv1,
        "seed": config.seed,
        "crop": to_plain(config.crop),
        "optimizer": to_plain(config.optimizer),
    }

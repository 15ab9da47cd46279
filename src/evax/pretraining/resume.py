"""Whether a resumed pre-training is the run that was begun. Imports no torch at its top."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from evax.config import build, changed_options, read_recipe, to_plain
from evax.data.store import ImageStore, open_store
from evax.errors import ConfigError
from evax.options.pretraining import PretrainConfig
from evax.options.training import Precision
from evax.runs.log import read_events

logger = logging.getLogger("evax")
MAY_CHANGE = {  # of a resumed run: how fast it is and what is watched; nothing that is learned
    "out", "resume", "precision", "compile", "workers", "accumulate", "grad_checkpointing",
    "checkpoint_every", "probe_every", "track", "audit",
    "probe_store",  # its path; see check_same_probe_store
}  # fmt: skip


def original_config(config: PretrainConfig) -> PretrainConfig:
    """The options that the run was begun with. Raises ConfigError if its config.yaml cannot be used."""
    if not config.resume:
        return config
    path = config.out / "config.yaml"
    return build(PretrainConfig, read_recipe(path, PretrainConfig), str(path))


def with_original_length(config: PretrainConfig, begun: PretrainConfig) -> PretrainConfig:
    """A run that is resumed with --hours keeps the length, precision and compilation that were chosen at its
    start.
    """
    if not config.resume or config.hours is None:
        return config
    kept: dict[str, Any] = {
        name: getattr(begun, name) for name in ("precision", "compile") if getattr(config, name) == "auto"
    }
    return replace(config, hours=None, epochs=begun.epochs, **kept)


def check_same_options(config: PretrainConfig, begun: PretrainConfig) -> None:
    """Raises ConfigError if a run without a checkpoint is resumed with other options than its config.yaml.

    A checkpoint knows more (identity_of): with one, files may have been moved.
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
            "same options, or delete it and start again."
        )


def check_same_probe_store(config: PretrainConfig) -> None:
    """Raises ConfigError if a resumed run is probed on another store: its probes are one curve.

    Probes may be added or left out when a run is resumed.
    """
    if not config.resume or config.probe_store is None:
        return
    probes = read_events(config.out / "log.jsonl", "probe")
    before = [line["probe_store"] for line in probes if "probe_store" in line]
    now = open_store(config.probe_store).fingerprint
    if before and before[-1] != now:
        raise ConfigError(
            f"{config.out} was probed on another store than {config.probe_store} (fingerprint "
            f"{before[-1][:12]}, not {now[:12]}). Give the same --probe-store, or leave it out."
        )


def is_finished(config: PretrainConfig, identity: dict[str, Any]) -> bool:
    """Whether a resumed run has its report and all of its steps; logs it.

    identity: see identity_of. Raises WeightsError for a run with other options.
    """
    from evax.runs.checkpoint import all_done

    page = config.out / "report.html"
    if not (config.resume and page.with_suffix(".json").is_file()):
        return False
    if done := all_done(config.out / "checkpoints", identity):
        logger.info(
            "%s is finished: all of its %d steps are done. Page: %s", config.out, identity["steps"], page
        )
    return done


def identity_of(
    config: PretrainConfig,
    stores: list[ImageStore],
    images: int,
    tokenizer: dict[str, Any],
    weights: str | None,
) -> dict[str, Any]:
    """What a resumed run must share with the one that wrote the checkpoint. tokenizer: its identity.

    weights: digest of those it started from.
    """
    return {
        "encoder": config.encoder,
        "weights": weights,
        "tokenizer": tokenizer,
        "stores": [store.fingerprint for store in stores],
        "store_shares": list(config.store_shares),
        "steps": config.steps(images),
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


def precision_of_run(config: PretrainConfig) -> Precision:
    """The precision that was asked for; a resumed run keeps the one it began with."""
    from evax.runs.device import decided_precision

    started = read_events(config.out / "log.jsonl", "start") if config.resume else []
    return decided_precision(config.precision, earlier=started[-1]["precision"] if started else None)

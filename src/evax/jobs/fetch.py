"""evax fetch: get images to work with."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

from evax.config import job
from evax.data.phantom_release import write_phantoms
from evax.data.sources import PHANTOMS, public_set
from evax.data.sources.record import FETCH_RECORD, PublicSet
from evax.data.unpack import unpack
from evax.download import cache_folder, fetch_file
from evax.errors import ConfigError, DataError
from evax.files import make_folder, read_json, write_json
from evax.options.data import FetchConfig
from evax.runs.progress import progress_bar

FOLDER_VARIABLE = "EVAX_DATA"
MIRROR_VARIABLE = "EVAX_DATA_MIRROR"

logger = logging.getLogger("evax")


@job(FetchConfig)
def fetch(config: FetchConfig) -> Path | str:
    """Fills the folder and returns it; for a set that one has to ask for, the text that says how.

    Raises ConfigError when the folder already holds something else, DataError when an archive cannot be had
    or read.
    """
    if config.name == PHANTOMS and config.out:  # FetchConfig sees to it
        return draw_phantoms(config, config.out)
    chosen = public_set(config.name)
    if config.out is None or not chosen.archives:
        return instructions(chosen, config.out or Path("RAW"))
    return fetch_set(config.name, chosen, config.out)


def draw_phantoms(config: FetchConfig, out: Path) -> Path:
    """images/, labels.csv, boxes.csv and masks/ of synthetic images; what was interrupted is drawn anew."""
    record = out / FETCH_RECORD
    known = read_json(record) if record.is_file() else None
    begun = isinstance(known, dict) and known.get("name") == PHANTOMS and known.get("finished") is False
    if not begun and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"The folder {out} is not empty. Choose another --out or delete it.")
    if begun:
        for name in ("images", "masks"):
            shutil.rmtree(out / name, ignore_errors=True)  # they may hold images of another seed
    workers = config.workers or os.cpu_count() or 1
    with progress_bar("drawing phantoms", config.films) as advance:
        write_phantoms(out, config.films, config.seed, workers, lambda done, total: advance(""))
    logger.info("Next: evax prepare --source csv --raw %s --out STORE", out)
    return out


def fetch_set(name: str, chosen: PublicSet, out: Path) -> Path:
    """Archives -> the folder that `evax prepare` wants; an interrupted fetch goes on where it was."""
    record = out / FETCH_RECORD
    known = read_json(record) if record.is_file() else None
    if known is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} already holds something else. Choose another --out or delete it.")
    if known is not None and known["name"] != name:
        raise ConfigError(f"{out} holds {known['name']}. Choose another --out or delete it.")
    if known is None or not known["finished"]:
        folder, mirror = cache_folder(FOLDER_VARIABLE, "data"), os.environ.get(MIRROR_VARIABLE)
        contents: dict[str, int] = {}
        write_json({"name": name, "finished": False}, make_folder(out) / FETCH_RECORD)
        for remote in chosen.archives:
            if mirror:
                remote = replace(remote, url=f"{mirror.rstrip('/')}/{remote.file}")
            other = (
                f"set {MIRROR_VARIABLE} to another server, or get {remote.file} by hand ({chosen.page}) and "
                f"put it into {folder} ({FOLDER_VARIABLE} names another folder)"
            )
            as_it_is = (
                "to use this very file, unpack it and run "
                f"evax prepare --source {chosen.source} --raw FOLDER."
            )
            archive = fetch_file(remote, make_folder(folder), DataError, other, as_it_is)
            contents[remote.file] = unpack(archive, out, chosen.top, chosen.places)
            logger.info("%s: %d files.", remote.file, contents[remote.file])
        if chosen.complete:
            chosen.complete(out)
        write_json({"name": name, "finished": True, "page": chosen.page, "files": contents}, record)
    if chosen.ask:
        logger.info("By hand: %s (%s). The folder then holds %s", chosen.ask, chosen.page, chosen.layout)
    logger.info(
        "Terms: %s. Next: evax prepare --source %s --raw %s --out STORE", chosen.terms, chosen.source, out
    )
    return out


def instructions(chosen: PublicSet, raw: Path) -> str:
    """Where a set is, how to ask for it, and what to do then.

    raw: the folder it is meant for.
    """
    return "\n".join(
        (
            chosen.what,
            f"where:  {chosen.page}",
            f"how:    {chosen.ask}",
            f"terms:  {chosen.terms}",
            f"folder: {raw}/  {chosen.layout}",
            f"then:   evax prepare --source {chosen.source} --raw {raw} --out STORE --verify",
        )
    )

"""evax fetch: get films to work with."""

from __future__ import annotations

import csv
import io
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

from evax.config import job
from evax.data.phantom_release import write_phantoms
from evax.data.public_sets import PUBLIC_SETS, RECORD, PublicSet
from evax.data.unpack import unpack
from evax.download import cache_folder, fetch_file
from evax.errors import ConfigError, DataError
from evax.files import make_folder, open_csv, read_json, read_text, replaced_whole, write_json
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
    if config.out is None or not (config.name == "phantoms" or PUBLIC_SETS[config.name].archives):
        return instructions(PUBLIC_SETS[config.name], config.out or Path("RAW"))
    if config.name == "phantoms":
        return draw_phantoms(config, config.out)
    return fetch_set(config.name, config.out)


def draw_phantoms(config: FetchConfig, out: Path) -> Path:
    """images/, labels.csv, boxes.csv and masks/ of synthetic films; what was interrupted is drawn anew."""
    record = out / RECORD
    known = read_json(record) if record.is_file() else None
    begun = isinstance(known, dict) and known.get("name") == "phantoms" and known.get("finished") is False
    if not begun and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"The folder {out} is not empty. Choose another --out or delete it.")
    if begun:
        for name in ("images", "masks"):
            shutil.rmtree(out / name, ignore_errors=True)  # they may hold films of another seed
    workers = config.workers or os.cpu_count() or 1
    with progress_bar("drawing phantoms", config.films) as advance:
        write_phantoms(out, config.films, config.seed, workers, lambda done, total: advance(""))
    logger.info("Next: evax prepare --source csv --raw %s --out STORE", out)
    return out


def fetch_set(name: str, out: Path) -> Path:
    """Archives -> the folder that `evax prepare` wants; an interrupted fetch goes on where it was."""
    chosen = PUBLIC_SETS[name]
    record = out / RECORD
    known = read_json(record) if record.is_file() else None
    if known is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} already holds something else. Choose another --out or delete it.")
    if known is not None and known["name"] != name:
        raise ConfigError(f"{out} holds {known['name']}. Choose another --out or delete it.")
    if known is None or not known["finished"]:
        folder, mirror = cache_folder(FOLDER_VARIABLE, "data"), os.environ.get(MIRROR_VARIABLE)
        contents: dict[str, int] = {}
        write_json({"name": name, "finished": False}, make_folder(out) / RECORD)
        for remote in chosen.archives:
            if mirror:
                remote = replace(remote, url=f"{mirror.rstrip('/')}/{remote.file}")
            other = (
                f"set {MIRROR_VARIABLE} to another server, or get {remote.file} by hand ({chosen.page}) and "
                f"put it into {folder} ({FOLDER_VARIABLE} names another folder)"
            )
            as_it_is = f"to use this very file, unpack it and run evax prepare {chosen.prepare} --raw FOLDER."
            archive = fetch_file(remote, make_folder(folder), DataError, other, as_it_is)
            contents[remote.file] = unpack(archive, out, chosen.top, chosen.places)
            logger.info("%s: %d files.", remote.file, contents[remote.file])
        if name == "hannover_covid19":
            write_hannover_labels(out)
        write_json({"name": name, "finished": True, "page": chosen.page, "files": contents}, record)
    if chosen.ask:
        logger.info("By hand: %s (%s). The folder then holds %s", chosen.ask, chosen.page, chosen.layout)
    logger.info("Terms: %s. Next: evax prepare %s --raw %s --out STORE", chosen.terms, chosen.prepare, out)
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
            f"then:   evax prepare {chosen.prepare} --raw {raw} --out STORE --verify",
        )
    )


def write_hannover_labels(folder: Path) -> None:
    """labels.csv of the repository's data.csv: what `evax prepare` reads of it."""
    rows = list(csv.DictReader(io.StringIO(read_text(folder / "data.csv"))))
    columns = ("patient_id", "projection", "sex", "age")
    if not rows or (missing := [name for name in ("image_id", *columns) if name not in rows[0]]):
        raise DataError(f"{folder / 'data.csv'} lacks {', '.join(missing) if rows else 'rows'}.")
    with replaced_whole(folder / "labels.csv") as unfinished, open_csv(unfinished) as file:
        writer = csv.writer(file)
        writer.writerow(("image", "patient", "view", "sex", "age", "COVID-19"))
        for row in rows:
            writer.writerow((f"png/{row['image_id']}.png", *(row[name] for name in columns), 1))

"""evax zoo: published weights by name, and conversion to the layouts others read."""

from __future__ import annotations

import io
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich import box
from rich.console import Console
from rich.table import Table

from evax.boxed import boxed_names, located
from evax.config import job
from evax.deploy.bundle import Card, read_card, save_bundle
from evax.download import recorded
from evax.errors import ConfigError
from evax.files import make_folder
from evax.options.results import ZooConfig
from evax.weights.released import GROUPS, RELEASED
from evax.weights.resolve import fetch_published, released, weights_folder

if TYPE_CHECKING:
    from evax.models.classifier import Classifier
    from evax.models.encoders import Encoder

logger = logging.getLogger("evax")
PURPOSES = {"encoder": "features and fine-tuning", "classifier": "an example to try predict and export"}


@job(ZooConfig)
def zoo(config: ZooConfig) -> Path | str:
    """The table, or all about one file, as text for list; the path of what was fetched or written otherwise.

    Raises ConfigError for an unknown name or an --out that exists, WeightsError for a file that cannot be
    fetched, read or converted.
    """
    if config.action == "list":
        if config.source in boxed_names():
            return describe_boxed(config.source)
        return describe_released(config.source) if config.source else table_of_released()
    if config.action == "fetch" and config.source in boxed_names():
        return copy_boxed(config.source, config.out)
    if config.action == "fetch":
        return fetch_published(str(config.source), make_folder(config.out) if config.out else None)
    return convert(config)


def table_of_released() -> str:
    """One line per published file under its heading, with whether it is in the weights folder."""
    folder = weights_folder()
    table = Table(
        box=box.ASCII2,  # not every terminal has the other lines
        caption=f"fetch: what `evax zoo fetch NAME` does; here: in {folder}",
        caption_justify="left",
    )
    for column in ("name", "encoder", "size", "layout", "licence", "for", "fetch", "here"):
        to_copy = column in ("name", "encoder")
        table.add_column(
            column, justify="right" if column == "size" else "left", overflow="fold", no_wrap=to_copy
        )
    table.add_row("[bold]Comes with evax[/bold]")
    for name in boxed_names():
        card = read_card(Path(name))
        megabytes = sum(file.stat().st_size for file in located(Path(name)).iterdir()) / 1e6
        purpose = PURPOSES[card.kind]
        table.add_row(
            name, card.encoder, f"{megabytes:.1f} MB", "bundle", "see its card", purpose, "–", "yes"
        )
    table.add_section()
    for group in GROUPS:
        table.add_row(f"[bold]{group}[/bold]")
        for name, row in RELEASED.items():
            if row.group != group:
                continue
            size = f"{row.size / 1e6:.1f} MB" if row.size else "unknown"
            layout = row.layout if row.loadable or row.refused else f"{row.layout} (fetch only)"
            fetch = "automatic" if row.url else "refused" if row.refused else "by hand"
            here = "yes" if (folder / row.file).is_file() else "no"
            purpose = row.refused or row.purpose
            table.add_row(name, row.encoder, size, layout, row.licence, purpose, fetch, here)
        table.add_section()
    text = io.StringIO()
    Console(file=text, width=max(170, shutil.get_terminal_size().columns)).print(table)
    return text.getvalue().rstrip()


def describe_released(name: str) -> str:
    """All that is known of one published file, a line each, with its normalisation and checksum."""
    row, folder = released(name), weights_folder()
    fetched = recorded(folder).get(row.file, {})
    facts = asdict(row) | {
        "url": row.url, "folder": str(folder), "sha256_when_fetched": fetched.get("sha256")
    }  # fmt: skip
    return "\n".join(f"{key}: {value}" for key, value in facts.items() if value not in ("", None, ()))


def describe_boxed(name: str) -> str:
    """The card of a bundle that comes with evax, a line per entry."""
    card = read_card(Path(name))
    facts = {"folder": located(Path(name))} | asdict(card) | {"preprocess": card.preprocess.to_json()}
    return "\n".join(f"{key}: {value}" for key, value in facts.items() if value not in ("", None, (), {}))


def copy_boxed(name: str, out: Path | None) -> Path:
    """A copy of a bundle that comes with evax, for `evax export`; its own folder without OUT."""
    if out is None:
        return located(Path(name))
    return Path(shutil.copytree(located(Path(name)), make_folder(out) / name, dirs_exist_ok=True))


def convert(config: ZooConfig) -> Path:
    """Reads the source as a card and a network, and writes them in the requested form."""
    assert config.out is not None  # checked by the config
    if config.out.is_file() or (config.out.is_dir() and any(config.out.iterdir())):
        raise ConfigError(f"{config.out} exists. Choose another --out or delete it.")
    from evax.weights.share import save_official, save_timm

    card, network = read_source(config)
    if config.to == "bundle":
        return save_bundle(config.out, card, network)
    if config.to == "official":
        return save_official(config.out, network)
    chain, notes = card.preprocess, (card.licence, card.intended_use)
    share = chain.input_size / chain.resize_size if chain.resize_size else None
    return save_timm(config.out, card.encoder, network, card.findings, chain.mean, chain.std, share, notes)


def read_source(config: ZooConfig) -> tuple[Card, Encoder | Classifier]:
    """A bundle as it is; a published file by its name, its official file name, or --like."""
    from evax.deploy.published import describe_published, find_published
    from evax.deploy.torch_runtime import open_torch

    path = located(Path(str(config.source)))
    if path.is_dir():
        if config.to == "bundle" or config.like or config.full_precision:
            raise ConfigError(
                f"{path} is a bundle: it goes to official, timm or transformers as it is, without like or "
                "full_precision."
            )
        card = read_card(path)
        if card.kind == "segmenter":
            raise ConfigError(
                f"{path} holds a segmenter, for which neither timm nor the authors have a form."
            )
        return card, cast("Encoder | Classifier", open_torch(path, card).network)
    file = find_published(str(config.source), config.like)
    card, network = file.card(config.full_precision), file.network(config.full_precision)
    logger.info("%s", describe_published(card))
    return card, network

"""evax embed: an encoder + films or a store -> a Parquet table of features."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evax.config import job
from evax.errors import ConfigError, DataError
from evax.options.results import EmbedConfig, Tokens
from evax.options.training import Precision

if TYPE_CHECKING:
    import numpy as np
    from lightning_fabric import Fabric

    from evax.data.preprocess import Preprocess
    from evax.data.store import ImageStore
    from evax.models.encoders import Encoded, Encoder

logger = logging.getLogger("evax")
PLAN = "plan.json"
PART_FILMS, PART_NUMBERS = 512, 2**24  # kept in memory at a time; what an interruption costs at most


@job(EmbedConfig)
def embed(config: EmbedConfig) -> Path:
    """Writes the table, one row per film in order, and returns its path.

    Raises DataError when the table exists, no film is found or could be read, or the unfinished table beside
    OUT is of other films, weights or options.
    """
    from evax.files import name_of, path_of, refuse_existing

    refuse_existing(config.out)
    from evax.data.films import batches_of, count_films, find_films
    from evax.data.store import open_store
    from evax.runs.device import decided_precision, start_fabric
    from evax.runs.progress import progress_bar

    store = open_store(config.films[0]) if (config.films[0] / "store.json").is_file() else None
    if store is not None and len(config.films) > 1:
        raise ConfigError("Give one store, or films and folders; not both.")
    total = count_films(config.films) if store is None else len(store)
    encoder, chain = encoder_of(config, store)
    parts = config.out.with_name(f"{config.out.name}.parts")
    fabric = start_fabric(decided_precision(config.precision, earlier=precision_of_parts(parts)))
    encoder = fabric.to_device(encoder).eval()

    def names() -> Iterable[str]:
        return map(name_of, find_films(config.films)) if store is None else store.manifest.table["image"]

    marks = (
        [store.fingerprint]
        if store is not None
        else (f"{name} {mark_of(Path(path_of(name)))}" for name in names())
    )
    layout = layout_of(config, encoder, chain, fabric)
    part_films = max(1, min(PART_FILMS, PART_NUMBERS // layout["length"]))
    start_parts(parts, plan_of(config, chain, fabric, part_films, marks))
    with progress_bar("embedding", total) as advance:
        load = reader_of(store, chain)
        for number, films in enumerate(batches_of(enumerate(names()), part_films)):
            path = parts / f"part-{number:07d}.parquet"
            if not path.is_file():
                write_part(path, films, load, encoder, chain, config, fabric)
            for _ in films:
                advance("")
    joined(sorted(parts.glob("part-*.parquet")), config.out, layout)
    shutil.rmtree(parts)
    return config.out


def encoder_of(config: EmbedConfig, store: ImageStore | None) -> tuple[Encoder, Preprocess]:
    """The encoder with its weights, and the chain of its films."""
    from evax.deploy.bundle import read_card, starting_preprocess
    from evax.models.encoders import CNNS
    from evax.weights.encoders import create_encoder

    card = None if config.bundle is None else read_card(config.bundle)
    name, weights = encoder_and_weights(config)
    size = config.image_size or (card.preprocess.input_size if card else 224)
    if config.tokens == "cls" and name in CNNS:
        raise ConfigError(f"{name} has no class token: choose --tokens mean or patches.")
    chain = starting_preprocess(name, weights, store, size)
    return create_encoder(name, weights, img_size=size), chain


def encoder_and_weights(config: EmbedConfig) -> tuple[str, Path | None]:
    """Returns the encoder's name and where its weights lie."""
    from evax.deploy.bundle import read_card

    name = str(config.encoder) if config.bundle is None else read_card(config.bundle).encoder
    return name, config.bundle or config.weights


def layout_of(config: EmbedConfig, encoder: Encoder, chain: Preprocess, fabric: Fabric) -> dict[str, Any]:
    """What the numbers of a feature are: which tokens, how many of what width in which grid; found on a black
    film.
    """
    import numpy as np
    import torch

    from evax.adaptation.features import encode_images

    with torch.inference_mode():
        encoded = encode_images(encoder, np.zeros((1, 1, *[chain.input_size] * 2), np.uint8), chain, fabric)
        length = feature_of(encoded, config.tokens).shape[1]
    width, grid = encoded.patches.shape[2], list(encoded.grid)
    return {"tokens": config.tokens, "length": length, "width": width, "grid": grid, "chain": chain.to_json()}


def reader_of(
    store: ImageStore | None, chain: Preprocess
) -> Callable[[int, str], np.ndarray[Any, Any] | str]:
    """A function of a film's row and name: its 8-bit pixels at the network's input size, or why not."""
    from evax.data.films import read_or_reason
    from evax.files import path_of

    def load(row: int, name: str) -> np.ndarray[Any, Any] | str:
        if store is not None:
            return chain.view(store.pixels(row))
        film = read_or_reason(Path(path_of(name)), chain.bits)
        return film if isinstance(film, str) else chain.view(chain.to_store(film.pixels))

    return load


def mark_of(file: Path) -> str:
    """Changes when the file is written again."""
    about = file.stat()
    return f"{about.st_size} {about.st_mtime_ns}"


def plan_of(
    config: EmbedConfig, chain: Preprocess, fabric: Fabric, part_films: int, marks: Iterable[str]
) -> dict[str, Any]:
    """Returns what all parts of a table must share. marks: what tells the films from others."""
    import hashlib

    from evax.runs.device import precision_of
    from evax.weights.start import digest_of_weights

    digest = hashlib.blake2b(digest_size=16)
    for mark in marks:
        digest.update(f"{mark}\n".encode())
    name, weights = encoder_and_weights(config)
    return {
        "films": digest.hexdigest(),
        "encoder": name,
        "weights": digest_of_weights(name, weights),
        "precision": precision_of(fabric),
        "tokens": config.tokens,
        "part_films": part_films,
        "chain": chain.to_json(),
    }


def start_parts(parts: Path, plan: dict[str, Any]) -> None:
    """Makes the folder of finished parts, or goes on with one of the same plan. Raises DataError."""
    from evax.files import read_json, write_json

    before = read_json(parts / PLAN) if (parts / PLAN).is_file() else plan
    if other := [name for name in plan if before.get(name) != plan[name]]:
        raise DataError(
            f"{parts} was begun with other films, weights or options: delete it to start anew. Different: "
            f"{', '.join(other)}."
        )
    write_json(plan, parts / PLAN)


def precision_of_parts(parts: Path) -> Precision | None:
    """Returns what the finished parts were computed in; None without any."""
    from evax.files import read_json

    plan = read_json(parts / PLAN) if (parts / PLAN).is_file() else {}
    precision: Precision | None = plan.get("precision")
    return precision


def write_part(
    path: Path,
    films: list[tuple[int, str]],
    load: Callable[[int, str], np.ndarray[Any, Any] | str],
    encoder: Encoder,
    chain: Preprocess,
    config: EmbedConfig,
    fabric: Fabric,
) -> None:
    """Features of some films, whole or not at all. films: (row, name)."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from evax.adaptation.features import encode_images
    from evax.data.films import batches_of
    from evax.files import replaced_whole

    features: list[Any] = []
    errors: list[str] = []
    for batch in batches_of(films, config.batch_size):
        loaded = [load(row, name) for row, name in batch]
        readable = [film for film in loaded if not isinstance(film, str)]
        answers: Any = iter(())
        if readable:
            with torch.inference_mode():
                encoded = encode_images(encoder, np.stack(readable)[:, None], chain, fabric)
                answers = iter(feature_of(encoded, config.tokens))
        features += [None if isinstance(film, str) else next(answers) for film in loaded]
        errors += [film if isinstance(film, str) else "" for film in loaded]
    table = pa.table(
        {
            "film": pa.array([name for _, name in films], pa.string()),
            "feature": pa.array(features, pa.list_(pa.float32())),
            "error": pa.array(errors, pa.string()),
        }
    )
    with replaced_whole(path) as unfinished, unfinished.open("wb") as file:
        pq.write_table(table, file)


def feature_of(encoded: Encoded, tokens: Tokens) -> np.ndarray[Any, Any]:
    """(B, D) for mean and cls, (B, N * D) for patches, float32."""
    patches = encoded.patches.float()
    choices = {"mean": patches.mean(dim=1), "cls": encoded.cls, "patches": patches.flatten(1)}
    return choices[tokens].float().cpu().numpy()  # type: ignore[union-attr]  # encoder_of refuses cls of a CNN


def joined(parts: list[Path], out: Path, layout: dict[str, Any]) -> None:
    """All parts in one file, one after the other, with the layout among its metadata."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from evax.files import replaced_whole

    films, read, first_reason = 0, 0, ""
    schema = pq.read_schema(pa.memory_map(os.fsencode(parts[0]))).with_metadata({"evax": json.dumps(layout)})
    with (
        replaced_whole(out) as unfinished,
        unfinished.open("wb") as file,
        pq.ParquetWriter(file, schema) as writer,
    ):
        for part in parts:
            table = pq.read_table(pa.memory_map(os.fsencode(part)))
            films, read = films + len(table), read + len(table) - table["feature"].null_count
            first_reason = first_reason or next(filter(None, table["error"].to_pylist()), "")
            writer.write_table(table)
        if not read:
            shutil.rmtree(parts[0].parent)  # the same command starts anew when the films are mended
            raise DataError(f"None of the films could be read; the first reason: {first_reason}")
    if read < films:
        logger.warning(
            "%d of %d films could not be read: the column error of %s says why.", films - read, films, out
        )

"""A table of features: an encoder and images -> parts that survive a kill -> one Parquet file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, UInt8
from lightning_fabric import Fabric

from evax.adaptation.features import encode_images
from evax.data.films import count_images, find_images, in_batches, read_or_reason
from evax.data.preprocess import Preprocess
from evax.data.store import ImageStore, open_store
from evax.deploy.bundle import read_card, starting_preprocess
from evax.errors import ConfigError, DataError
from evax.files import name_of, path_of, read_json, replaced_whole, write_json
from evax.models.encoders import CNNS, Encoder
from evax.options.results import EmbedConfig, Tokens
from evax.options.training import Precision
from evax.runs.device import decided_precision, precision_of, start_fabric
from evax.weights.encoders import EncoderWeights
from evax.weights.resolve import describe_weights

logger = logging.getLogger("evax")
PLAN = "plan.json"


@dataclass(frozen=True, eq=False)
class ImageSource:
    """The images of one store, or of files and folders."""

    paths: tuple[Path, ...]
    store: ImageStore | None

    def __len__(self) -> int:
        return count_images(self.paths) if self.store is None else len(self.store)

    def names(self) -> Iterable[str]:
        """In their order; of a file its path."""
        if self.store is not None:
            return self.store.manifest.table["image"]
        return map(name_of, find_images(self.paths))

    def digest(self) -> str:
        """Changes with the store, or when a file is added, removed or written again."""
        digest = hashlib.blake2b(digest_size=16)
        if self.store is not None:
            digest.update(f"{self.store.fingerprint}\n".encode())
        else:
            for path in find_images(self.paths):
                about = path.stat()
                digest.update(f"{name_of(path)} {about.st_size} {about.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def load(self, row: int, name: str, chain: Preprocess) -> UInt8[np.ndarray, "H W"] | str:
        """The 8-bit pixels at the network's input size, or why the image cannot be read."""
        if self.store is not None:
            return chain.view(self.store.pixels(row))
        image = read_or_reason(Path(path_of(name)), chain.bits)
        return image if isinstance(image, str) else chain.view(chain.to_store(image.pixels))


@dataclass(frozen=True, eq=False)
class FrozenEncoder:
    """An encoder on its device, with what decides the numbers of a feature."""

    name: str
    digest: str | None
    """Of its weights; None for random ones."""
    network: Encoder
    chain: Preprocess
    tokens: Tokens
    fabric: Fabric

    @torch.inference_mode()
    def features(self, images: UInt8[np.ndarray, "B 1 H W"]) -> Float[np.ndarray, "B L"]:
        """L is D for mean and cls, N * D for patches; float32."""
        encoded = encode_images(self.network, images, self.chain, self.fabric)
        patches = encoded.patches.float()
        choices = {"mean": patches.mean(dim=1), "cls": encoded.cls, "patches": patches.flatten(1)}
        chosen = choices[self.tokens]
        assert chosen is not None  # load_frozen refuses cls of a CNN
        return chosen.float().cpu().numpy()

    @torch.inference_mode()
    def layout(self) -> dict[str, Any]:
        """What the numbers of a feature are: tokens, length, width and grid; measured on a black image."""
        black = np.zeros((1, 1, *[self.chain.input_size] * 2), np.uint8)
        encoded = encode_images(self.network, black, self.chain, self.fabric)
        count, width = encoded.patches.shape[1:]
        length = count * width if self.tokens == "patches" else width
        return {
            "tokens": self.tokens, "length": length, "width": width, "grid": list(encoded.grid),
            "chain": self.chain.to_json(),
        }  # fmt: skip


def open_images(paths: tuple[Path, ...]) -> ImageSource:
    """paths: one store, or files and folders. Raises ConfigError for a store among others."""
    store = open_store(paths[0]) if (paths[0] / "store.json").is_file() else None
    if store is not None and len(paths) > 1:
        raise ConfigError("Give one store, or images and folders; not both.")
    return ImageSource(paths, store)


def load_frozen(config: EmbedConfig, store: ImageStore | None, precision: Precision | None) -> FrozenEncoder:
    """The encoder with its weights, and the preprocessing of its images.

    precision: of the finished parts. Raises ConfigError for the class token of a CNN.
    """
    card = None if config.bundle is None else read_card(config.bundle)
    name = str(config.encoder) if card is None else card.encoder
    weights = config.bundle or config.weights
    size = config.image_size or (card.preprocess.input_size if card else 224)
    if config.tokens == "cls" and name in CNNS:
        raise ConfigError(f"{name} has no class token: choose --tokens mean or patches.")
    chain = starting_preprocess(name, weights, store, size)
    logger.info("Encoder: %s, %s.", name, describe_weights(name, weights))
    own = EncoderWeights(name, weights)
    digest, network = own.digest(), own.build(img_size=size)
    fabric = start_fabric(decided_precision(config.precision, earlier=precision))
    return FrozenEncoder(
        name, digest, fabric.to_device(network).eval(), chain, config.tokens, fabric
    )  # fmt: skip


@dataclass(frozen=True)
class FeatureParts:
    """A folder of finished parts next to the table; an interrupted run resumes after them."""

    out: Path
    """The table."""

    @property
    def folder(self) -> Path:
        """Of the parts."""
        return self.out.with_name(f"{self.out.name}.parts")

    def part(self, number: int) -> Path:
        """The file of a part; there once it is finished."""
        return self.folder / f"part-{number:07d}.parquet"

    def plan(self) -> dict[str, Any]:
        """What the finished parts share; empty without any."""
        path = self.folder / PLAN
        return read_json(path) if path.is_file() else {}

    def start(self, encoder: FrozenEncoder, images: ImageSource, part_images: int) -> None:
        """Makes the folder. Raises DataError when its parts are of other images, weights or options."""
        plan = {
            "films": images.digest(),
            "encoder": encoder.name,
            "weights": encoder.digest,
            "precision": precision_of(encoder.fabric),
            "tokens": encoder.tokens,
            "part_films": part_images,
            "chain": encoder.chain.to_json(),
        }
        before = self.plan() or plan
        if other := [name for name in plan if before.get(name) != plan[name]]:
            raise DataError(
                f"{self.folder} was begun with other images, weights or options: delete it to start anew. "
                f"Different: {', '.join(other)}."
            )
        write_json(plan, self.folder / PLAN)

    def write(
        self,
        path: Path,
        rows: list[tuple[int, str]],
        images: ImageSource,
        encoder: FrozenEncoder,
        batch_size: int,
    ) -> None:
        """Features of some images as one file, whole or not at all.

        path: see part. rows: (row, name) of each.
        """
        features: list[Any] = []
        errors: list[str] = []
        for batch in in_batches(rows, batch_size):
            loaded = [images.load(row, name, encoder.chain) for row, name in batch]
            readable = [image for image in loaded if not isinstance(image, str)]
            answers = iter(encoder.features(np.stack(readable)[:, None])) if readable else iter(())
            features += [None if isinstance(image, str) else next(answers) for image in loaded]
            errors += [image if isinstance(image, str) else "" for image in loaded]
        table = pa.table(
            {
                "film": pa.array([name for _, name in rows], pa.string()),
                "feature": pa.array(features, pa.list_(pa.float32())),
                "error": pa.array(errors, pa.string()),
            }
        )
        with replaced_whole(path) as unfinished, unfinished.open("wb") as file:
            pq.write_table(table, file)

    def join(self, layout: dict[str, Any]) -> None:
        """Writes the table from all parts, with the layout in its metadata, and deletes the parts.

        Raises DataError when no image could be read.
        """
        parts = sorted(self.folder.glob("part-*.parquet"))
        count, read, first_reason = 0, 0, ""
        schema = pq.read_schema(pa.memory_map(os.fsencode(parts[0])))
        schema = schema.with_metadata({"evax": json.dumps(layout)})
        with (
            replaced_whole(self.out) as unfinished,
            unfinished.open("wb") as file,
            pq.ParquetWriter(file, schema) as writer,
        ):
            for part in parts:
                table = pq.read_table(pa.memory_map(os.fsencode(part)))
                count, read = count + len(table), read + len(table) - table["feature"].null_count
                first_reason = first_reason or next(filter(None, table["error"].to_pylist()), "")
                writer.write_table(table)
            if not read:
                shutil.rmtree(self.folder)  # the same command starts anew when the files are mended
                raise DataError(f"None of the images could be read; the first reason: {first_reason}")
        if read < count:
            logger.warning(
                "%d of %d images could not be read: the column error of %s says why.",
                count - read, count, self.out,
            )  # fmt: skip
        shutil.rmtree(self.folder)

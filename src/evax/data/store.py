"""ImageStore: resized 8-bit films and their table in memory-mapped Arrow shards."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64, UInt8, UInt64

from evax.data.manifest import (
    BOX_COLUMNS,
    COLUMNS,
    NOTES,
    OPTIONAL,
    Manifest,
    no_boxes,
)
from evax.data.masks import unpack
from evax.errors import DataError
from evax.files import checked_path, name_of, read_json

logger = logging.getLogger("evax")

PLAIN, MASKED = 1, 2  # format of a store: without and with a column of masks


class ImageStore:
    """A folder of films, ready for training; opens in milliseconds whatever its size."""

    def __init__(self, path: Path, card: dict[str, Any], manifest: Manifest, shards: list[pa.Table]) -> None:
        self.path, self.card, self.manifest = path, card, manifest
        self.size = int(card["size"])
        self.mean, self.std = float(card["mean"]), float(card["std"])
        self.fingerprint = str(card["fingerprint"])
        self.bits: int | None = card.get("bits")
        """Depth at which pictures of more than 8 bits were read; None where there were none, or where an
        earlier evax read each by its own largest value.
        """
        self._pixels = [_mapped(shard.column("pixels").chunk(0), self.size) for shard in shards]
        self._starts = np.cumsum([0, *(len(films) for films in self._pixels)])
        self._masks = [shard.column("masks").chunk(0) for shard in shards] if card["format"] == MASKED else []

    def __len__(self) -> int:
        return int(self._starts[-1])

    def pixels(self, index: int | np.integer) -> UInt8[np.ndarray, "S S"]:
        """The stored film: a read-only view of the file, nothing is copied."""
        shard, row = self._place(index)
        film: UInt8[np.ndarray, "S S"] = self._pixels[shard][row]
        return film

    def digests(self, rows: Int64[np.ndarray, " rows"]) -> UInt64[np.ndarray, " rows"]:
        """A number per film that tells whether another store holds the very same pixels."""
        parts = [hashlib.blake2b(self.pixels(int(row)).data, digest_size=8).digest() for row in rows]
        return np.frombuffer(b"".join(parts), dtype="<u8")

    def masks(self, index: int | np.integer) -> dict[str, Bool[np.ndarray, "S S"]]:
        """Finding -> mask of the stored film; empty where the film has none.

        A mask is all False where the finding was too small for the store's size.
        """
        if not self._masks:
            return {}
        shard, row = self._place(index)
        return {mask["finding"]: unpack(mask["bits"], self.size) for mask in self._masks[shard][row].as_py()}

    def mask_findings(self) -> tuple[str, ...]:
        """What the masks of this store show, in alphabetical order; empty for a store without masks."""
        named = [pc.unique(films.flatten().field("finding")).to_pylist() for films in self._masks]
        return tuple(sorted({name for names in named for name in names}))

    def masked_rows(self, finding: str) -> Int64[np.ndarray, " rows"]:
        """Indices of the films that have a mask of this finding, in order."""
        rows: list[int] = []
        for start, films in zip(self._starts, self._masks, strict=False):
            of_finding = pc.equal(films.flatten().field("finding"), finding)
            rows += (start + pc.list_parent_indices(films).filter(of_finding).to_numpy()).tolist()
        return np.array(rows, dtype=np.int64)

    def _place(self, index: int | np.integer) -> tuple[int, int]:
        """Shard, and row within it."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, int(index - self._starts[shard])

    def rows(self, *splits: str) -> Int64[np.ndarray, " rows"]:
        """Indices of the films of these splits, in order."""
        return np.flatnonzero(self.manifest.table["split"].isin(splits).to_numpy())


def _mapped(column: pa.LargeBinaryArray, size: int) -> UInt8[np.ndarray, "films S S"]:
    """The films of a shard as one view of its file; taken one by one as Arrow's scalars they are copied."""
    _, _, pixels = column.buffers()
    return np.frombuffer(pixels, dtype=np.uint8, count=len(column) * size**2).reshape(-1, size, size)


def open_store(path: str | os.PathLike[str]) -> ImageStore:
    """A finished store. Raises DataError for anything else, with the next step."""
    folder = checked_path(path, "A store is given by")
    if not folder.is_dir():
        raise DataError(
            f"There is no store at {folder}. Make one with: evax prepare --raw FOLDER --out {folder}"
        )
    if not (folder / "store.json").is_file():
        if any(folder.glob("shard-*.arrow")) or (folder / "plan.json").is_file():
            raise DataError(f"The store {folder} is unfinished: run the same evax prepare again, it goes on.")
        raise DataError(f"{folder} is not a store: it has no store.json.")
    card = read_json(folder / "store.json")
    if card.get("format") not in (PLAIN, MASKED):
        raise DataError(
            f"{folder} has store format {card.get('format')}, this evax reads {PLAIN} and {MASKED}: "
            "prepare it again."
        )
    shards = []
    for name in card["shards"]:
        if not (folder / name).is_file():
            raise DataError(f"The store {folder} lacks {name}: copy it again or prepare it anew.")
        try:
            shards.append(pa.ipc.open_file(pa.memory_map(os.fsencode(folder / name))).read_all())
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{folder / name} is damaged ({error}): copy the store again or prepare it anew."
            ) from error
    # a store of an earlier evax has no notes
    further = [name for name in (*OPTIONAL, *NOTES) if all(name in shard.column_names for shard in shards)]
    columns = [*COLUMNS, *further, *card["findings"]]
    table = pa.concat_tables([shard.select(columns) for shard in shards]).to_pandas().reset_index(drop=True)
    boxes = [
        {"image": image, **box}
        for shard in shards
        for image, found in zip(shard["image"].to_pylist(), shard["boxes"].to_pylist(), strict=True)
        for box in found
    ]
    manifest = Manifest(
        table=table,
        findings=tuple(card["findings"]),
        exclusive=bool(card["exclusive"]),
        source=str(card["source"]),
        root=folder,
        boxes=pd.DataFrame(boxes, columns=list(BOX_COLUMNS)) if boxes else no_boxes(),
    )
    return ImageStore(folder, card, manifest, shards)


def short_names(paths: Sequence[Path]) -> list[str]:
    """What to call stores beside each other: their folders' names, whole paths where two are the same."""
    names = [name_of(path.resolve().name) for path in paths]
    return [
        name if names.count(name) == 1 else name_of(path) for name, path in zip(names, paths, strict=True)
    ]

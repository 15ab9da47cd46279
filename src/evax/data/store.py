"""ImageStore: resized 8-bit images and their table in memory-mapped Arrow shards."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import operator
import os
import re
from collections.abc import Callable, Sequence
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
    IN_STORE,
    ISSUES,
    NOTES,
    OF_FILM,
    OPTIONAL,
    Manifest,
    no_boxes,
)
from evax.data.masks import unpack_mask
from evax.data.sources import is_release
from evax.errors import DataError, unknown_name
from evax.files import checked_path, name_of, read_json

logger = logging.getLogger("evax")

PLAIN, MASKED = 1, 2  # format of a store: without and with a column of masks
PICTURES = ("pixels", "masks")  # columns that are not read when a store is opened
BOX_TYPE = pa.list_(
    pa.struct([("finding", pa.string()), *((name, pa.float64()) for name in BOX_COLUMNS[2:])])
)
MASK_TYPE = pa.list_(pa.struct([("finding", pa.string()), ("bits", pa.large_binary())]))
LARGEST_SIDE = 65_535
MEND = "Copy the store again or prepare it anew."

IN_CARD: dict[str, Callable[[Any], bool]] = {  # what a card must hold
    "size": lambda size: _is_count(size) and 0 < size <= LARGEST_SIDE,
    "films": lambda films: _is_count(films) and films > 0,
    "rejected": lambda rejected: _is_count(rejected),
    "mean": lambda mean: _is_number(mean) and 0 <= mean <= 1,
    "std": lambda std: _is_number(std) and 0 <= std <= 1,
    "exclusive": lambda exclusive: isinstance(exclusive, bool),
    "findings": lambda names: _are_texts(names) and not set(names) & set(IN_STORE),
    "shards": lambda names: (
        _are_texts(names) and all(re.fullmatch(r"shard-\d+\.arrow", name) for name in names)
    ),
    **dict.fromkeys(("source", "split", "fingerprint"), lambda text: isinstance(text, str)),
}
MAY_BE_IN_CARD: dict[str, Callable[[Any], bool]] = {  # and what a card of an earlier evax lacks
    "namespace": lambda text: isinstance(text, str),
    "statistics_of": lambda of: of in ("train", "all"),
    "bits": lambda bits: bits is None or (_is_count(bits) and 8 <= bits <= 16),
    **dict.fromkeys(("table_digests", "picture_digests"), lambda digests: isinstance(digests, list)),
    **dict.fromkeys(
        ("issues", "masks", "left_out"),
        lambda counts: isinstance(counts, dict) and all(map(_is_count, counts.values())),
    ),
}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_texts(names: Any) -> bool:
    """Different ones."""
    return (
        isinstance(names, list) and all(isinstance(n, str) for n in names) and len(set(names)) == len(names)
    )


class ImageStore:
    """A folder of images, ready for training; opens in milliseconds whatever its size."""

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

    @property
    def measured(self) -> int:
        """How many images `mean` and `std` are of: those of the train split, or all where there is none."""
        return len(self.rows("train")) if self.card.get("statistics_of") == "train" else len(self)

    def check_pictures(self) -> None:
        """Raises DataError where pixels or masks are not those that were prepared. Reads the whole store; a
        store of an earlier evax has no digests to compare with.
        """
        for name, known in zip(self.card["shards"], self.card.get("picture_digests", []), strict=False):
            shard = read_shard(self.path / name)
            if (
                columns_digest(shard.select([column for column in PICTURES if column in shard.column_names]))
                != known
            ):
                raise DataError(f"The pictures in {self.path / name} are not those of store.json. {MEND}")

    def pixels(self, index: int | np.integer) -> UInt8[np.ndarray, "S S"]:
        """The stored film: a read-only view of the file, nothing is copied."""
        shard, row = self._place(index)
        film: UInt8[np.ndarray, "S S"] = self._pixels[shard][row]
        return film

    def digests(self, rows: Int64[np.ndarray, " rows"]) -> UInt64[np.ndarray, " rows"]:
        """A number per image that tells whether another store holds the very same pixels."""
        parts = [hashlib.blake2b(self.pixels(int(row)).data, digest_size=8).digest() for row in rows]
        return np.frombuffer(b"".join(parts), dtype="<u8")

    def people(self, rows: Int64[np.ndarray, " rows"]) -> UInt64[np.ndarray, " rows"]:
        """A number per image for its patient, also at another size; equal numbers are one person.

        0 where nothing tells whether a name means the same person in another store (see Manifest.namespace).
        """
        names = self.manifest.table["patient"].to_numpy(dtype=str)[rows]
        numbers = {name: self._person(name) for name in set(names.tolist())}
        return np.array([numbers[name] for name in names.tolist()], dtype=np.uint64)

    def namespace_mark(self) -> np.uint64:
        """A number for all stores whose names of patients can be compared with this one's; 0 for none."""
        return self._person("")

    def _person(self, name: str) -> np.uint64:
        namespace = self.manifest.namespace
        if not namespace:
            return np.uint64(0)
        # the merged corpus writes its patients as RELEASE/PATIENT
        full = name if namespace == "merged_520k" and name else f"{namespace}/{name}"
        digest = hashlib.blake2b(full.encode(errors="surrogatepass"), digest_size=8).digest()
        return np.frombuffer(digest, dtype="<u8")[0]

    def masks(self, index: int | np.integer) -> dict[str, Bool[np.ndarray, "S S"]]:
        """Finding -> mask of the stored image; empty where the image has none.

        A mask is all False where the finding was too small for the store's size.
        """
        shard, row = self._place(index)
        if not self._masks:
            return {}
        return {
            mask["finding"]: unpack_mask(mask["bits"], self.size) for mask in self._masks[shard][row].as_py()
        }

    def mask_findings(self) -> tuple[str, ...]:
        """What the masks of this store show, in alphabetical order; empty for a store without masks."""
        named = [pc.unique(films.flatten().field("finding")).to_pylist() for films in self._masks]
        return tuple(sorted({name for names in named for name in names}))

    def masked_rows(self, finding: str) -> Int64[np.ndarray, " rows"]:
        """Indices of the images that have a mask of this finding, in order.

        Raises ConfigError for a name that is no finding of the store's table, boxes or masks.
        """
        rows: list[int] = []
        for start, films in zip(self._starts, self._masks, strict=False):
            of_finding = pc.equal(films.flatten().field("finding"), finding)
            rows += (start + pc.list_parent_indices(films).filter(of_finding).to_numpy()).tolist()
        if not rows:
            known = {*self.mask_findings(), *self.manifest.findings, *self.manifest.boxes["finding"]}
            if known and finding not in known:
                raise unknown_name(f"finding of {self.path}", finding, known)
        return np.array(rows, dtype=np.int64)

    def _place(self, index: int | np.integer) -> tuple[int, int]:
        """Shard, and row within it. TypeError for what is no whole number, IndexError out of the store."""
        try:
            index = operator.index(index)
        except TypeError as error:
            raise TypeError(
                f"An image of {self.path} is given by its number, a whole one, not by {type(index).__name__}."
            ) from error
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has the images 0 to {len(self) - 1}, and no image {index}.")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, int(index - self._starts[shard])

    def rows(self, *splits: str) -> Int64[np.ndarray, " rows"]:
        """Indices of the images of these splits, in order."""
        return np.flatnonzero(self.manifest.table["split"].isin(splits).to_numpy())


def _mapped(column: pa.LargeBinaryArray, size: int) -> UInt8[np.ndarray, "images S S"]:
    """The images of a shard as one view of its file; taken one by one as Arrow's scalars they are copied."""
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
    card = _read_card(folder / "store.json")
    shards = []
    digests = card.get("table_digests", [None] * len(card["shards"]))
    if len(digests) != len(card["shards"]):
        raise DataError(
            f"{folder / 'store.json'} is damaged: it has {len(digests)} table_digests for "
            f"{len(card['shards'])} shards. {MEND}"
        )
    for name, known in zip(card["shards"], digests, strict=True):
        if not (folder / name).is_file():
            raise DataError(f"The store {folder} lacks {name}: copy it again or prepare it anew.")
        shards.append(read_shard(folder / name))
        _check_shard(folder / name, shards[-1], card, known)
    if (films := sum(map(len, shards))) != card["films"]:
        raise DataError(f"{folder} has {films} images, its store.json says {card['films']}. {MEND}")
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
        namespace=str(card.get("namespace", card["source"] if is_release(card["source"]) else "")),
        boxes=pd.DataFrame(boxes, columns=list(BOX_COLUMNS)) if boxes else no_boxes(),
    )
    return ImageStore(folder, card, manifest, shards)


def _read_card(path: Path) -> dict[str, Any]:
    """A store's card. Raises DataError naming the entry that is missing or wrong."""
    card = read_json(path)
    if not isinstance(card, dict):
        raise DataError(f"{path} is not the card of a store. {MEND}")
    if card.get("format") not in (PLAIN, MASKED):
        raise DataError(
            f"{path.parent} has store format {card.get('format')}, this evax reads {PLAIN} and {MASKED}: "
            "prepare it again."
        )
    for name, is_right in (IN_CARD | MAY_BE_IN_CARD).items():
        if name in card and not is_right(card[name]):
            raise DataError(f"{path} is damaged: {name} is {json.dumps(card[name])[:60]}. {MEND}")
        if name not in card and name in IN_CARD:
            raise DataError(f"{path} is damaged: it lacks {name}. {MEND}")
    return card


def read_shard(path: Path) -> pa.Table:
    """A file of images and their table, mapped into memory. Raises DataError for a damaged one."""
    try:
        shard = pa.ipc.open_file(pa.memory_map(os.fsencode(path))).read_all()
        shard.validate(full=True)  # offsets that lead out of the file would end the process
    except Exception as error:  # pyarrow's own, and of damaged names and sizes almost any other
        raise DataError(f"{path} is damaged ({error}): copy the store again or prepare it anew.") from error
    return shard


def _check_shard(path: Path, shard: pa.Table, card: dict[str, Any], known: str | None) -> None:
    """Raises DataError for a shard that is not what the card says, without reading its pictures.

    known: the digest of its table; None in a store of an earlier evax.
    """
    size, names = card["size"], shard.column_names
    kinds = {name: pa.types.is_floating for name in ("age", *card["findings"])}
    kinds |= {name: pa.types.is_string for name in COLUMNS if name != "age"}
    kinds |= {name: pa.types.is_floating for name in (*OPTIONAL, *OF_FILM) if name in names}
    kinds |= {ISSUES: pa.types.is_string} if ISSUES in names else {}
    kinds |= {"pixels": pa.types.is_large_binary, "boxes": lambda kind: kind == BOX_TYPE}
    kinds |= {"masks": lambda kind: kind == MASK_TYPE} if card["format"] == MASKED else {}
    for name, is_kind in kinds.items():
        if (
            names.count(name) != 1
            or not is_kind(shard.schema.field(name).type)
            or shard[name].num_chunks != 1
            or _has_nulls(shard[name].chunk(0))
        ):
            raise DataError(
                f"{path} is damaged: its column {name} is missing or not as store.json says. {MEND}"
            )
    if unknown := [name for name in names if name not in kinds and name not in IN_STORE]:
        raise DataError(f"{path} has the column {unknown[0]}, of which store.json knows nothing. {MEND}")
    pixels = shard["pixels"].chunk(0)
    offsets = np.frombuffer(pixels.buffers()[1], np.int64, count=len(pixels) + 1)
    fits = np.array_equal(offsets, np.arange(len(pixels) + 1, dtype=np.int64) * size**2)
    if "masks" in kinds:
        bits = shard["masks"].chunk(0).flatten().field("bits")
        fits = fits and pc.all(pc.equal(pc.binary_length(bits), math.ceil(size**2 / 8))).as_py() is not False
    if not fits:
        raise DataError(f"{path} holds pictures that are not {size} x {size}, as store.json says. {MEND}")
    table = shard.drop_columns([name for name in PICTURES if name in names])
    if known is not None and columns_digest(table) != known:
        raise DataError(
            f"The table in {path} is not the one of store.json, but maybe another store's. {MEND}"
        )


def _has_nulls(column: pa.Array) -> bool:
    """Also in the lists of a column."""
    parts = [column, *column.flatten().flatten()] if pa.types.is_list(column.type) else [column]
    return any(part.null_count for part in parts)


def columns_digest(table: pa.Table) -> str:
    """Of the names and the values of all columns, as they lie in the file."""
    digest = hashlib.blake2b(digest_size=16)
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(repr((name, len(column))).encode())
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                if buffer is not None:
                    digest.update(buffer)
    return digest.hexdigest()


def short_names(paths: Sequence[Path]) -> list[str]:
    """What to call stores beside each other: their folders' names, whole paths where two are the same."""
    names = [name_of(path.resolve().name) for path in paths]
    return [
        name if names.count(name) == 1 else name_of(path) for name, path in zip(names, paths, strict=True)
    ]

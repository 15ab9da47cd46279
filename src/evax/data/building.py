"""A manifest -> an ImageStore: images read in parallel, shards written whole, resumable."""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from evax.data.depth import common_bits
from evax.data.manifest import (
    BOX_COLUMNS,
    COLUMNS,
    ISSUES,
    MASK_COLUMNS,
    NOTES,
    OF_FILM,
    OPTIONAL,
    SPLIT_KEY,
    Manifest,
)
from evax.data.masks import Piece
from evax.data.preprocess import Preprocess
from evax.data.store import (
    BOX_TYPE,
    MASK_TYPE,
    MASKED,
    PICTURES,
    PLAIN,
    ImageStore,
    columns_digest,
    open_store,
    read_shard,
)
from evax.data.workers import ImageFiles, ImageReaders, StoredImage
from evax.errors import DataError
from evax.files import make_folder, open_csv, path_of, read_json, replaced_whole, write_json

logger = logging.getLogger("evax")

SHARD_FILMS = 512
IDENTITY_ROWS = 8192  # of the table at once as text
UNSET = "not given"  # what plan.json calls an option without a value
Progress = Callable[[int, int, int], None]


def build_store(
    manifest: Manifest,
    out: Path,
    *,
    size: int = 336,
    workers: int = 1,
    bits: int | None = None,
    split_note: str = "",
    options: Mapping[str, str] | None = None,
    on_progress: Progress = lambda done, total, rejected: None,
) -> ImageStore:
    """Reads every image of a manifest and keeps it at size x size, 8 bit, with its masks, 1 bit.

    workers: processes that read. bits: depth of the pictures of more than 8 bits, see read_image; without it
    common_bits decides once for all of them. split_note: how the split was made, for the card. options: what
    a person chose, to say in what a store differs that is there already. on_progress(done, total, rejected).
    An image that cannot be read, or whose mask cannot, goes to rejected.csv with its reason. Shards are written
    whole: an interrupted build, started again, goes on after the last of them and ends in the same store.
    Memory does not grow with the images.
    Raises DataError when OUT holds another store, or no image could be read.
    """
    plan = {
        "format": MASKED if len(manifest.masks) else PLAIN,
        "size": size,
        "input": _identity(manifest, size),
    }
    plan_file = out / "plan.json"
    before = None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        before = read_json(plan_file) if plan_file.is_file() else None
        asked = plan if bits is None else plan | {"bits": bits}
        if not isinstance(before, dict) or any(before.get(name) != asked[name] for name in asked):
            raise DataError(
                f"{out} already holds something else{_difference(before, options or {})}. Choose another "
                "--out or delete it."
            )
        if (out / "store.json").is_file():
            logger.info("%s was finished before; delete it to read its images again.", out)
            return open_store(out)
    total, done, rejected = len(manifest.table), 0, 0
    starts = list(range(0, total, SHARD_FILMS))
    pieces = _pieces(manifest)
    with ImageReaders(workers) as readers:
        if before is not None:
            bits = before.get("bits")  # none in a build that an earlier evax began
        elif bits is None:
            bits = common_bits([manifest.root / path_of(name) for name in _files(manifest.table)], readers)
        plan["bits"] = bits
        preprocess = Preprocess(store_size=size, bits=bits)
        make_folder(out)
        write_json(plan | {"options": dict(options or {})}, plan_file)
        for number, start in enumerate(starts):
            part = manifest.table.iloc[start : start + SHARD_FILMS]
            path, refusals = out / f"shard-{number:05d}.arrow", out / f"rejected-{number:05d}.json"
            if not path.is_file():
                films: list[tuple[int, StoredImage]] = []
                reasons: list[tuple[str, str]] = []
                images = [str(name) for name in part["image"]]
                files = [manifest.root / path_of(name) for name in _files(part)]
                wanted = [
                    ImageFiles(
                        film=file,
                        root=manifest.root,
                        pieces=pieces.get(image, ()),
                        mask_value=manifest.mask_value,
                        drawn_on=manifest.drawn_on.get(image),
                    )
                    for file, image in zip(files, images, strict=True)
                ]
                for row, answer in enumerate(readers.read(wanted, preprocess)):
                    if isinstance(answer, StoredImage):
                        films.append((start + row, answer))
                    else:  # a path may show the patient
                        reason = answer.replace(str(files[row]), images[row])
                        reasons.append((images[row], reason.replace(f"{manifest.root}{os.sep}", "")))
                    on_progress(done + row + 1, total, rejected + len(reasons))
                write_json(reasons, refusals)
                _write_shard(manifest, films, path)
            rejected += len(read_json(refusals))
            done += len(part)
            on_progress(done, total, rejected)
    _finish(manifest, out, plan, len(starts), size, split_note)
    return open_store(out)


def _files(table: pd.DataFrame) -> pd.Series:
    """Where the images of a manifest's table lie under its root."""
    return table["file" if "file" in table else "image"].astype(str)


def _difference(before: Any, options: Mapping[str, str]) -> str:
    """How a store that is there was made otherwise, as the middle of a sentence; "" where it is unknown."""
    noted = before.get("options") if isinstance(before, dict) else None
    if not noted:
        return ""
    differing = [
        f"{name} was {noted.get(name, UNSET)}, is {value}"
        for name, value in options.items()
        if noted.get(name, UNSET) != value
    ]
    return ": " + (
        "; ".join(differing) or "the same options, but the images, the tables or their splits are others"
    )


def _identity(manifest: Manifest, size: int) -> str:
    """Of everything that decides a store except the pixels."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((size, manifest.findings, manifest.exclusive, manifest.source)).encode())
    table = manifest.table.drop(columns=SPLIT_KEY, errors="ignore")  # nobody can try an ID on this digest
    for start in range(0, len(table), IDENTITY_ROWS):
        part = table.iloc[start : start + IDENTITY_ROWS]
        digest.update(part.to_csv(index=False, header=not start).encode())
    digest.update(manifest.boxes.to_csv(index=False).encode())
    if len(manifest.masks):
        digest.update(manifest.masks.to_csv(index=False).encode())
    if manifest.mask_value:
        digest.update(repr(manifest.mask_value).encode())
    return digest.hexdigest()


def _pieces(manifest: Manifest) -> dict[str, list[Piece]]:
    """Image -> pieces of its masks."""
    pieces: dict[str, list[Piece]] = {}
    for image, *piece in manifest.masks[list(MASK_COLUMNS)].itertuples(index=False, name=None):
        pieces.setdefault(image, []).append((piece[0], piece[1], piece[2]))
    return pieces


def _write_shard(manifest: Manifest, films: list[tuple[int, StoredImage]], path: Path) -> None:
    rows = manifest.table.iloc[[row for row, _ in films]]
    boxes_of = {image: part for image, part in manifest.boxes.groupby("image")} if len(manifest.boxes) else {}
    boxes = [
        boxes_of[image][list(BOX_COLUMNS[1:])].to_dict("records") if image in boxes_of else []
        for image in rows["image"]
    ]
    masks = [
        [{"finding": finding, "bits": bits} for finding, bits in film.masks.items()] for _, film in films
    ]
    table = pa.table(
        {
            "pixels": pa.array([film.pixels for _, film in films], pa.large_binary()),
            **{name: pa.array(rows[name].astype(str), pa.string()) for name in COLUMNS if name != "age"},
            **{
                name: pa.array(rows[name].to_numpy(dtype=np.float64))
                for name in ("age", *OPTIONAL)
                if name in rows
            },
            ISSUES: pa.array([film.issues for _, film in films], pa.string()),
            **{name: pa.array([float(getattr(film, name)) for _, film in films]) for name in OF_FILM},
            **{name: pa.array(rows[name].to_numpy(dtype=np.float32)) for name in manifest.findings},
            "boxes": pa.array(boxes, BOX_TYPE),
            **({"masks": pa.array(masks, MASK_TYPE)} if len(manifest.masks) else {}),
        }
    ).combine_chunks()
    with (
        replaced_whole(path) as unfinished,
        pa.OSFile(os.fsencode(unfinished), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=len(table) or None)


def _finish(
    manifest: Manifest, out: Path, plan: dict[str, Any], shards: int, size: int, split_note: str
) -> None:
    """Fingerprint, pixel statistics, rejected.csv, and the card that makes the store a store."""
    digest, kept, names = hashlib.blake2b(digest_size=16), 0, []
    # grey value -> pixels; images outside the train split must not shape what a network is given
    histograms = {"train": np.zeros(256, np.int64), "all": np.zeros(256, np.int64)}
    digests: dict[str, list[str]] = {"table_digests": [], "picture_digests": []}
    reasons: list[tuple[str, str]] = []
    masked: Counter[str] = Counter()
    issues: Counter[str] = Counter()
    for number in range(shards):
        reasons += [tuple(item) for item in read_json(out / f"rejected-{number:05d}.json")]
        name = f"shard-{number:05d}.arrow"
        shard = read_shard(out / name)
        if not len(shard):
            continue
        names.append(name)
        kept += len(shard)
        pictures = [column for column in PICTURES if column in shard.column_names]
        digests["table_digests"].append(columns_digest(shard.drop_columns(pictures)))
        digests["picture_digests"].append(columns_digest(shard.select(pictures)))
        for pixels, split in zip(shard["pixels"].chunk(0), shard["split"].to_pylist(), strict=True):
            film = np.frombuffer(pixels.as_buffer(), dtype=np.uint8)
            counts = np.bincount(film, minlength=256)
            histograms["all"] += counts
            histograms["train"] += counts * (split == "train")
            digest.update(film.data)
        if plan["format"] == MASKED:
            masks = shard["masks"].to_pylist()
            masked.update(mask["finding"] for of_film in masks for mask in of_film)
            digest.update(repr(masks).encode())
            shard = shard.drop_columns(["masks"])
        notes = [name for name in NOTES if name in shard.column_names]  # none of an earlier evax
        for of_film in shard[ISSUES].to_pylist() if notes else ():
            issues.update(of_film.split())
        shard = shard.drop_columns(notes)  # the fingerprint is of what a model learns from
        digest.update(shard.drop_columns(["pixels"]).to_pandas().to_csv(index=False).encode())
    with open_csv(out / "rejected.csv") as file:
        csv.writer(file).writerows([("image", "reason"), *reasons])
    if not kept:
        raise DataError(
            f"None of the {len(manifest.table)} images could be read; see {out / 'rejected.csv'}. "
            f"Mend them, delete {out} and prepare again."
        )
    measured = "train" if histograms["train"].any() else "all"
    if measured == "train":  # not the normalisation that an earlier evax gave the same images
        digest.update(measured.encode())
    histogram, values = histograms[measured], np.arange(256) / 255
    mean = float(histogram @ values / histogram.sum())
    std = math.sqrt(float(histogram @ (values - mean) ** 2 / histogram.sum()))
    card = plan | {
        "fingerprint": digest.hexdigest(),
        "films": kept,
        "rejected": len(reasons),
        "mean": mean,
        "std": std,
        "statistics_of": measured,
        "findings": list(manifest.findings),
        "exclusive": manifest.exclusive,
        "source": manifest.source,
        "namespace": manifest.namespace,
        "split": split_note,
        "shards": names,
        **digests,
        **({"masks": dict(sorted(masked.items()))} if masked else {}),
        **({"left_out": dict(Counter(manifest.left_out.values()))} if manifest.left_out else {}),
        **({ISSUES: dict(issues.most_common())} if issues else {}),
    }
    write_json(card, out / "store.json")
    for number in range(shards):
        (out / f"rejected-{number:05d}.json").unlink()

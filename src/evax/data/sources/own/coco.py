"""Boxes in COCO's format: one JSON file and the images it names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evax.data.manifest import BOX_COLUMNS, SPLIT_KEY, Manifest
from evax.data.sources import source_name
from evax.data.sources.own.csv import existing
from evax.data.sources.own.folders import patients_of
from evax.data.sources.tables import missing_file
from evax.errors import DataError
from evax.files import read_text
from evax.findings import is_blank, one_spelling


def read_coco(raw: Path, *, table: str = "annotations.json", patient_pattern: str = "") -> Manifest:
    """Images, findings and boxes of RAW/table; a category without a box on an image is absent there.

    patient_pattern: as for folders. Images are looked for as the file names them, in RAW and in RAW/images.
    A box may leave its image by a pixel, as rounding does; it is cut. An image whose aspect is not that of its
    entry is rejected when it is read: its boxes would lie elsewhere.
    """
    content = _read(raw / table)
    words = {row["id"]: "" if row["name"] is None else _text(row["name"]) for row in content["categories"]}
    if blank := [number for number, word in words.items() if is_blank(word)]:
        raise DataError(
            f"{raw / table}: category {blank[0]} is blank, or called '{words[blank[0]]}' as programs call "
            "what is blank: give it the name of its finding."
        )
    spelling = one_spelling(raw / table, words.values())
    names = {number: spelling[word] for number, word in words.items()}
    sizes = {row["id"]: (float(row["width"]), float(row["height"])) for row in content["images"]}
    names_of = {row["id"]: _text(row["file_name"]) for row in content["images"]}
    files = dict(zip(names_of, existing(raw, pd.Series(list(names_of.values()))), strict=True))
    boxes = []
    for row in content["annotations"]:
        if row["image_id"] not in sizes or row["category_id"] not in names:
            raise DataError(f"{raw / table}: annotation {row.get('id')} is of an unknown image or category.")
        width, height = sizes[row["image_id"]]
        left, top, across, down = (float(number) for number in row["bbox"])
        right, bottom = left + across, top + down
        if not (min(left, top) >= -1 and right <= width + 1 and bottom <= height + 1):
            raise DataError(
                f"{raw / table}: a box of {files[row['image_id']]} leaves the image: it reaches from "
                f"{left:g}, {top:g} to {right:g}, {bottom:g} in an image of {width:g} x {height:g} pixels. "
                "Boxes are x, y, width, height in pixels of the size that the file states: mend one of them."
            )
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        corners = (left / width, top / height, (right - left) / width, (bottom - top) / height)
        boxes.append((files[row["image_id"]], names[row["category_id"]], *corners))
    findings = tuple(dict.fromkeys(names.values()))
    present = {(image, finding) for image, finding, *_ in boxes}
    films = pd.DataFrame({"image": list(files.values())})
    images = films["image"].tolist()
    films["patient"], films[SPLIT_KEY] = patients_of(raw, images, patient_pattern)
    films = films.assign(study="", view="", sex="", age=np.nan, split="")
    for finding in findings:
        films[finding] = np.array([(image, finding) in present for image in films["image"]], dtype=np.float32)
    return Manifest(
        table=films,
        findings=findings,
        exclusive=False,
        source=source_name("coco", raw),
        root=raw,
        boxes=pd.DataFrame(boxes, columns=list(BOX_COLUMNS)).astype(dict.fromkeys(BOX_COLUMNS[2:], float)),
        drawn_on={files[row["image_id"]]: sizes[row["image_id"]] for row in content["annotations"]},
    )


def _text(value: Any) -> str:
    """A text of the file; JSON can hold halves of letters, which are then written as escapes."""
    return str(value).encode(errors="backslashreplace").decode()


def _edges(path: Path, annotation: dict[str, Any]) -> list[float]:
    """The numbers of its bbox. Raises DataError for anything else than four."""
    try:
        edges = [float(number) for number in annotation["bbox"]]
    except (TypeError, ValueError, OverflowError):
        edges = []
    if len(edges) != 4:
        raise DataError(
            f"{path}: the bbox of annotation {annotation.get('id')} is not x, y, width, height: mend it, or "
            "delete the annotation."
        )
    return edges


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The three lists of a COCO file. Raises DataError for anything else."""
    if not path.is_file():
        raise missing_file(path, "file", "Name it with --table.")
    wanted = {
        "images": ("id", "file_name", "width", "height"),
        "categories": ("id", "name"),
        "annotations": ("image_id", "category_id", "bbox"),
    }
    try:
        content = json.loads(read_text(path))
        for name, keys in wanted.items():
            if not isinstance(content[name], list):
                raise TypeError
            for row in content[name]:
                if missing := [key for key in keys if key not in row]:
                    raise DataError(f"{path}: an entry of {name} lacks {', '.join(missing)}.")
        for row in (row for name in wanted for row in content[name]):
            hash(tuple(row.get(key) for key in ("id", "image_id", "category_id")))  # TypeError for lists
        sides = [float(row[side]) for row in content["images"] for side in ("width", "height")]
        if not all(0 < side < math.inf for side in sides):
            raise DataError(f"{path}: an image has no width or no height.")
        for name in ("images", "categories"):
            if len({row["id"] for row in content[name]}) < len(content[name]):
                raise DataError(f"{path}: two entries of {name} have one id; give each its own.")
        edges = [edge for row in content["annotations"] for edge in _edges(path, row)]
        if 0 < max(edges, default=0) <= 1 < max(sides, default=0):
            raise DataError(
                f"{path}: no box reaches beyond the first pixel, so they look like fractions of the image. "
                "Boxes of COCO are in pixels: multiply x and width by the image's width, y and height by its "
                "height."
            )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is not a COCO file with images, categories and annotations.") from error
    return {name: content[name] for name in wanted}

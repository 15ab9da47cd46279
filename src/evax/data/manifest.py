"""Manifest: the one table that every source gives and every store keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32

from evax.errors import DataError

COLUMNS = ("image", "patient", "study", "view", "sex", "age", "split")
SPLIT_KEY = "split_key"  # see Manifest.table
OPTIONAL = ("study_day",)  # numbers that only some sources know, NaN where unknown
ISSUES = "issues"
OF_FILM = ("height", "width", "spacing_mm")
NOTES = (ISSUES, *OF_FILM)  # what only a store knows: it has read the images
IN_STORE = (*COLUMNS, *OPTIONAL, *NOTES, "pixels", "boxes", "masks")  # columns of a store beside the findings
BOX_COLUMNS = ("image", "finding", "x", "y", "width", "height")
MASK_COLUMNS = ("image", "finding", "file", "rle")
BOX_ROUNDING = 0.001  # of the image's side: a pixel of the usual detector is a third of it
SPLITS = ("train", "val", "test")
LABELS = (0.0, 1.0, -1.0)


def no_boxes() -> pd.DataFrame:
    """An empty table of boxes."""
    return pd.DataFrame(
        {name: pd.Series(dtype=str if name in BOX_COLUMNS[:2] else float) for name in BOX_COLUMNS}
    )


def no_masks() -> pd.DataFrame:
    """An empty table of masks."""
    return pd.DataFrame({name: pd.Series(dtype=str) for name in MASK_COLUMNS})


@dataclass(frozen=True, eq=False)
class Manifest:
    """One row per image. Raises DataError, naming row and value, when the table breaks a rule."""

    table: pd.DataFrame
    """COLUMNS, then one float32 column per finding: 1 present, 0 absent, -1 uncertain, NaN blank.

    `image` is unique; missing texts are "", a missing age is NaN. Where a source knows dates, `study_day` is
    the number of days since the patient's first study, 0 for that one; dates themselves are never kept. A
    store adds `issues`, those of each Radiograph with blanks between, and of the image as it was read `height`
    and `width` in pixels and `spacing_mm`, the mean of both directions, NaN where unknown. A further column
    `file` may say where an image lies under root when `image` must not show it, and a column `split_key` who
    the patient is as the source says, which alone decides the split when `patient` must not show it; neither
    is ever stored.
    """
    findings: tuple[str, ...]
    exclusive: bool
    """Exactly one finding per image (softmax), else one yes or no each (sigmoid)."""
    source: str
    root: Path
    boxes: pd.DataFrame = field(default_factory=no_boxes)
    """BOX_COLUMNS; x, y, width, height in fractions of the image. A rounding error of up to BOX_ROUNDING over
    its border is cut off.
    """
    masks: pd.DataFrame = field(default_factory=no_masks)
    """MASK_COLUMNS: the pieces of the masks, each in a picture `file` under root or as run lengths `rle` (see
    data/masks.py); the pieces of one image and finding are united.
    """
    drawn_on: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Image -> width and height in pixels of the picture that its boxes were drawn on, where the source knows
    them: an image of another aspect is rejected when it is read.
    """
    mask_value: tuple[int, ...] = ()
    """The value of the mask files that is inside, as for data/masks.py::read_mask; () where they have two."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Files under root that the release lists and the table leaves out: path -> why. A store keeps how many
    for which reason.
    """

    namespace: str = ""
    """Where two manifests have the same, a name of a patient means the same person in both; "" if unknown.
    Nobody can guess it who does not have the images or the key of the pseudonyms, but for public releases.
    """

    def __post_init__(self) -> None:
        table = self.table
        if missing := [name for name in (*COLUMNS, *self.findings) if name not in table.columns]:
            raise DataError(f"{self.root}: the table lacks the columns {', '.join(missing)}.")
        if not len(table):
            raise DataError(f"{self.root}: the table has no images.")
        if twice := [name for name in self.findings if self.findings.count(name) > 1]:
            raise DataError(
                f"{self.root}: the finding {twice[0]} has two columns, maybe in two spellings: keep one."
            )
        if taken := [name for name in self.findings if name in IN_STORE]:
            raise DataError(
                f"{self.root}: a finding is called {taken[0]}, as a column of every store: rename it."
            )
        if (repeated := table["image"].duplicated()).any():
            raise DataError(f"{self.root}: the image {table.loc[repeated, 'image'].iloc[0]} is listed twice.")
        if unknown := sorted(set(table["split"]) - {"", *SPLITS}):
            raise DataError(
                f"{self.root}: the split '{unknown[0]}' is unknown; known: {', '.join(SPLITS)} or blank."
            )
        labels = self.labels()
        wrong = ~(np.isnan(labels) | np.isin(labels, LABELS))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise DataError(
                f"{self.root}: {self.findings[column]} of {table['image'].iloc[row]} "
                f"is {labels[row, column]:g}; "
                "labels are 1 (present), 0 (absent), -1 (uncertain) or blank."
            )
        if self.exclusive and len(odd := np.flatnonzero((labels == 1).sum(axis=1) != 1)):
            raise DataError(
                f"{self.root}: {table['image'].iloc[odd[0]]} "
                f"has {int((labels[odd[0]] == 1).sum())} findings; "
                "a single-label table has exactly one per image."
            )
        self._check_boxes()
        self._check_masks()

    def _check_boxes(self) -> None:
        boxes = self.boxes
        if missing := [name for name in BOX_COLUMNS if name not in boxes.columns]:
            raise DataError(f"{self.root}: the boxes lack the columns {', '.join(missing)}.")
        if len(stray := boxes[~self._of_films(boxes)]):
            raise DataError(
                f"{self.root}: there is a box for {stray['image'].iloc[0]}, which is not in the table."
            )
        starts = boxes[["x", "y"]].to_numpy(dtype=float)
        ends = starts + boxes[["width", "height"]].to_numpy(dtype=float)
        inside = (starts >= -BOX_ROUNDING) & (ends <= 1 + BOX_ROUNDING) & (ends > starts)
        if not (inside := inside.all(axis=1)).all():
            raise DataError(
                f"{self.root}: a box of {boxes.loc[~inside, 'image'].iloc[0]} leaves the image "
                "or is empty; boxes are x, y, width, height in fractions of the image."
            )
        over = ((starts < 0) | (ends > 1 + 1e-9)).any(axis=1)  # 1e-9: the sum of two floats that end at 1
        if over.any():
            starts, ends = starts.clip(min=0), ends.clip(max=1)
            cut = np.hstack([starts, ends - starts])
            boxes = boxes.copy()
            boxes.loc[over, list(BOX_COLUMNS[2:])] = cut[over]
            object.__setattr__(self, "boxes", boxes)

    def _check_masks(self) -> None:
        masks = self.masks
        if missing := [name for name in MASK_COLUMNS if name not in masks.columns]:
            raise DataError(f"{self.root}: the masks lack the columns {', '.join(missing)}.")
        if len(stray := masks[~self._of_films(masks)]):
            raise DataError(
                f"{self.root}: there is a mask for {stray['image'].iloc[0]}, which is not in the table."
            )
        if (odd := (masks["file"] == "") == (masks["rle"] == "")).any():
            raise DataError(
                f"{self.root}: a mask of {masks.loc[odd, 'image'].iloc[0]} must have either a file or run "
                "lengths, not both or none."
            )

    def select(self, keep: Bool[np.ndarray, " S"]) -> Manifest:
        """The manifest of the chosen images, with their boxes and masks."""
        chosen = replace(
            self, table=self.table[keep].reset_index(drop=True), boxes=no_boxes(), masks=no_masks()
        )
        boxes, masks = (rows[chosen._of_films(rows)] for rows in (self.boxes, self.masks))
        return replace(chosen, boxes=boxes.reset_index(drop=True), masks=masks.reset_index(drop=True))

    def _of_films(self, rows: pd.DataFrame) -> Bool[np.ndarray, " rows"]:
        """Which boxes or masks are of images of the table; a set is ten times as fast as pandas' isin here."""
        films = set(self.table["image"]) if len(rows) else set()
        return np.fromiter((image in films for image in rows["image"]), bool, len(rows))

    def labels(self) -> Float32[np.ndarray, "S K"]:
        """As the source wrote them, in the order of `findings`."""
        return self.table[list(self.findings)].to_numpy(dtype=np.float32).reshape(len(self.table), -1)

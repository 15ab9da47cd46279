"""A CSV table and the images it names."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.dicom.header import VIEWS
from evax.data.manifest import BOX_COLUMNS, COLUMNS, Manifest, no_boxes, no_masks
from evax.data.public_sets import source_name
from evax.data.radiograph import FILM_SUFFIXES
from evax.data.sources.mask_files import find_masks
from evax.data.sources.tables import ALONE, LABEL_VALUES, ages, numbers, read_table, warn_of_doubtful_patients
from evax.data.split import SPLIT_WORDS
from evax.errors import DataError
from evax.findings import SYNONYMS, canonical

logger = logging.getLogger("evax")

# the names a table may use for the columns that every manifest has, in any case and with blanks, - and _
SPELLINGS = {
    "image": ("image", "image_id", "image_index", "file", "file_name", "path"),
    "patient": ("patient", "patient_id", "subject", "subject_id"),
    "study": ("study", "study_id"),
    "view": ("view", "projection", "view_position"),
    "sex": ("sex", "gender", "patient_sex", "patient_gender"),
    "age": ("age", "patient_age"),
    "split": ("split",),
}
SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F"}
NAME_IT = "Name it with --table."
EXPECTED = f"{LABEL_VALUES[:-1]}; a column of class names is --label-column."
FOLDERS = ("", "images")
# parts of the names of columns that may say who a film is of
MAYBE_PATIENT = re.compile(
    r"patient|subject|person|participant|pseudonym|case|mrn|pid|study|accession|(?:^|[\W_])id$", re.IGNORECASE
)


def read_csv(
    raw: Path,
    *,
    table: str = "labels.csv",
    label_column: str = "",
    findings: tuple[str, ...] | None = None,
    mask_value: tuple[int, ...] = (),
) -> Manifest:
    """Films and labels of RAW/table.

    table: CSV file in raw with a column image (or image_id, file, filename, path); patient, study, view, sex,
    age and split are used when they are there. label_column: a column of class names, exactly one per film;
    without it a column `label` is taken when present. findings: columns of 1, 0, -1 or blank; without it,
    none of the above:
    every other column that holds nothing else or is named as a known finding. RAW/boxes.csv (image, finding,
    x, y, width, height in fractions) is read when present, and so are the masks in RAW/masks:
    FILM_FINDING.png or FINDING/FILM.png. mask_value: as for data/masks.py::read_mask.
    """
    path = raw / table
    rows = read_table(path, next_step=NAME_IT)
    names = {ours: _column(rows, spellings) for ours, spellings in SPELLINGS.items()}
    if names["image"] is None:
        raise DataError(
            f"{path} has no column 'image' that names the films; it has {', '.join(rows.columns)}. "
            f"Rename one of them (also accepted: {', '.join(SPELLINGS['image'][1:])})."
        )
    result = pd.DataFrame({ours: _texts(rows, names[ours]) for ours in COLUMNS})
    result["image"] = existing(raw, result["image"])
    result["split"] = result["split"].map(lambda word: SPLIT_WORDS.get(word.lower(), word))
    if names["patient"] is None:
        maybe = [name for name in rows.columns if name != names["image"] and MAYBE_PATIENT.search(name)]
        logger.warning(
            "%s has no column 'patient': every film counts as a patient of its own, and films of one person "
            "may be divided between training and test. %s",
            path,
            f"Maybe it is {' or '.join(maybe)}: rename the column that is the same in all films of a person "
            "to patient. The store keeps its values, so give pseudonyms."
            if maybe
            else "Add the column if people have several films.",
        )
    else:
        warn_of_doubtful_patients(path, result["patient"], ALONE)
    result["patient"] = result["patient"].where(result["patient"] != "", result["image"])
    result["age"] = ages(written := _texts(rows, names["age"]))
    if unread := int((result["age"].isna() & (written != "")).sum()):
        logger.warning("%s: %d ages are no number of years and count as unknown.", path, unread)
    result["sex"], result["view"] = result["sex"].map(sex_of), result["view"].map(view_of)
    warn_of_unknown_words(path, {name: (_texts(rows, names[name]), result[name]) for name in ("view", "sex")})

    classes = label_column or (_column(rows, ("label",)) if findings is None else None)
    if classes:
        if classes not in rows.columns:
            raise DataError(f"{path} has no column '{classes}'; it has {', '.join(rows.columns)}.")
        if (blank := rows[classes].str.strip() == "").any():
            raise DataError(
                f"{path}: column '{classes}', line {int(np.flatnonzero(blank)[0]) + 2} is blank; "
                "with class names every film has exactly one. Fill it in or leave the film out."
            )
        found = tuple(sorted({canonical(value) for value in rows[classes]}))
        for name in found:
            result[name] = (rows[classes].map(canonical) == name).astype(np.float32)
    else:
        others = [name for name in rows.columns if name not in names.values()]
        chosen = [name for name in others if _is_label(rows[name])] if findings is None else list(findings)
        if findings is None:
            texts = [name for name in others if name not in chosen]
            logger.info(
                "%s: findings are %s; other columns: %s. --findings chooses others.",
                path, ", ".join(chosen) or "none", ", ".join(texts) or "none",
            )  # fmt: skip
        for name in chosen:
            if name not in rows.columns:
                raise DataError(f"{path} has no column '{name}'; it has {', '.join(rows.columns)}.")
            result[canonical(name)] = numbers(path, rows[name], EXPECTED)
        found = tuple(canonical(name) for name in chosen)
    return Manifest(
        table=result,
        findings=found,
        exclusive=bool(classes),
        source=source_name("csv", raw),
        root=raw,
        boxes=read_boxes(raw, result),
        masks=read_masks_beside(raw, result, found),
        mask_value=mask_value,
    )


def sex_of(text: str) -> str:
    """M or F of a text such as male, 'f' or FEMALE; "" for any other."""
    return SEXES.get(re.sub(r"[^A-Z]", "", text.upper()), "")


def view_of(text: str) -> str:
    """PA, AP or LATERAL of a text such as AP supine, 'pa' or left lateral; "" for none, or for two."""
    if view := VIEWS.get(text.upper()):  # codes have digits
        return view
    words = re.findall(r"[A-Z]+", text.upper().replace("-", ""))
    views = {VIEWS[word] for word in words if word in VIEWS}
    return views.pop() if len(views) == 1 else ""


def warn_of_unknown_words(path: Path, columns: dict[str, tuple[pd.Series, pd.Series]]) -> None:
    """One warning of the values that are not understood. columns: name -> as written, as read."""
    unread = {name: written[(read == "") & (written != "")] for name, (written, read) in columns.items()}
    if counts := [
        f"{len(values)} of {name} ({', '.join(values.unique()[:3])})"
        for name, values in unread.items()
        if len(values)
    ]:
        logger.warning(
            "%s: %s are unknown and count as blank. Known: PA, AP, lateral; male, female.",
            path, " and ".join(counts),
        )  # fmt: skip


def read_boxes(raw: Path, films: pd.DataFrame) -> pd.DataFrame:
    """RAW/boxes.csv, or no boxes; those of other films are left out and counted."""
    path = raw / "boxes.csv"
    if not path.is_file():
        return no_boxes()
    boxes = read_table(path)
    if missing := [name for name in BOX_COLUMNS if name not in boxes.columns]:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}.")
    for name in BOX_COLUMNS[2:]:
        boxes[name] = numbers(path, boxes[name], "Boxes are fractions of the image.")
    boxes["image"] = existing(raw, boxes["image"].str.strip())
    boxes["finding"] = boxes["finding"].map(canonical)
    listed = boxes["image"].isin(films["image"])
    if stray := int((~listed).sum()):
        logger.info("%s: %d of %d boxes are of films that are not listed.", path, stray, len(boxes))
    return boxes[listed][list(BOX_COLUMNS)].reset_index(drop=True)


def read_masks_beside(raw: Path, films: pd.DataFrame, findings: tuple[str, ...]) -> pd.DataFrame:
    """The masks of RAW/masks, or none; a file that names no finding shows the only one of the table."""
    if not (raw / "masks").is_dir():
        return no_masks()
    return find_masks(raw, "masks", films["image"], findings[0] if len(findings) == 1 else "Region")


def _column(rows: pd.DataFrame, spellings: tuple[str, ...]) -> str | None:
    columns = {_plain(name): name for name in rows.columns}
    return next((columns[_plain(spelling)] for spelling in spellings if _plain(spelling) in columns), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _texts(rows: pd.DataFrame, name: str | None) -> pd.Series:
    return rows[name].str.strip() if name is not None else pd.Series([""] * len(rows))


def existing(raw: Path, images: pd.Series) -> pd.Series:
    """Each name as a path under raw: as written, in images/, with a usual suffix; where that fits nowhere,
    the same with slashes for the backslashes of Windows; else the name stays.
    """

    def place(name: str) -> str:
        places = (
            Path(folder) / f"{spelling}{suffix}"
            for spelling in dict.fromkeys((name, name.replace("\\", "/")))
            for folder in FOLDERS
            for suffix in ("", *FILM_SUFFIXES)
        )
        return next((str(path) for path in places if os.path.isfile(raw / path)), name)

    return images.map(place)


def _is_label(column: pd.Series) -> bool:
    """Whether a column holds a finding.

    A known finding, and a column of labels with some words in it, is one even where its values are wrong:
    then the table is refused, not cut.
    """
    filled = column.str.strip()[lambda texts: texts != ""]
    is_value = filled.isin(["0", "1", "-1", "0.0", "1.0", "-1.0"])
    is_word = pd.to_numeric(filled, errors="coerce").isna()
    mostly_labels = len(filled) > 0 and (is_value | is_word).all() and is_value.mean() > 0.5
    return bool(mostly_labels) or canonical(str(column.name)) in SYNONYMS

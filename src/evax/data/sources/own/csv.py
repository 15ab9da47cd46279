"""A CSV table and the images it names."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from evax.data.films import files_below
from evax.data.manifest import BOX_COLUMNS, COLUMNS, Manifest, no_boxes, no_masks
from evax.data.radiograph import FILM_SUFFIXES
from evax.data.sources import source_name
from evax.data.sources.own.masks import find_masks
from evax.data.sources.tables import (
    ALONE,
    LABEL_VALUES,
    ages,
    parse_numbers,
    read_text_table,
    require_columns,
    warn_if_patients_doubtful,
)
from evax.data.split import SPLIT_WORDS, file_key
from evax.data.views import view_of
from evax.errors import DataError
from evax.files import name_of, path_of
from evax.findings import (
    SYNONYMS,
    as_spelled,
    canonical,
    finding_key,
    is_blank,
    names_nobody,
    one_spelling,
)

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
# parts of the names of columns that may say who an image is of
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
    """Images and labels of RAW/table.

    table: CSV file in raw with a column image (or image_id, file, filename, path); patient, study, view, sex,
    age and split are used when they are there. label_column: a column of class names, exactly one per image;
    without it a column `label` is taken when present. findings: columns of 1, 0, -1 or blank; without it,
    none of the above:
    every other column that holds nothing else or is named as a known finding. RAW/boxes.csv (image, finding,
    x, y, width, height in fractions) is read when present, and so are the masks in RAW/masks:
    FILM_FINDING.png or FINDING/FILM.png. mask_value: as for data/masks.py::read_mask.
    """
    path = raw / table
    rows = read_text_table(path, next_step=NAME_IT)
    names = {ours: _column(rows, spellings) for ours, spellings in SPELLINGS.items()}
    if names["image"] is None:
        raise DataError(
            f"{path} has no column 'image' that names the images; it has {', '.join(rows.columns)}. "
            f"Rename one of them (also accepted: {', '.join(SPELLINGS['image'][1:])})."
        )
    result = pd.DataFrame({ours: _texts(rows, names[ours]) for ours in COLUMNS})
    for ours in ("study", "view", "sex", "age", "split"):
        result[ours] = result[ours].mask(result[ours].map(is_blank), "")
    result["patient"] = result["patient"].mask(result["patient"].map(names_nobody), "")
    result["image"] = existing(raw, result["image"])
    result["split"] = result["split"].map(lambda word: SPLIT_WORDS.get(word.lower(), word))
    if names["patient"] is None:
        maybe = [name for name in rows.columns if name != names["image"] and MAYBE_PATIENT.search(name)]
        logger.warning(
            "%s has no column 'patient': every image counts as a patient of its own, and images of one person "
            "may be divided between training and test. %s",
            path,
            f"Maybe it is {' or '.join(maybe)}: rename the column that is the same in all images of a person "
            "to patient. The store keeps its values, so give pseudonyms."
            if maybe
            else "Add the column if people have several images.",
        )
    else:
        warn_if_patients_doubtful(path, result["patient"], ALONE)
    result["patient"] = result["patient"].where(result["patient"] != "", result["image"])
    written = {name: result[name] for name in ("view", "sex")}
    known = result["age"] != ""
    result["age"] = ages(result["age"])
    if unread := int((result["age"].isna() & known).sum()):
        logger.warning("%s: %d ages are no number of years and count as unknown.", path, unread)
    result["sex"], result["view"] = result["sex"].map(sex_of), result["view"].map(view_of)
    warn_if_words_unknown(path, {name: (texts, result[name]) for name, texts in written.items()})

    classes = label_column or (_column(rows, ("label",)) if findings is None else None)
    if classes:
        if classes not in rows.columns:
            raise DataError(f"{path} has no column '{classes}'; it has {', '.join(rows.columns)}.")
        words = rows[classes].str.strip()
        if (blank := words.map(is_blank)).any():
            number = int(np.flatnonzero(blank)[0])
            word = f" ('{words.iloc[number]}')" if words.iloc[number] else ""
            raise DataError(
                f"{path}: column '{classes}', line {number + 2} is blank{word}; with class names every image "
                f"has exactly one. Fill it in or leave the image out ({int(blank.sum())} in all)."
            )
        if unsure := int((words.str.casefold() == "none").sum()):
            logger.warning(
                "%s: %d images are of a class called None, and it is kept: where it means that the class is "
                "unknown, leave these images out.", path, unsure,
            )  # fmt: skip
        class_of = words.map(one_spelling(path, words))
        found = tuple(sorted(set(class_of)))
        for name in found:
            result[name] = (class_of == name).astype(np.float32)
    else:
        others = [name for name in rows.columns if name not in names.values()]
        chosen = [name for name in others if _is_label(rows[name])] if findings is None else list(findings)
        if findings is None:
            texts = [name for name in others if name not in chosen]
            logger.info(
                "%s: findings are %s; other columns: %s. --findings chooses others.",
                path, ", ".join(chosen) or "none", ", ".join(texts) or "none",
            )  # fmt: skip
        found = tuple(canonical(name) for name in chosen)
        keys = [finding_key(name) for name in chosen]
        if twice := [name for name, key in zip(chosen, keys, strict=True) if keys.count(key) > 1]:
            raise DataError(
                f"{path}: the finding {canonical(twice[0])} has two columns, maybe in two spellings: "
                f"keep one of {', '.join(twice)}, or choose the columns with --findings."
            )
        for name, finding in zip(chosen, found, strict=True):
            if (column := as_spelled(name, rows.columns)) not in rows.columns:
                raise DataError(f"{path} has no column '{name}'; it has {', '.join(rows.columns)}.")
            result[finding] = parse_numbers(path, rows[column], EXPECTED)
    return Manifest(
        table=result,
        findings=found,
        exclusive=bool(classes),
        source=source_name("csv", raw),
        root=raw,
        boxes=read_boxes(raw, result, found),
        masks=read_masks_beside(raw, result, found),
        mask_value=mask_value,
    )


def sex_of(text: str) -> str:
    """M or F of a text such as male, 'f' or FEMALE; "" for any other."""
    return SEXES.get(re.sub(r"[^A-Z]", "", text.upper()), "")


def warn_if_words_unknown(path: Path, columns: dict[str, tuple[pd.Series, pd.Series]]) -> None:
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


def read_boxes(raw: Path, films: pd.DataFrame, findings: tuple[str, ...]) -> pd.DataFrame:
    """RAW/boxes.csv, or no boxes; those of other images are left out and counted. findings: of the table."""
    path = raw / "boxes.csv"
    if not path.is_file():
        return no_boxes()
    boxes = read_text_table(path)
    require_columns(path, boxes, BOX_COLUMNS)
    for name in BOX_COLUMNS[2:]:
        boxes[name] = parse_numbers(path, boxes[name], "Boxes are fractions of the image.")
    boxes["image"] = existing(raw, boxes["image"].str.strip())
    boxes["finding"] = boxes["finding"].map(one_spelling(path, boxes["finding"], findings))
    listed = boxes["image"].isin(films["image"])
    if stray := int((~listed).sum()):
        logger.info("%s: %d of %d boxes are of images that are not listed.", path, stray, len(boxes))
    return boxes[listed][list(BOX_COLUMNS)].reset_index(drop=True)


def read_masks_beside(raw: Path, films: pd.DataFrame, findings: tuple[str, ...]) -> pd.DataFrame:
    """The masks of RAW/masks, or none; a file that names no finding shows the only one of the table."""
    if not (raw / "masks").is_dir():
        return no_masks()
    unnamed = findings[0] if len(findings) == 1 else "Region"
    return find_masks(raw, "masks", films["image"], unnamed, findings)


def _column(rows: pd.DataFrame, spellings: tuple[str, ...]) -> str | None:
    columns = {_plain(name): name for name in rows.columns}
    return next((columns[_plain(spelling)] for spelling in spellings if _plain(spelling) in columns), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _texts(rows: pd.DataFrame, name: str | None) -> pd.Series:
    return rows[name].str.strip() if name is not None else pd.Series([""] * len(rows))


def existing(raw: Path, images: pd.Series) -> pd.Series:
    """Each name as that of a file under raw: as written, in images/, with a usual suffix; where that fits
    nowhere, the same with slashes for the backslashes of Windows; then the only file, listed under no other
    name, that differs in case or Unicode form alone, which a warning counts; else the name stays.
    """
    found = {
        name: next((place for place in _places(name) if os.path.isfile(raw / path_of(place))), "")
        for name in images.unique()
    }
    if lost := [name for name, place in found.items() if not place]:
        spelled: dict[str, set[str]] = {}
        for file in {name_of(path.relative_to(raw).as_posix()) for path in files_below(raw)}.difference(
            found.values()
        ):
            spelled.setdefault(file_key(file), set()).add(file)
        for name in lost:
            files = set().union(*(spelled.get(file_key(place), ()) for place in _places(name)))
            found[name] = files.pop() if len(files) == 1 else name
        if differing := sum(found[name] != name for name in lost):
            logger.warning(
                "%s: the names of %d files differ from the listed ones in case or Unicode form (an accent "
                "as a letter of its own, as macOS writes it); they are taken for the listed ones.",
                raw, differing,
            )  # fmt: skip
    return images.map(found)


def _places(name: str) -> Iterator[str]:
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        for folder in FOLDERS:
            yield from (str(Path(folder) / f"{spelling}{suffix}") for suffix in ("", *FILM_SUFFIXES))


def _is_label(column: pd.Series) -> bool:
    """Whether a column holds a finding.

    A known finding, and a column of labels with some words in it, is one even where its values are wrong:
    then the table is refused, not cut.
    """
    filled = column.str.strip()[lambda texts: ~texts.map(is_blank)]
    is_value = filled.isin(["0", "1", "-1", "0.0", "1.0", "-1.0"])
    is_word = pd.to_numeric(filled, errors="coerce").isna()
    mostly_labels = len(filled) > 0 and (is_value | is_word).all() and is_value.mean() > 0.5
    return bool(mostly_labels) or canonical(str(column.name)) in SYNONYMS

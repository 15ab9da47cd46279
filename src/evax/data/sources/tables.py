"""Tables of releases as text, and numbers in them; errors name the line."""

from __future__ import annotations

import difflib
import gzip
import logging
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from evax.errors import DataError
from evax.files import encoding_of
from evax.findings import as_spelled, is_blank, spelling_key

LABEL_VALUES = "Labels are 1 (present), 0 (absent), -1 (uncertain) or blank."
LONGEST_HEADER = 1 << 20  # letters
FEW_FILMS = 20  # of fewer, one patient may well have more than half
ALONE = (
    "each counts as a patient of its own, and images of one person may be divided between training and test."
)
NAMED = 10  # lines or files that a message names
PART_OF_RELEASE = "It is part of the release; --raw names the folder that holds it."

logger = logging.getLogger("evax")


def first_file(folder: Path, *names: str) -> Path:
    """The first of these files, maybe gzipped, that a folder holds; without any the first name."""
    there = (name for name in names if any((folder / f"{name}{end}").is_file() for end in ("", ".gz")))
    return folder / next(there, names[0])


def read_text_table(
    path: Path, columns: Sequence[str] = (), next_step: str = PART_OF_RELEASE
) -> pd.DataFrame:
    """A CSV file, or the same with .gz behind its name, as texts.

    columns: those to read, all required; none reads every column. next_step: what to do when it is missing.
    Raises DataError when it is missing, empty, no table, or lacks a column.
    """
    packed = path.with_name(f"{path.name}.gz")
    file = path if path.is_file() or not packed.is_file() else packed
    if not file.is_file():
        raise missing_file(path, "table", next_step)
    wanted = set(columns)
    try:
        if separator := _other_separator(file):
            raise DataError(
                f"{file} separates its columns by {separator}, as spreadsheets of some languages do: save it "
                "as CSV with commas between the columns and points in the parse_numbers."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row of more fields than the header
            table = pd.read_csv(
                file,
                encoding=encoding_of(file),
                dtype=str,
                keep_default_na=False,
                index_col=False,
                usecols=(lambda name: name.strip() in wanted) if columns else None,
            )
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not text in UTF-8 (Latin-1, maybe, or no text): save it as 'CSV UTF-8', or convert "
            "it with: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW."
        ) from error
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{file} is empty. {next_step}") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"line {line[1]}" if line else "a line"
        raise DataError(
            f"{file} is not a readable CSV table: {where} has more columns than the header, or a quote that "
            "does not end. Texts that hold commas belong in quotes."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}. Copy it again.") from error
    if not columns:
        return table
    table.columns = table.columns.str.strip()  # SIIM-ACR writes ' EncodedPixels'
    require_columns(file, table, columns)
    return table


def require_columns(path: Path, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Raises DataError naming the columns that a table lacks."""
    if missing := [name for name in names if name not in table.columns]:
        raise DataError(
            f"{path} lacks the columns {', '.join(missing)}: it is another table or another version of it, "
            "or its columns were renamed. Give them these names."
        )


def missing_file(path: Path, kind: str, next_step: str) -> DataError:
    """The error for a table or list that is not there, with the files of its kind that are: first those
    whose names are like its own.
    """
    suffixes = (path.suffix, f"{path.suffix}.gz")
    there = sorted(file.name for file in path.parent.glob("*") if file.name.lower().endswith(suffixes))
    near = difflib.get_close_matches(path.name, there, n=NAMED) or there[:NAMED]
    beside = f" The folder holds {', '.join(near)}." if near else ""
    return DataError(f"There is no {kind} {path}. {next_step}{beside}")


def _other_separator(file: Path) -> str:
    """What stands between the columns of the header instead of commas; "" for commas, and for one column."""
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding=encoding_of(file), errors="replace") as lines:
        header = lines.readline(LONGEST_HEADER)
    names = {";": "semicolons", "\t": "tabs", "|": "bars"}
    mark = max(names, key=header.count)
    return names[mark] if header.count(mark) > header.count(",") else ""


def parse_numbers(path: Path, column: pd.Series, expected: str) -> pd.Series:
    """A column of texts as floats, blank as NaN; DataError names the line of anything else."""
    texts = column.str.strip().mask(column.map(is_blank), "")
    parsed = pd.to_numeric(texts.replace("", None), errors="coerce")
    wrong = parsed.isna() & (texts != "")
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{path}: column '{column.name}', line {row + 2} holds '{texts.iloc[row]}', not a number. "
            f"{expected}"
        )
    return parsed.astype(float)


def label_columns(path: Path, rows: pd.DataFrame, findings: Sequence[str]) -> pd.DataFrame:
    """The columns of these findings, under whatever spelling, as float32 labels in this order."""
    labels = rows.rename(columns={name: as_spelled(name, findings) for name in rows.columns})
    require_columns(path, labels, findings)
    if len(twice := labels.columns[labels.columns.duplicated()].intersection(list(findings))):
        raise DataError(f"{path} has two columns of the finding {twice[0]}: delete one.")
    return pd.DataFrame(
        {
            finding: parse_numbers(path, labels[finding], LABEL_VALUES).astype(np.float32)
            for finding in findings
        }
    )


def warn_if_patients_doubtful(where: Path, patients: pd.Series, unnamed: str) -> None:
    """Says how many images name no patient, which names may mean one person, and where one patient has more
    than half of the images; never who.

    where: the table, whose lines are then named, or the folder. patients: as the source names them, "" for
    none. unnamed: what becomes of images without a patient.
    """
    counts = patients[patients != ""].value_counts()
    if missing := len(patients) - int(counts.sum()):
        logger.warning("%s: %d of %d images name no patient: %s", where, missing, len(patients), unnamed)
    _warn_if_patients_alike(where, patients)
    most = int(counts.max()) if len(counts) else 0
    if len(patients) >= FEW_FILMS and most > len(patients) / 2:
        logger.warning(
            "%s: one Patient ID holds %d of %d images, as where an anonymiser gave everybody the same: they "
            "count as one patient and are in one split. Give each person an ID of its own.",
            where, most, len(patients),
        )  # fmt: skip


def _warn_if_patients_alike(where: Path, patients: pd.Series) -> None:
    keys = {patient: spelling_key(patient) for patient in patients.unique() if patient}
    ids_of = Counter(keys.values())
    alike = {patient for patient, key in keys.items() if ids_of[key] > 1}
    if not alike:
        return
    lines = (np.flatnonzero(patients.isin(alike)) + 2).tolist()
    more = ", ..." if len(lines) > NAMED else ""
    logger.warning(
        "%s: %d patient IDs differ from another one only in case, Unicode form, blanks, '-' or '_' between "
        "words, leading zeros or a final '.0'%s. They count as different patients, and images of one person "
        "may be divided between training and test: write the ID of a person always in the same way.",
        where, len(alike), f" (lines {', '.join(map(str, lines[:NAMED]))}{more})" if where.is_file() else "",
    )  # fmt: skip


def ages(texts: pd.Series) -> pd.Series:
    """Years from texts such as 57, 63.5, 057Y or 39 yrs, 90 from "90+"; NaN for any other, as months (006M),
    dates, ranges and bounds (<1), and for more than a life has.
    """
    plain = texts.str.strip().replace("90+", "90")
    years = plain.str.extract(r"(?ai)^(\d+(?:\.\d+)?)\s*(?:y(?:ears?|rs?)?\.?(?: old)?)?$")[0]
    return years.astype(float).where(lambda years: years <= 120)  # ChestX-ray14 has ages such as 411

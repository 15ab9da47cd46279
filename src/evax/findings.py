"""The only table of finding names, their synonyms, and the label orders of public data sets."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

logger = logging.getLogger("evax")

# Canonical name: other spellings in public releases, besides case, blanks, '-' and '_'.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "Atelectasis": (),
    "Cardiomegaly": ("enlarged heart",),
    "Effusion": ("pleural effusion",),
    "Infiltration": ("infiltrate",),  # BBox_List_2017.csv says Infiltrate (facts section 6)
    "Mass": (),
    "Nodule": (),
    "Pneumonia": (),
    "Pneumothorax": (),
    "Consolidation": (),
    "Edema": ("oedema", "pulmonary edema"),
    "Emphysema": (),
    "Fibrosis": (),
    "Pleural_Thickening": ("pleural thickening",),
    "Hernia": (),
    # the others of CheXpert and MIMIC-CXR
    "No Finding": (),
    "Enlarged Cardiomediastinum": (),
    "Lung Opacity": (),
    "Lung Lesion": (),
    "Pleural Other": (),
    "Fracture": (),
    "Support Devices": (),
}

# Column order of the released 14-output models, checked against the official totals (facts section 3.2).
CHESTXRAY14: tuple[str, ...] = tuple(SYNONYMS)[:14]
# Output order of the authors' fine-tuned files (facts section 3.2).
CHEXPERT5: tuple[str, ...] = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion")
COVIDX3: tuple[str, ...] = ("Normal", "Pneumonia", "COVID-19")
COVIDX4: tuple[str, ...] = ("No COVID-19", "COVID-19")
# Columns of CheXpert's train.csv in order; MIMIC-CXR-JPG has the same labels, in alphabetical order.
CHEXPERT: tuple[str, ...] = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
# Where an uncertain mention is taken for present by the paper's "ones or zeros" and "smooth" policies.
UNCERTAIN_MEANS_PRESENT: frozenset[str] = frozenset({"Atelectasis", "Edema"})


# What spreadsheets, pandas and R write where a cell is blank, in lower case.
BLANK_WORDS = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "nat", "null"})


def is_blank(text: str) -> bool:
    """Whether a cell is blank or holds a word for it, as "nan". "None" is no such word: it can be a class."""
    return text.strip().casefold() in BLANK_WORDS


def names_nobody(text: str) -> bool:
    """Whether a patient's name is blank: as is_blank, and "None"."""
    return is_blank(text) or text.strip().casefold() == "none"


def spelling_key(name: str) -> str:
    """Equal for names that differ only in case, Unicode form, blanks, "-" and "_" between words, leading
    zeros or a final ".0".
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()
    text = re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", text)
    text = re.sub(r"(?<![\d.,])0+(?=\d)", "", text)
    return re.sub(r"(?<=\d)\.0+$", "", text)


_CANONICAL = {
    spelling_key(spelling): name for name, others in SYNONYMS.items() for spelling in (name, *others)
}


def canonical(name: str) -> str:
    """The table's spelling of a finding; a name the table does not know is returned stripped, in NFC."""
    return _CANONICAL.get(spelling_key(name), unicodedata.normalize("NFC", name.strip()))


def finding_key(name: str) -> str:
    """Equal for names that mean the same class or finding: see spelling_key, and synonyms of the table."""
    return spelling_key(canonical(name))


def as_spelled(name: str, known: Iterable[str]) -> str:
    """The known name that is meant by `name`, whatever its spelling; without one, canonical(name)."""
    known = tuple(known)
    if name in known:
        return name
    return next((other for other in known if finding_key(other) == finding_key(name)), canonical(name))


def one_spelling(where: Path, names: Iterable[str], known: Iterable[str] = ()) -> dict[str, str]:
    """Each name of a class or finding -> the one spelling of all that mean the same.

    names: as written, one per use. known: names whose spelling goes first; then that of the table of
    findings, then the most frequent. A warning lists the spellings that become one.
    """
    counts = Counter(names)
    spelled = {finding_key(name): name for name in known}
    chosen = {
        name: spelled.setdefault(finding_key(name), canonical(name))
        for name in sorted(counts, key=lambda name: (-counts[name], name))
    }
    merged = [
        f"{spelling} ({', '.join(f'{name!r} {counts[name]} times' for name in written)})"
        for spelling in sorted(set(chosen.values()))
        if len(written := [name for name in counts if chosen[name] == spelling]) > 1
    ]
    if merged:
        logger.warning("%s: names that differ only in spelling count as one: %s.", where, "; ".join(merged))
    return chosen

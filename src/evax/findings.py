"""The only table of finding names, their synonyms, and the label orders of public data sets."""

from __future__ import annotations

import re

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


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


_CANONICAL = {_key(spelling): name for name, others in SYNONYMS.items() for spelling in (name, *others)}


def canonical(name: str) -> str:
    """The table's spelling of a finding; a name the table does not know is returned as it is, stripped."""
    return _CANONICAL.get(_key(name), name.strip())

"""Merged-520k, the corpus of the paper's pre-training: three releases in one manifest without labels.

The paper names the releases, frontal views only and "over 520 k" images, none of them tested on later; it
released no list (facts section 3.1). What fits its number best is every frontal image but the official test
images of ChestX-ray14 and the valid ones of CheXpert. That composition holds images which other sets test on
under other names, because RSNA's and SIIM-ACR's images, and part of COVIDx's, are ChestX-ray14's.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from evax.data.manifest import COLUMNS, SPLIT_KEY, Manifest
from evax.data.sources import list_source
from evax.data.sources.record import PublicSet
from evax.data.sources.tables import read_text_table
from evax.data.split import LIST_SUFFIX, image_rows, lines_of, names_in, without_suffix
from evax.errors import ConfigError, DataError
from evax.files import name_of, read_json

PUBLIC_SET = PublicSet(
    what="ChestX-ray14, CheXpert and MIMIC-CXR-JPG as one corpus",
    terms="those of the three releases",
    layout="chestxray14/  chexpert/  mimic_cxr/",
    counts={"films listed": 112120 + 223414 + 234 + 377110},
    counts_from="the three releases together, whatever is left out",
)

RELEASES = ("chestxray14", "chexpert", "mimic_cxr")
# release: why its own test images are in neither composition
TESTED = {"chestxray14": "official test list of ChestX-ray14", "chexpert": "valid.csv of CheXpert"}
OWN_TEST = "official test split of MIMIC-CXR"  # which the paper does not test on
SAME_PATIENT = "other image of a patient who is tested"
PATIENT_FOLDER = {"chexpert": 1, "mimic_cxr": 2}  # place of the patient in a path of these releases
PREFIX = re.compile(r"^(?:.*/)?(?:chexpert(?:-v1\.0[^/]*)?)/", re.IGNORECASE)  # as CheXpert's tables have it
NO_ID = re.compile(r"view\d+_(?:frontal|lateral)")  # CheXpert's file names: the same for many patients
RSNA_NAMES = ("subset_img_id", "SOPInstanceUID")  # of img_id, a file name of ChestX-ray14

logger = logging.getLogger("evax")


def read_merged_520k(raw: Path, tested: Path | None = None) -> Manifest:
    """The frontal images of chestxray14/, chexpert/ and mimic_cxr/ in RAW, each a release in its official
    layout.

    tested: folder, with its subfolders, of lists of tested images (*test*.txt in any case, maybe gzipped; a
    image in each line, see names_in), of RSNA's mapping (*.json), and of tables `image,other` of other names
    (*.csv). These images, all images of their patients (also where only a lateral image is tested) and the test
    split of MIMIC-CXR are left out; without it, the paper's likely composition. Both sizes are said, with
    what is left out and why, and files of the folder that are none of these.
    Raises DataError for a release that is missing or not in its layout, and for lists that are missing or
    cannot be read; ConfigError for a recipe's `tested` that nobody filled in.
    """
    if tested == Path():
        raise ConfigError(
            "This recipe needs --tested LISTS: the folder with the lists of the images tested on later. "
            "(Is it the folder you are in? Then give its full path.)"
        )
    if tested and not tested.is_dir():
        raise DataError(
            f"There is no folder {tested}. --tested names the folder with the lists of tested images."
        )
    if missing := [name for name in RELEASES if not (raw / name).is_dir()]:
        raise DataError(
            f"{raw} has no folder {missing[0]}: it holds the official releases, or links to them, as "
            f"{', '.join(RELEASES)}."
        )
    parts, other_views = [], dict[str, str]()
    for name in RELEASES:
        release = list_source(name, raw / name, {})
        parts.append(_films(name, release))
        other_views |= {f"{name}/{image}": why for image, why in release.left_out.items()}
    films = pd.concat(parts, ignore_index=True)
    films["leak"] = _leaks(films, list(other_views), tested)
    in_paper = films["why"] == ""
    clean = in_paper & (films["leak"] == "")
    _say(films, other_views, in_paper, clean, "without known leaks" if tested else "without own tests")
    if tested is None:
        logger.info(
            "Taken: the paper's likely composition. Images that RSNA, SIIM-ACR and COVIDx test on are in it; "
            "--tested LISTS leaves them out."
        )
    kept = clean if tested else in_paper
    why = films["why"].mask(in_paper, films["leak"])[~kept]
    table = films.loc[kept, list(COLUMNS)].assign(split="train").reset_index(drop=True)
    table[SPLIT_KEY] = table["patient"].str.partition("/")[2]  # as in a store of the release alone
    return Manifest(
        table=table,
        findings=(),
        exclusive=False,
        source="merged_520k",
        root=raw,
        left_out=other_views | dict(zip(films.loc[~kept, "image"], why, strict=True)),
    )


def _films(name: str, release: Manifest) -> pd.DataFrame:
    """COLUMNS, `release`, and `why` an image is in no composition or ""; patients of two releases differ."""
    films = release.table[list(COLUMNS)].assign(release=name)
    films["image"], films["patient"] = (f"{name}/" + films[column] for column in ("image", "patient"))
    films["why"] = ""
    films.loc[films["split"] == "test", "why"] = TESTED.get(name, "")
    return films


def _leaks(films: pd.DataFrame, other_views: list[str], tested: Path | None) -> pd.Series:
    """Why an image must not be learned from if all tests are to stay clean, or ""."""
    own_test = (films["release"] == "mimic_cxr") & (films["split"] == "test")
    leak = pd.Series("", index=films.index).mask(own_test, OWN_TEST)
    if tested is None:
        return leak
    images = pd.concat([films["image"], pd.Series(other_views, dtype=str)], ignore_index=True)
    rows = image_rows(images.str.partition("/")[2])  # without the release's folder
    patients = [*films["patient"], *map(_patient, other_views)]
    tested_patients = set(films.loc[own_test, "patient"])
    also = _other_names(tested)
    unknown, found = Counter[str](), dict[int, str]()
    files = [path for path in sorted(tested.rglob("*")) if path.is_file()]
    lists = [path for path in files if re.search(r"test.*" + LIST_SUFFIX, path.name.lower())]
    if not lists:
        raise DataError(f"{tested} holds no list of tested images: no file is called *test*.txt.")
    others = [path for path in files if path not in lists and path.suffix.lower() not in (".json", ".csv")]
    if others:
        names = ", ".join(path.relative_to(tested).as_posix() for path in others)
        logger.warning("%s: not read, because no list of tested images (*test*.txt): %s.", tested, names)
    for path in lists:
        place = name_of(path.relative_to(tested).as_posix())
        for line in lines_of(path):
            if (row := _row(line, rows, also)) is None:
                unknown[place] += 1
                continue
            tested_patients.add(patients[row])
            if row < len(films):  # else another view, which is left out anyway
                found.setdefault(row, f"tested by {place}")
    leak.update(pd.Series(found, dtype=str))
    leak[(leak == "") & films["patient"].isin(tested_patients)] = SAME_PATIENT
    for place, count in unknown.items():
        logger.warning(
            "%s: %d of its names are no image of the three releases, as far as names and %s tell. Where they "
            "are such images under other names they are still in: evax audit finds them by their pixels.",
            place, count, f"{len(also)} other names in {tested.name}",
        )  # fmt: skip
    return leak


def _patient(image: str) -> str:
    """The patient of an image of another view, as _films writes them; "" where the path does not say."""
    release, _, path = image.partition("/")
    parts = path.split("/")
    place = PATIENT_FOLDER.get(release, len(parts))
    return f"{release}/{parts[place]}" if place < len(parts) else ""


def _row(line: str, rows: dict[str, int], also: dict[str, str]) -> int | None:
    """The row of the image that a line of a list names, maybe by another name."""
    for name in names_in(line):
        for known in (name, also.get(name, "")):
            for place in _places(known):
                if place in rows:
                    return rows[place]
    return None


def _places(name: str) -> Iterator[str]:
    """Where a release has a film: without the folders that CheXpert's tables write before it, in train/ and
    valid/; by its file name alone only where that is an id, as in the other two releases.
    """
    path = PREFIX.sub("", name)
    last = path.rpartition("/")[2]
    if not NO_ID.fullmatch(last):
        yield from (path, last)
    elif path != last:
        yield from (path, f"train/{path}", f"valid/{path}")


def _other_names(folder: Path) -> dict[str, str]:
    """Other name -> image."""
    films: dict[str, str] = {}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in (path for path in files if path.suffix.lower() == ".json"):
        content = read_json(path)
        if not isinstance(content, list) or not all(
            isinstance(entry, dict) and isinstance(entry.get("img_id"), str) for entry in content
        ):
            raise DataError(f"{path} is not RSNA's mapping: a list of entries with img_id and subset_img_id.")
        for entry in content:
            film = without_suffix(entry["img_id"])
            films |= {str(entry[key]): film for key in RSNA_NAMES if key in entry}
    for path in (path for path in files if path.suffix.lower() == ".csv"):
        table = read_text_table(path, ("film", "other"), "It is a table of other names of images.")
        films |= dict(zip(table["other"].map(without_suffix), table["film"].map(without_suffix), strict=True))
    return films


def _say(
    films: pd.DataFrame, other_views: dict[str, str], in_paper: pd.Series, clean: pd.Series, kind: str
) -> None:
    """The two sizes, release by release, and the reasons.

    kind: of the second composition.
    """

    def counts(column: pd.Series) -> Counter[str]:
        return Counter({str(value): int(count) for value, count in column.value_counts().items()})

    listed = counts(films["release"]) + Counter(image.partition("/")[0] for image in other_views)
    sizes = [listed, counts(films.loc[in_paper, "release"]), counts(films.loc[clean, "release"])]
    logger.info("%-24s %9s %20s %20s", "Merged-520k, films", "listed", "the paper's, likely", kind)
    for name in RELEASES:
        logger.info("  %-22s %9s %20s %20s", name, *(f"{size[name]:,}" for size in sizes))
    logger.info("  %-22s %9s %20s %20s", "together", *(f"{size.total():,}" for size in sizes))
    others = counts(films.loc[~in_paper, "why"]) + Counter(other_views.values())
    for what, reasons in (
        ("both", others),
        (f"the one {kind}", counts(films.loc[in_paper & ~clean, "leak"])),
    ):
        for reason, count in reasons.most_common():
            logger.info("Left out of %s: %s, %s.", what, f"{count:,}", reason)

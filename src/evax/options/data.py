"""Options of the commands that make and describe stores."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from evax.config import validated
from evax.data.sources import PHANTOMS, SetName, SourceName, public_set
from evax.errors import ConfigError


@validated
@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Get a data set. phantoms: synthetic radiographs with known findings, boxes and masks, drawn on this
    machine. Others: downloaded and unpacked where an address gives them, else how to ask and what the folder
    must look like.

    Archives lie in the folder EVAX_DATA (default: the user's cache), where those put by hand are used too;
    EVAX_DATA_MIRROR names another server than the official one.
    """

    name: tyro.conf.Positional[SetName]
    """Data set."""
    out: Path | None = None
    """Folder that is filled, as `evax prepare --raw` wants it; not needed for a set one has to ask for."""
    films: int = 1200
    """phantoms: how many."""
    seed: int = 0
    """phantoms: another seed draws other patients."""
    workers: int = 0
    """phantoms: processes; 0 uses every core."""

    def __post_init__(self) -> None:
        if self.films <= 0:
            raise ConfigError(f"images must be above 0, got {self.films}.")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}.")
        if self.workers < 0:
            raise ConfigError(f"workers must be at least 0, got {self.workers}.")
        if self.name != PHANTOMS:
            drawn = [field for field in fields(self) if field.name in ("films", "seed", "workers")]
            if stray := [field.name for field in drawn if getattr(self, field.name) != field.default]:
                raise ConfigError(f"fetch {self.name} does not take {', '.join(stray)}: phantoms do.")
        if self.out is None and (self.name == PHANTOMS or public_set(self.name).archives):
            raise ConfigError(f"fetch {self.name} needs --out, the folder to fill.")


@validated
@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Read every image once, resize it and keep it in a store; split the patients into train, val and test."""

    raw: Path
    """Folder that holds the images."""
    out: Path
    """Store to make."""
    source: SourceName = "csv"
    """What the folder is: a table and its images, a folder per class, images and masks, COCO boxes, a tree of
    DICOMs, or a public release in its official layout.
    """
    size: int = 336
    """Side of the stored image in pixels; the aspect is not kept."""
    bits: int | None = None
    """Depth of PNG and TIFF images of more than 8 bits, 8 to 16, whose white is then 2**bits - 1. Without it
    the images decide it once for all; bundles keep it, so that a single image is read as in training.
    """
    validation: float = 0.1
    """Share of the patients in the validation split."""
    test: float = 0.2
    """Share of the patients in the test split, where the release names none itself."""
    seed: int = 0
    """Of the split."""
    workers: int = 0
    """Processes that read; 0 uses every core."""
    lists: Path | None = None
    """Folder of train, val and test lists of image names, as of a published experiment: only these images."""
    verify: bool = False
    """First compare tables, published counts and disk, without decoding; a difference ends the work."""
    statistics: bool = False
    """Then write what the store is made of to OUT/statistics: table, figures and page, as evax describe."""
    table: str | None = None
    """csv: the table in RAW, labels.csv without it; coco: its JSON file, annotations.json without it."""
    label_column: str | None = None
    """csv: a column of class names, one per image; `label` is found by itself."""
    findings: tuple[str, ...] | None = None
    """csv: columns of 1, 0, -1 or blank; without it, all that hold nothing else."""
    patient_pattern: str | None = None
    """folders, masks, coco: regular expression whose first group, at a file name's start, is the patient."""
    region: str | None = None
    """masks: what a mask shows whose name says no finding; Region without it."""
    mask_value: tuple[int, ...] | None = None
    """csv, masks, shenzhen, lungs: the value of the mask files that is inside, where they have more than two:
    a number, or red, green and blue.
    """
    tested: Path | None = None
    """merged_520k: folder of lists of images that are tested on later, left out with all images of their
    patients; without it the paper's likely composition.
    """
    private: Path | None = None
    """dicom: folder for the pseudonym key and the crosswalk; OUT.private without it."""
    keep_burned_in: bool = False
    """dicom: keep images whose header says that text in the pixels identifies the patient; they are left out
    without it.
    """

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise ConfigError(f"size must lie between 16 and 4096 pixels, got {self.size}.")
        if self.bits is not None and not 8 <= self.bits <= 16:
            raise ConfigError(f"bits must lie between 8 and 16, got {self.bits}.")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}.")
        if self.workers < 0:
            raise ConfigError(f"workers must be at least 0, got {self.workers}.")
        if self.mask_value is not None and (
            len(self.mask_value) not in (1, 3)
            or not 0 <= min(self.mask_value) <= max(self.mask_value) <= 65535
        ):
            raise ConfigError(
                "mask_value is a number from 0 to 65535, or three for red, green and blue, "
                f"got {self.mask_value}."
            )
        if self.validation < 0 or self.test < 0 or self.validation + self.test > 1:
            raise ConfigError(
                f"validation and test are shares with a sum up to 1, got {self.validation} and {self.test}."
            )


@validated
@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Find patients, and images even if resized, re-encoded, inverted or slightly cropped, across splits and
    stores; `evax pretrain --audit OUT/audit.json` then refuses stores that leak.
    """

    stores: tyro.conf.Positional[tuple[Path, ...]]
    """Stores made by `evax prepare`: those that are trained on and those that are tested on."""
    out: Path
    """Run folder for audit.json, audit.html and duplicates.csv."""
    same_patients: bool = True
    """A patient's name means the same person in every store; otherwise only within a store."""
    fail_on_leaks: bool = False
    """Exit status 1 when a store trains on what is tested."""
    pictures: int = 24
    """Pairs shown on the page, those that leak first."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("audit needs stores: evax audit STORE... --out DIR.")
        if self.pictures < 0:
            raise ConfigError(f"pictures must be at least 0, got {self.pictures}.")


@validated
@dataclass(frozen=True, kw_only=True)
class DescribeConfig:
    """Images, patients, age, sex, view, findings and pixels of stores, with tests of their differences."""

    stores: tyro.conf.Positional[tuple[Path, ...]]
    """Stores made by `evax prepare`."""
    out: Path
    """Folder for statistics.json, statistics.csv, statistics.html and the figures."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("describe needs stores: evax describe STORE... --out DIR.")

"""Options of the commands that use trained bundles and finished runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from evax.boxed import DEFAULTS
from evax.config import validated
from evax.errors import ConfigError
from evax.evaluation.published import Table
from evax.options.adaptation import FinetuneConfig
from evax.options.data import FetchConfig, PrepareConfig
from evax.options.pretraining import PretrainConfig
from evax.options.studies import ProbeConfig
from evax.options.training import Precision

Tokens = Literal["mean", "cls", "patches"]


@validated
@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Turn images into feature vectors; any number of images in constant memory.

    Run the same command again to continue an interrupted one.
    """

    films: tyro.conf.Positional[tuple[Path, ...]]
    """Images, folders that are searched for images, or one store."""
    out: Path
    """Parquet file: image, feature, error (why an image could not be read); metadata: what features are."""
    bundle: Path | None = None
    """Encoder or classifier bundle; or give encoder and weights. evax_tiny_open, which comes with evax,
    without all three."""
    encoder: str | None = None
    """Encoder by name."""
    weights: Path | None = None
    """Weight file or bundle of the encoder, name of a published file, or imagenet."""
    image_size: int | None = None
    """Side of the network's input in pixels, a multiple of the encoder's patch; the bundle's, or 224."""
    tokens: Tokens = "mean"
    """mean of the patches; cls, the class token; patches, all of them, row by row in one vector."""
    batch_size: int = 32
    """Images per forward pass."""
    precision: Precision = "auto"
    """auto: bf16 autocast where it is measured to be faster on this machine."""

    def __post_init__(self) -> None:
        if not self.films:
            raise ConfigError("embed needs images: evax embed FILES|FOLDER|STORE --out x.parquet.")
        given = [value is not None for value in (self.bundle, self.encoder, self.weights)]
        if given not in ([False, False, False], [True, False, False], [False, True, True]):
            raise ConfigError("Give either bundle, which has its weights in it, or encoder and weights.")
        if not any(given):
            object.__setattr__(self, "bundle", Path(DEFAULTS["eva_x_tiny_patch16_224"]))
        size = self.image_size
        if size is not None and (size < 32 or (size % 16 and size % 14)):
            raise ConfigError(f"image_size must be a multiple of 16 or 14 from 32 on, got {size}.")
        if self.batch_size <= 0:
            raise ConfigError(f"batch_size must be above 0, got {self.batch_size}.")


@validated
@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a bundle as ONNX, for machines without torch, after comparing it with torch on images."""

    bundle: tyro.conf.Positional[Path]
    """Classifier or encoder bundle; model.onnx and onnx.json are written into it."""
    films: tuple[Path, ...] = ()
    """Images or folders to compare on; default: synthetic images, black, white and noise."""
    most_films: int = 64
    """Largest number of images that are compared."""
    runtimes: tuple[Literal["onnx", "openvino"], ...] = ("onnx",)
    """Runtimes that must agree with torch; OpenVINO reads the same file."""

    def __post_init__(self) -> None:
        if self.most_films <= 0:
            raise ConfigError(f"most_films must be above 0, got {self.most_films}.")
        if not self.runtimes:
            raise ConfigError("runtimes must name at least one: --runtimes onnx.")


@validated
@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Score images with a classifier (a bundle or a published one), or draw masks with a segmenter.

    Any number of images in constant memory.
    """

    bundle: tyro.conf.Positional[Path]
    """Classifier or segmenter bundle; or the name of a published classifier (`evax zoo list`), or its file
    under the official file name: fetched if need be, and converted once into the folder EVAX_WEIGHTS."""
    films: tyro.conf.Positional[tuple[Path, ...]]
    """Images, or folders that are searched for images."""
    out: Path
    """CSV file: file, one probability and one present/absent per finding, notes on the image, error.
    Exclusive classes: one probability each, and the predicted class. Segmenter: share of the image,
    present/absent, and cm2 where the pixel spacing is known."""
    heatmaps: Path | None = None
    """Folder for one Grad-CAM picture per image and present finding, or of the predicted class:
    ROW-FILM-FINDING.png, with the row of OUT."""
    masks: Path | None = None
    """Folder for a segmenter's masks at the size of the image: ROW-FILM-FINDING.png, white inside, with the
    row of OUT; and ROW-FILM.png, the image with their edges."""
    batch_size: int = 16
    """Images per forward pass."""
    runtime: Literal["torch", "onnx", "openvino"] | None = None
    """onnx and openvino run what `evax export` wrote, without torch; default: torch where it is installed."""
    resume: bool = False
    """Continue a stopped run of the same bundle and options. Images that moved, and those after them, are
    scored again."""

    def __post_init__(self) -> None:
        if not self.films:
            raise ConfigError("predict needs images: evax predict BUNDLE FILES|FOLDER --out x.csv.")
        if self.batch_size <= 0:
            raise ConfigError(f"batch_size must be above 0, got {self.batch_size}.")


@validated
@dataclass(frozen=True, kw_only=True)
class LocalizeConfig:
    """Overlap of the heat map with true boxes or masks (IoU, AP25, AP50, mAP), and the pointing game."""

    bundle: tyro.conf.Positional[Path]
    """Classifier bundle written by `evax finetune`, or a published classifier, as in `evax predict`."""
    store: Path
    """Store whose images have boxes or masks."""
    out: Path
    """Run folder for report.json, report.html, cases.csv and overlays/."""
    at: Literal["norm1", "output"] = "norm1"
    """Layer of the map: norm1 as the paper, or output."""
    split: Literal["train", "val", "test"] = "test"
    """Split whose images are scored."""
    truth: Literal["boxes", "masks", "auto"] = "boxes"
    """What a map is compared with; auto: masks for the findings that have some, boxes for the others."""
    protocol: Literal["clean", "paper"] = "clean"
    """clean: the threshold is chosen on other images than it is scored on. paper: on the same boxes, each a
    case, as in the released code; not comparable with clean.
    """
    overlays: int = 3
    """Pictures per finding, of the images with the highest probability."""
    resamples: int = 2000
    """Bootstrap resamples of the patients."""
    seed: int = 0
    """Seed of the bootstrap, and of the folds where the scored images choose the threshold for each other."""

    def __post_init__(self) -> None:
        if self.overlays < 0 or self.resamples <= 0:
            raise ConfigError("overlays must be at least 0 and resamples above 0.")
        if self.protocol == "paper" and self.truth != "boxes":
            raise ConfigError(
                f"The paper's protocol scores boxes one by one, got truth {self.truth}: leave --truth out, "
                "or give --protocol clean."
            )


@validated
@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare finished runs: of finetune, probe and fewshot on the same test images, image by image; or of
    segment; or of pretrain by their probes.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Two or more run folders of finetune, fewshot or probe; or of pretrain; or of segment. One sweep alone
    compares its label shares, one probe alone its two classifiers."""
    out: Path
    """Folder for compare.json, compare.html, tables (CSV) and figures (SVG, PNG, CSV)."""
    names: tuple[str, ...] = ()
    """Names of the runs in tables and figures; default: the names of the folders."""
    reference: str = ""
    """Name of the run that all others are compared with; default: the first."""
    published: tuple[Table, ...] = ()
    """Tables of published numbers to show next to them; they are not re-run."""
    prevalence: float | None = None
    """Prevalence in [0, 1] for which PPV and NPV are shown, next to that of the test images."""
    resamples: int = 2000
    """Bootstrap resamples of the test patients."""
    seed: int = 0
    """Seed of the bootstrap, which pairs all runs by resampling the same patients."""
    repeats: int = 20
    """Images timed per network on this CPU, one at a time; 0: no timing."""
    threads: int = 1
    """Threads while timing."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("compare needs runs: evax compare RUN RUN --out FOLDER.")
        if self.prevalence is not None and not 0 <= self.prevalence <= 1:
            raise ConfigError(f"prevalence is a share of the patients in [0, 1], got {self.prevalence}.")
        for name, least in (("resamples", 1), ("repeats", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}.")


@validated
@dataclass(frozen=True, kw_only=True)
class ZooConfig:
    """Published weights, the paper's baselines included. list: all of them; list NAME: the details of one.
    fetch NAME: download a file. convert SOURCE: convert it to another format.

    Files are kept in the folder EVAX_WEIGHTS (default: the user's cache), also those put there by hand.
    EVAX_WEIGHTS_MIRROR names a server to use instead of the authors' page.
    """

    action: tyro.conf.Positional[Literal["list", "fetch", "convert"]]
    """What to do."""
    source: tyro.conf.Positional[str | None] = None
    """list, fetch: a name of the list. convert: a name, a file in the authors' layout, or a bundle."""
    to: Literal["bundle", "official", "timm", "transformers"] | None = None
    """convert: a bundle for `evax predict`; the authors' file; a folder that timm and transformers open."""
    out: Path | None = None
    """fetch: folder, instead of EVAX_WEIGHTS. convert: the new folder, or the new file for official."""
    like: str | None = None
    """convert: name of the published weights that SOURCE holds, if its file was renamed."""
    full_precision: bool = False
    """convert: the float32 weights of a DeepSpeed bundle instead of its float16 copies."""

    def __post_init__(self) -> None:
        if self.action != "list" and self.source is None:
            raise ConfigError(f"zoo {self.action} needs a name or file after it; `evax zoo list` shows them.")
        if self.action == "convert" and (self.to is None or self.out is None):
            raise ConfigError("zoo convert needs --to bundle|official|timm|transformers and --out.")
        allowed = {"list": ("source",), "fetch": ("source", "out")}.get(self.action)
        given = [name for name in ("source", "to", "out", "like", "full_precision") if getattr(self, name)]
        if allowed is not None and (stray := [name for name in given if name not in allowed]):
            raise ConfigError(f"zoo {self.action} does not take {', '.join(stray)}.")


@validated
@dataclass(frozen=True, kw_only=True)
class RecipesConfig:
    """List the recipes that come with evax, or show one."""

    name: tyro.conf.Positional[str | None] = None
    """Recipe to show."""


Hidden: Any = tyro.conf.Suppress


@validated
@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """All steps from images to a report: stores -> encoder without labels -> classifier -> test -> Grad-CAM.

    Without --recipe: synthetic images. A recipe lists the steps; each entry holds the options of one command.
    RUN at the start of a path is the run folder.
    """

    default_recipe: ClassVar[str] = "demo"

    out: Path
    """Run folder; the report is OUT/report.html."""
    title: str = "evax demo"
    """Heading of the report."""
    resume: bool = False
    """Continue the run in OUT: finished steps are kept."""
    fetch: Annotated[dict[str, FetchConfig], Hidden] = field(default_factory=dict)
    """Data sets to get."""
    prepare: Annotated[dict[str, PrepareConfig], Hidden] = field(default_factory=dict)
    """Stores to make."""
    pretrain: Annotated[dict[str, PretrainConfig], Hidden] = field(default_factory=dict)
    """Encoders to train."""
    probe: Annotated[dict[str, ProbeConfig], Hidden] = field(default_factory=dict)
    """Frozen encoders to test."""
    finetune: Annotated[dict[str, FinetuneConfig], Hidden] = field(default_factory=dict)
    """Classifiers to train and test."""
    localize: Annotated[dict[str, LocalizeConfig], Hidden] = field(default_factory=dict)
    """Localisations to score against boxes."""
    predict: Annotated[dict[str, PredictConfig], Hidden] = field(default_factory=dict)
    """Images to score."""
    export: Annotated[dict[str, ExportConfig], Hidden] = field(default_factory=dict)
    """Bundles to write as ONNX."""

"""The table of the authors' released weight files (facts 1.4); read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evax.errors import unknown_name
from evax.findings import CHESTXRAY14, CHEXPERT5, COVIDX3, COVIDX4
from evax.published import MERGED_520K_MEAN, MERGED_520K_STD

PUBLISHED_AT = "https://huggingface.co/MapleF/eva_x/resolve/main"
LICENCE = "MIT"  # the tag of the page the files lie on; the authors' repository has no licence file
TINY, SMALL, BASE = (f"eva_x_{size}_patch16_224" for size in ("tiny", "small", "base"))


@dataclass(frozen=True, kw_only=True)
class Released:
    """What is known about one released file."""

    file: str
    """Official file name."""
    size: int | None = None
    """Bytes; rounded to three figures, as the page shows it, unless `size_is_exact`."""
    size_is_exact: bool = False
    layout: Literal["mim", "fine-tuned", "torchvision", "mmseg"]
    """mim: DeepSpeed bundle; fine-tuned: encoder and head under `model`. evax loads these two."""
    encoder: str
    """Architecture."""
    purpose: str
    """What it is for."""
    findings: tuple[str, ...] = ()
    """Order of the outputs; empty without a head."""
    exclusive: bool = False
    """Exactly one of the findings per film."""
    input_size: int = 224
    """Side of the network's input in pixels."""
    resize_size: int | None = None
    """Side to which films were resized before their central input_size square was cut out."""
    mean: float = MERGED_520K_MEAN
    """Of pixels in [0, 1], subtracted."""
    std: float = MERGED_520K_STD
    """Of pixels in [0, 1], divided by."""
    sha256: str = ""
    """As far as it was published: start…end."""
    licence: str = LICENCE

    @property
    def loadable(self) -> bool:
        """Whether evax makes an encoder or classifier of it."""
        return self.layout in ("mim", "fine-tuned")

    @property
    def url(self) -> str:
        """Where the authors put it."""
        return f"{PUBLISHED_AT}/{self.file}"


def _mim(encoder: str, file: str, size: int, size_is_exact: bool = False, sha256: str = "") -> Released:
    return Released(
        file=file, size=size, size_is_exact=size_is_exact, sha256=sha256, layout="mim", encoder=encoder,
        purpose="features, fine-tuning",
    )  # fmt: skip


def _tuned(
    encoder: str,
    file: str,
    size: int,
    purpose: str,
    findings: tuple[str, ...],
    size_is_exact: bool = False,
    exclusive: bool = False,
    input_size: int = 224,
    resize_size: int = 256,
) -> Released:
    return Released(
        file=file, size=size, size_is_exact=size_is_exact, layout="fine-tuned", encoder=encoder,
        purpose=purpose, findings=findings, exclusive=exclusive, input_size=input_size,
        resize_size=resize_size,
    )  # fmt: skip


def _baseline(encoder: str, file: str, size: int | None) -> Released:
    return Released(
        file=file, size=size, layout="torchvision", encoder=encoder, purpose="ChestX-ray14 baseline",
        findings=CHESTXRAY14, mean=0.5056, std=0.252,
    )  # fmt: skip


_STEM = "patch16_merged520k_mim"
_CXR14, _CHEXPERT, _COVID = "ChestX-ray14, 14 findings", "CheXpert, 5 findings", "COVIDx, exclusive classes"

RELEASED: dict[str, Released] = {
    "eva_x_tiny_mim": _mim(TINY, f"eva_x_tiny_{_STEM}.pt", 79_500_000),
    "eva_x_small_mim": _mim(
        SMALL, f"eva_x_small_{_STEM}.pt", 307_569_543, True, sha256="135d70a6988b5aac…302316c2"
    ),
    "eva_x_base_mim": _mim(BASE, f"eva_x_base_{_STEM}.pt", 1_210_000_000),
    "eva_x_tiny_cxr14": _tuned(
        TINY, f"eva_x_tiny_{_STEM}_cxr14_ft.pth", 66_642_261, _CXR14, CHESTXRAY14, True
    ),
    "eva_x_small_cxr14": _tuned(SMALL, f"eva_x_small_{_STEM}_cxr14_ft.pth", 260_000_000, _CXR14, CHESTXRAY14),
    "eva_x_base_cxr14": _tuned(
        BASE, f"eva_x_base_{_STEM}_cxr14_ft.pth", 1_030_736_597, _CXR14, CHESTXRAY14, True
    ),
    "eva_x_tiny_chexpert": _tuned(  # "mrerged": the official name
        TINY, "eva_x_tiny_patch16_mrerged520k_mim_chexpert_ft.pth", 65_400_000, _CHEXPERT, CHEXPERT5,
        resize_size=224,
    ),
    "eva_x_small_chexpert": _tuned(
        SMALL, f"eva_x_small_{_STEM}_chexpert_ft.pth", 260_000_000, _CHEXPERT, CHEXPERT5
    ),
    "eva_x_small_covidx3": _tuned(
        SMALL, f"eva_x_small_{_STEM}_covidx3_ft.pth", 264_000_000, _COVID, COVIDX3,
        exclusive=True, input_size=480, resize_size=480,
    ),
    "eva_x_small_covidx4": _tuned(
        SMALL, f"eva_x_small_{_STEM}_covidx4_ft.pth", 263_930_237, _COVID, COVIDX4, True,
        exclusive=True, input_size=480, resize_size=480,
    ),
    "densenet121_mocov2_cxr14": _baseline("densenet121", "densenet121_mocov2_pt_cxr14_ft.pth", 84_500_000),
    "densenet121_medical_mae_cxr14": _baseline(
        "densenet121", "densenet121_medical_mae_pt_cxr14_ft.pth", 84_500_000
    ),
    "resnet50_biovil_cxr14": _baseline("resnet50", "resnet50_biovil_pt_cxr14_ft.pth", None),
    "resnet50_mgca_cxr14": _baseline("resnet50", "resnet50_mgca_pt_cxr14_ft.pth", None),
    "resnet50_medklip_cxr14": _baseline("resnet50", "resnet50_medklip_pt_cxr14_ft.pth", None),
    "eva_x_small_siim": Released(
        file="vit_s_upernet_eva_x_merged520k_mim_siim_ft.pth", layout="mmseg", encoder=SMALL,
        purpose="pneumothorax masks (UPerNet)", findings=("Pneumothorax",), input_size=512,
    ),
}  # fmt: skip


def released(name: str) -> Released:
    """A row of the table. Raises ConfigError with the nearest name for one it does not hold."""
    if name not in RELEASED:
        raise unknown_name("published weight", name, RELEASED)
    return RELEASED[name]


def row_of(weights: Path) -> Released | None:
    """The row of weights given by their name in the table or as a file with its official name, or None."""
    return RELEASED.get(str(weights)) or RELEASED.get(name_of_file(weights.name) or "")


def name_of_file(file: str) -> str | None:
    """The name of an official file name, or None."""
    return next((name for name, row in RELEASED.items() if row.file == file), None)

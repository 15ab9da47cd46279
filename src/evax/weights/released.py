"""The table of published weight files: the authors', the paper's baselines, others (paper-facts.md 1.4, 7).

Read without torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from evax.findings import CHESTXRAY14, CHEXPERT5, COVIDX3, COVIDX4
from evax.published import IMAGENET_MEAN, IMAGENET_STD, MERGED_520K_MEAN, MERGED_520K_STD, Channels

PUBLISHED_AT = "https://huggingface.co/MapleF/eva_x/resolve/main"
SEE_PAGE = "see its page"
LICENCE = "MIT"  # the tag of the page the files lie on; the authors' repository has no licence file
TINY, SMALL, BASE = (f"eva_x_{size}_patch16_224" for size in ("tiny", "small", "base"))
LayoutName = Literal[
    "mim", "fine-tuned", "torchvision", "moco", "mae", "vit", "smp", "mgca", "biovil", "medklip",
    "transformers", "torchxrayvision", "mmseg", "other",
]  # fmt: skip
Group = Literal["EVA-X", "Baselines of the paper", "Other encoders of chest images", "Not offered"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True, kw_only=True)
class Released:
    """What is known about one published file."""

    group: Group = "EVA-X"
    """Under which heading it is listed."""
    file: str
    """Official file name; where that is too common to tell anything, the name it has in evax's folder."""
    size: int | None = None
    """Bytes; rounded to three figures, as the page shows it, unless `size_is_exact`."""
    size_is_exact: bool = False
    layout: LayoutName
    """mim: DeepSpeed bundle; fine-tuned: encoder and head under `model`; the others: weights.foreign.LAYOUTS.
    evax loads all but mmseg and other.
    """
    encoder: str
    """Architecture."""
    purpose: str
    """What it is for."""
    findings: tuple[str, ...] = ()
    """Order of the outputs; empty without a head."""
    exclusive: bool = False
    """Exactly one of the findings per image."""
    input_size: int = 224
    """Side of the network's input in pixels."""
    resize_size: int | None = None
    """Side to which images were resized before their central input_size square was cut out."""
    mean: Channels = MERGED_520K_MEAN
    """Of pixels in [0, 1], subtracted."""
    std: Channels = MERGED_520K_STD
    """Of pixels in [0, 1], divided by."""
    address: str = ""
    """Where the file lies, when it is not on the authors' page."""
    by_hand: str = ""
    """How to get a file that no address gives, as the end of a sentence."""
    refused: str = ""
    """Why evax neither fetches nor loads it."""
    sha256: str = ""
    """As far as it was published: start…end."""
    licence: str = LICENCE

    @property
    def loadable(self) -> bool:
        """Whether evax makes an encoder or classifier of it."""
        return self.layout not in ("mmseg", "other") and not self.refused

    @property
    def url(self) -> str:
        """Where its authors put it; empty when no address gives the file."""
        return self.address or ("" if self.by_hand or self.refused else f"{PUBLISHED_AT}/{self.file}")


def _mim(encoder: str, file: str, size: int, size_is_exact: bool = False, sha256: str = "") -> Released:
    return Released(
        file=file, size=size, size_is_exact=size_is_exact, sha256=sha256, layout="mim", encoder=encoder,
        purpose="features, fine-tuning",
    )  # fmt: skip


def _tuned(
    encoder: str, file: str, size: int, purpose: str, findings: tuple[str, ...], **more: Any
) -> Released:
    """more: further fields of Released; resize_size is 256 by default."""
    return Released(
        file=file, size=size, layout="fine-tuned", encoder=encoder, purpose=purpose, findings=findings,
        **({"resize_size": 256} | more),
    )  # fmt: skip


def _tuned_baseline(encoder: str, file: str, size: int | None) -> Released:
    return Released(
        file=file, size=size, layout="torchvision", encoder=encoder, purpose="ChestX-ray14 baseline",
        findings=CHESTXRAY14, resize_size=256, mean=MEDICAL_MAE[0], std=MEDICAL_MAE[1],
    )  # fmt: skip


def _baseline(
    encoder: str,
    layout: LayoutName,
    file: str,
    purpose: str,
    normalisation: tuple[Channels, Channels],
    address: str = "",
    page: str = "",
    licence: str = SEE_PAGE,
) -> Released:
    """address: of the file. page: from where a person gets it; Google's drive answers browsers only."""
    beginning = re.search(r"-([0-9a-f]{8})\.pth$", file)  # torch.hub keeps that of the checksum in the name
    return Released(
        group="Baselines of the paper", file=file, sha256=f"{beginning[1]}…" if beginning else "",
        layout=layout, encoder=encoder, purpose=purpose,
        mean=normalisation[0], std=normalisation[1], licence=licence, address=address,
        by_hand=f"from {page}" if page else "",
    )  # fmt: skip


def _eva02(encoder: str, size: str) -> Released:
    file = f"eva02_{size}_pt_in21k_p14.pt"
    return _baseline(
        encoder, "mim", file, "ImageNet-21k, EVA-02", CLIP,
        address=f"{_HUB}/Yuxin-CV/EVA-02/resolve/main/eva02/pt/{file}", licence="Apache-2.0",
    )  # fmt: skip


def _not_offered(purpose: str, encoder: str, licence: str, refused: str) -> Released:
    return Released(
        group="Not offered", file="", layout="other", encoder=encoder,
        purpose=purpose, licence=licence, refused=refused,
    )  # fmt: skip


# what an ImageNet network saw of pixels in [0, 1]; Medical MAE's images; EVA-02 was made with CLIP's numbers
IMAGENET: tuple[Channels, Channels] = (IMAGENET_MEAN, IMAGENET_STD)
MEDICAL_MAE: tuple[Channels, Channels] = (0.5056, 0.252)
CLIP: tuple[Channels, Channels] = (
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)  # fmt: skip
_DRIVE = "https://drive.google.com"
_MGCA = f"{_DRIVE}/drive/folders/15_mP9Lqq2H15R53qlKn3l_xzGVzi9jX9"
_TORCHVISION, _HUB = "https://download.pytorch.org/models", "https://huggingface.co"
_BIOVIL = "biovil_image_resnet50_proj_size_128.pt"
_VIT_S, _VIT_B = "vit_small_patch16_224", "vit_base_patch16_224"
_STEM = "patch16_merged520k_mim"
_CXR14, _CHEXPERT, _COVID = "ChestX-ray14, 14 findings", "CheXpert, 5 findings", "COVIDx, exclusive classes"


RELEASED: dict[str, Released] = {
    "eva_x_tiny_mim": _mim(TINY, f"eva_x_tiny_{_STEM}.pt", 79_500_000),
    "eva_x_small_mim": _mim(
        SMALL, f"eva_x_small_{_STEM}.pt", 307_569_543, True, sha256="135d70a6988b5aac…302316c2"
    ),
    "eva_x_base_mim": _mim(BASE, f"eva_x_base_{_STEM}.pt", 1_210_000_000),
    "eva_x_tiny_cxr14": _tuned(
        TINY, f"eva_x_tiny_{_STEM}_cxr14_ft.pth", 66_642_261, _CXR14, CHESTXRAY14,
        size_is_exact=True,
    ),
    "eva_x_small_cxr14": _tuned(SMALL, f"eva_x_small_{_STEM}_cxr14_ft.pth", 260_000_000, _CXR14, CHESTXRAY14),
    "eva_x_base_cxr14": _tuned(
        BASE, f"eva_x_base_{_STEM}_cxr14_ft.pth", 1_030_736_597, _CXR14, CHESTXRAY14,
        size_is_exact=True,
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
        SMALL, f"eva_x_small_{_STEM}_covidx4_ft.pth", 263_930_237, _COVID, COVIDX4, size_is_exact=True,
        exclusive=True, input_size=480, resize_size=480,
    ),
    "densenet121_mocov2_cxr14": _tuned_baseline(
        "densenet121", "densenet121_mocov2_pt_cxr14_ft.pth", 84_500_000
    ),
    "densenet121_medical_mae_cxr14": _tuned_baseline(
        "densenet121", "densenet121_medical_mae_pt_cxr14_ft.pth", 84_500_000
    ),
    "resnet50_biovil_cxr14": _tuned_baseline("resnet50", "resnet50_biovil_pt_cxr14_ft.pth", None),
    "resnet50_mgca_cxr14": _tuned_baseline("resnet50", "resnet50_mgca_pt_cxr14_ft.pth", None),
    "resnet50_medklip_cxr14": _tuned_baseline("resnet50", "resnet50_medklip_pt_cxr14_ft.pth", None),
    "eva_x_small_siim": Released(
        file="vit_s_upernet_eva_x_merged520k_mim_siim_ft.pth", layout="mmseg", encoder=SMALL,
        purpose="pneumothorax masks (UPerNet)", findings=("Pneumothorax",), input_size=512,
    ),
    "resnet50_imagenet": _baseline(
        "resnet50", "torchvision", "resnet50-19c8e357.pth", "ImageNet, labels", IMAGENET,
        address=f"{_TORCHVISION}/resnet50-19c8e357.pth", licence="BSD-3-Clause (code)",
    ),
    "densenet121_imagenet": _baseline(
        "densenet121", "torchvision", "densenet121-a639ec97.pth", "ImageNet, labels", IMAGENET,
        address=f"{_TORCHVISION}/densenet121-a639ec97.pth", licence="BSD-3-Clause (code)",
    ),
    "deit_small_imagenet": _baseline(
        _VIT_S, "vit", "deit_small_patch16_224-cd65a155.pth", "ImageNet, labels (DeiT)", IMAGENET,
        address="https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
        licence="Apache-2.0",
    ),
    "mae_small_imagenet": _baseline(
        _VIT_S, "mae", "vit-s_ImageNet_mae.pth", "ImageNet, MAE", IMAGENET,
        page=f"{_DRIVE}/file/d/1QeAIWJWuNcccF09502xcnQ_2tbc2jRQG",
    ),
    "resnet50_mocov2_imagenet": _baseline(
        "resnet50", "moco", "resnet50_imagenet_mocov2.pth", "ImageNet, MoCo v2", IMAGENET,
        page=f"{_DRIVE}/file/d/1GVSc3TOEhItliMToyY8Z4oHW_Kxf8cRj",
    ),
    "eva02_tiny": _eva02(TINY, "Ti"),
    "eva02_small": _eva02(SMALL, "S"),
    "eva02_base": _eva02(BASE, "B"),
    "resnet50_biovil": _baseline(
        "resnet50", "biovil", _BIOVIL, "images, reports: BioViL", (0.0, 1.0),
        address=f"{_HUB}/microsoft/BiomedVLP-CXR-BERT-specialized/resolve/v1.1/{_BIOVIL}", licence="MIT",
    ),
    "resnet50_mgca": _baseline(
        "resnet50", "mgca", "mgca_resnet_50.ckpt", "images, reports: MGCA", (0.5, 0.5),
        page=_MGCA,
    ),
    "vit_base_mgca": _baseline(
        _VIT_B, "mgca", "mgca_vit_base.ckpt", "images, reports: MGCA", (0.5, 0.5),
        page=_MGCA,
    ),
    "resnet50_medklip": _baseline(
        "resnet50_layer3", "medklip", "medklip_checkpoint_final.pth", "images, reports: MedKLIP", IMAGENET,
        page="https://github.com/MediaBrain-SJTU/MedKLIP",
    ),
    "densenet121_mocov2": _baseline(
        "densenet121", "moco", "densenet121_CXR_0.3M_mocov2.pth.tar", "images: MoCo v2", MEDICAL_MAE,
        page=f"{_DRIVE}/file/d/1idLcwL4C0eSGoLc5PI4ZWHzNLq_mJY-g",
    ),
    "densenet121_medical_mae": _baseline(
        "densenet121", "smp", "densenet121_CXR_0.3M_mae.pth", "images: Medical MAE", MEDICAL_MAE,
        page=f"{_DRIVE}/file/d/1f5KePD48QmHua7C5HBUV3i0PqNPkgmqj",
    ),
    "medical_mae_small": _baseline(
        _VIT_S, "mae", "vit-s_CXR_0.3M_mae.pth", "images: Medical MAE", MEDICAL_MAE,
        page=f"{_DRIVE}/file/d/1Yok1RemqP27iKJ5BUuoHhLRBB1GycITx",
    ),
    "medical_mae_base": _baseline(
        _VIT_B, "mae", "vit-b_CXR_0.5M_mae.pth", "images: Medical MAE", MEDICAL_MAE,
        page=f"{_DRIVE}/file/d/10wqOFCkhyWp6JdSFADrH6Xu9e1am3gXJ",
    ),
    "rad_dino": Released(
        group="Other encoders of chest images", file="rad_dino.safetensors", size=346_000_000,
        layout="transformers", encoder="vit_base_patch14_dinov2", purpose="films: RAD-DINO", input_size=518,
        mean=0.5307, std=0.2583, licence="MSRLA (research)",
        address=f"{_HUB}/microsoft/rad-dino/resolve/main/model.safetensors",
    ),
    "densenet121_xrv_all": Released(
        group="Other encoders of chest images", file="torchxrayvision_densenet121_all.pt",
        layout="torchxrayvision", encoder="densenet121", purpose="images, labels: torchxrayvision",
        mean=0.5, std=1 / 2048, licence="Apache-2.0",
        by_hand="with that package, whose own files are pickled networks: torch.save(torchxrayvision.models."
        "DenseNet(weights='densenet121-res224-all').state_dict(), FILE)",
    ),
    "ark_plus": _not_offered(
        "Ark+", "Swin-L, 768 pixels", "ASU, non-commercial, patent pending",
        "its licence forbids commercial use, and the weights are given out through a form",
    ),
    "cxr_foundation": _not_offered(
        "CXR Foundation", "EfficientNet-L2 (ELIXR)", "Health AI Developer Foundations terms",
        "it is a TensorFlow graph under Google's terms of use, not a file of tensors",
    ),
    "selfmedmae": _not_offered(
        "SelfMedMAE", "ViT-B/16", "unknown", "the paper compares with it, but no weights are known"
    ),
}  # fmt: skip

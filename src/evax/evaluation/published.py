"""Published numbers to put beside one's own, each with where it stands and how it was measured.

None of them was re-run here. They are never in one column with measured numbers: the paper's were chosen on
the test images, and nobody published the scores of single images, so no paired test is possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evax.errors import DataError
from evax.findings import CHESTXRAY14, CHEXPERT5, COVIDX3, COVIDX4, finding_key

Table = Literal["chestxray14", "chexpert", "covidx9a", "covidx-cxr4"]
MARK = "published, not re-run"


@dataclass(frozen=True)
class PublishedScore:
    """One published mean AUROC."""

    name: str
    mauc: float
    """In percent, as printed."""
    parameters: int | None
    """Of the classifier, counted from its architecture; None where that is not known."""
    protocol: str
    source: str
    interval: tuple[float, float] | None = None
    """95 %, in percent, as printed."""


@dataclass(frozen=True)
class PublishedMaps:
    """Published overlap of Grad-CAM with the boxes of ChestX-ray14, in percent, as printed."""

    name: str
    ap25: float
    ap50: float
    map: float
    miou: float
    note: str = ""
    protocol: str = "984 boxes, each a case, at 224 px; one threshold, chosen on these very boxes"
    source: str = "hustvl/EVA-X README"


DENSENET121, RESNET50, VIT_S, VIT_B = 6_968_206, 23_536_718, 21_671_054, 85_809_422  # timm, 14 outputs
EVA_X_TI, EVA_X_S, EVA_X_B = 5_527_886, 21_672_590, 85_861_646  # facts 1.1, 14 outputs

_ON_TEST = "official 25,596 test images at 224 px, the checkpoint with the best test mAUC, mean of 5 seeds"
_AGAIN = "fine-tuned by the EVA-X authors: official 25,596 test images, checkpoint with the best test mAUC"
_FIGURE = "EVA-X, Fig. 3a, read from the figure"
_EVA_X = "EVA-X (npj Digit. Med. 8:678, 2025) and hustvl/EVA-X README"
_MEDICAL_MAE = "lambert-x/medical_mae README"
_NESSI = "huggingface.co/nessi10/chestxray14-cnn-vs-transformers"
_BY_VALIDATION = "official test images, chosen on validation"
_VALID_SET = "official validation images, which also chose the checkpoint"

PUBLISHED: dict[Table, tuple[PublishedScore, ...]] = {
    "chestxray14": (
        PublishedScore("EVA-X-Ti", 82.4, EVA_X_TI, _ON_TEST, _EVA_X),
        PublishedScore("EVA-X-S", 83.3, EVA_X_S, _ON_TEST, _EVA_X),
        PublishedScore("EVA-X-B", 83.5, EVA_X_B, _ON_TEST, _EVA_X),
        PublishedScore("DenseNet121, MoCo v2", 80.8, DENSENET121, _AGAIN, _FIGURE),
        PublishedScore("DenseNet121, ImageNet", 80.9, DENSENET121, _AGAIN, _FIGURE),
        PublishedScore("DenseNet121, Medical MAE", 81.3, DENSENET121, _AGAIN, _FIGURE),
        PublishedScore("EVA-02-S", 79.7, EVA_X_S, _AGAIN, _FIGURE),
        PublishedScore("DeiT-S", 79.9, VIT_S, _AGAIN, _FIGURE),
        PublishedScore("MAE ViT-S", 80.2, VIT_S, _AGAIN, _FIGURE),
        PublishedScore("ResNet50, BioViL", 80.8, RESNET50, _AGAIN, _FIGURE),
        PublishedScore("ResNet50, MoCo v2", 80.9, RESNET50, _AGAIN, _FIGURE),
        PublishedScore("ResNet50, ImageNet", 81.0, RESNET50, _AGAIN, _FIGURE),
        PublishedScore("ResNet50, MGCA", 81.2, RESNET50, _AGAIN, f"{_FIGURE} (README: 81.3)"),
        PublishedScore("ResNet50, MedKLIP", 81.2, RESNET50, f"{_AGAIN}; the weights lack layer 4", _FIGURE),
        PublishedScore("Medical MAE ViT-S", 82.3, VIT_S, _AGAIN, _FIGURE),
        PublishedScore("SelfMedMAE ViT-B", 81.5, VIT_B, "as quoted in EVA-X", _FIGURE),
        PublishedScore("MGCA ViT-B", 81.8, VIT_B, _AGAIN, _FIGURE),
        PublishedScore("Medical MAE ViT-B", 83.0, VIT_B, "official lists", _MEDICAL_MAE),
        PublishedScore(
            "DenseNet121, ImageNet (Medical MAE)", 82.2, DENSENET121, "official lists", _MEDICAL_MAE
        ),
        PublishedScore(
            "DenseNet121, ImageNet (nessi10)", 80.5, DENSENET121, _BY_VALIDATION, _NESSI, (79.9, 81.1)
        ),
        PublishedScore("DeiT-S (nessi10)", 78.5, VIT_S, _BY_VALIDATION, _NESSI),
    ),
    "chexpert": (
        PublishedScore("EVA-X-Ti", 89.6, EVA_X_TI, _VALID_SET, "hustvl/EVA-X README"),
        PublishedScore("EVA-X-S", 90.1, EVA_X_S, _VALID_SET, "hustvl/EVA-X README"),
        PublishedScore("Medical MAE ViT-S", 89.2, VIT_S, "official validation images", _MEDICAL_MAE),
        PublishedScore("Medical MAE ViT-B", 89.3, VIT_B, "official validation images", _MEDICAL_MAE),
    ),
    "covidx9a": (
        PublishedScore(
            "EVA-X-S", 99.8, EVA_X_S, "400 test images of COVIDx V9A at 480 px, chosen on test", _EVA_X
        ),
    ),
    "covidx-cxr4": (
        PublishedScore("EVA-X-S", 99.4, EVA_X_S, "8,473 images of val.txt at 480 px, chosen on them", _EVA_X),
    ),
}
PUBLISHED_MAPS = (
    PublishedMaps("EVA-X-S", 14.74, 2.95, 8.84, 9.18, "the paper's text has a mAP of 8.94"),
    PublishedMaps("DenseNet121, MoCo v2", 10.98, 1.42, 6.20, 8.18),
    PublishedMaps("DenseNet121, Medical MAE", 8.33, 2.13, 5.23, 6.90),
    PublishedMaps("ResNet50, BioViL", 11.59, 3.46, 7.52, 7.29),
    PublishedMaps("ResNet50, MGCA", 7.22, 2.34, 4.78, 5.00),
    PublishedMaps("ResNet50, MedKLIP", 5.69, 2.74, 4.22, 4.94),
    PublishedMaps(
        "Medical MAE ViT-S", 7.11, 1.00, 3.61, 6.79, "its mAP fits an AP50 of 0.10, one box of 984"
    ),
)
FINDINGS: dict[Table, tuple[str, ...]] = {
    "chestxray14": CHESTXRAY14,
    "chexpert": CHEXPERT5,
    "covidx9a": COVIDX3,
    "covidx-cxr4": COVIDX4,
}


def published_beside(table: Table, findings: tuple[str, ...]) -> tuple[PublishedScore, ...]:
    """The rows of a table for runs with these findings.

    Raises DataError for other findings: a mean over other findings is another quantity.
    """
    if {*map(finding_key, findings)} != {*map(finding_key, FINDINGS[table])}:
        raise DataError(
            f"The published numbers of {table} are means over {len(FINDINGS[table])} findings "
            f"({', '.join(FINDINGS[table][:3])}, ...); these runs have {len(findings)} "
            f"({', '.join(findings[:3])}{', ...' if len(findings) > 3 else ''}). Leave --published out."
        )
    return PUBLISHED[table]

"""Montgomery County's images with masks of both lungs, released by the National Library of Medicine."""

from __future__ import annotations

from evax.data.sources.record import PublicSet, archive

PUBLIC_SET = PublicSet(
    what="138 images with masks of both lungs (Montgomery County, NLM)",
    terms="public for research; cite Jaeger et al. 2014; do not pass it on",
    page="https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html#tuberculosis-image-data-sets",
    archives=(
        archive(
            "NLM-MontgomeryCXRSet.zip", "https://openi.nlm.nih.gov/imgs/collections/NLM-MontgomeryCXRSet.zip"
        ),
    ),
    top="MontgomerySet",
    places={
        "CXR_png": "images",
        "ManualMask/leftMask": "masks/Left Lung",
        "ManualMask/rightMask": "masks/Right Lung",
    },
    layout="images/*.png  masks/Left Lung/*.png  masks/Right Lung/*.png",
    source="masks",
)

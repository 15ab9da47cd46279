"""View positions as words, codes and directions, in one table for headers and for tables."""

from __future__ import annotations

import re

LATERAL, OTHER = "LATERAL", "OTHER"
NOT_FRONTAL = {LATERAL: "lateral images", OTHER: "axial and other views"}  # what prepare leaves out
# whole texts: the codes of CID 4010 "DX View", and what is a view only when nothing else is said
CODES = {
    **dict.fromkeys(("272479007", "R-10214", "R-40888"), "PA"),
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("399067008", "399173006", "399198007", "R-102CD", "R-10232", "R-10236", "L"), LATERAL),
}
WORDS = {
    **dict.fromkeys(("PA", "POSTEROANTERIOR"), "PA"),
    **dict.fromkeys(("AP", "ANTEROPOSTERIOR"), "AP"),
    **dict.fromkeys(("LL", "RL", "LAT", "LLAT", "RLAT", "LATERAL", "LATEROLATERAL"), LATERAL),
    # obliques (PS3.3 C.8.1.1: RLO, LLO; the others as radiographers write them), then mammograms
    **dict.fromkeys(("RLO", "LLO", "LAO", "RAO", "LPO", "RPO", "OBLIQUE"), OTHER),
    **dict.fromkeys(("ML", "MLO", "LM", "LMO", "CC", "XCCL"), OTHER),
    **dict.fromkeys(("AXIAL", "CORONAL", "SAGITTAL", "CT", "MR", "MRI"), OTHER),
}
# a frontal beam, but not the image a frontal model knows; who leaves out laterals leaves it out
DECUBITUS = {"LLD", "RLD", "DECUBITUS"}


def view_of(text: str) -> str:
    """PA, AP, LATERAL or OTHER of a text such as AP supine, 'pa', L LAT, R-10206 or Axial.

    OTHER is no projection image of a chest from the front or side, whatever words stand with it. "" for a text
    that names no known view, or two.
    """
    plain = text.strip().upper()
    if view := CODES.get(plain):
        return view
    words = {*re.findall(r"[A-Z]+", plain), *re.findall(r"[A-Z]+", re.sub(r"[-.']", "", plain))}  # P-A is PA
    views = {WORDS[word] for word in words if word in WORDS}
    if OTHER in views:
        return OTHER
    if words & DECUBITUS:
        return LATERAL
    return views.pop() if len(views) == 1 else ""


def view_of_directions(orientation: tuple[str, ...]) -> str:
    """What Patient Orientation tells of the view: LATERAL, OTHER (a slice across the body) or "".

    orientation: where rows and columns run to, as ("A", "F"): anterior and feet.
    """
    axes = {axis for name in orientation for axis in ("LR", "AP", "HF") if name and name[0] in axis}
    if axes == {"AP", "HF"}:
        return LATERAL
    return OTHER if axes == {"AP", "LR"} else ""

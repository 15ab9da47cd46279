"""What a text, a code or a direction says of the view of an image."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.dicoms import code_item, film, write

from evax.data.dicom import read_header
from evax.data.dicom.reading import read_dicom
from evax.data.sources import read_source
from evax.data.views import CODES, WORDS, view_of, view_of_directions

VIEWS = {
    "PA": ["PA", "pa", "PA ERECT", "P-A", "P.A.", "Postero-Anterior", "CHEST PA", "PA_erect", "272479007"],
    "AP": ["AP", "AP SUPINE", "ap portable", "AP_HORIZONTAL", "AP Erect", "antero-posterior", "AP-SUPINE"],
    "LATERAL": [
        "L", "LL", "RL", "LAT", "L LAT", "LLAT", "RLAT", "LEFT LATERAL", "XTABLE LATERAL", "X-TABLE LAT",
        "lateral", "Lateral (left)", "LLD", "AP LLD", "PA RLD", "Decubitus AP", "R-102CD", "399067008",
        "LATERO-LATERAL", "Laterolateral",
    ],
    "OTHER": [
        "AXIAL", "Axial", "Coronal", "CT", "AP AXIAL", "CT LATERAL", "Sagittal",
        "OBLIQUE", "RLO", "LLO", "LAO", "RAO", "LPO", "rpo", "PA LAO", "left anterior oblique",
        "ML", "MLO", "CC", "R-MLO", "L CC",
    ],
    "": ["", "ERECT", "PORTABLE", "SWIMMERS", "PA and lateral", "MAP", "LAPA", "UNKNOWN"],
}  # fmt: skip
CASES = [(text, view) for view, texts in VIEWS.items() for text in texts]


@pytest.mark.parametrize(("text", "view"), CASES)
def test_a_view_is_read_word_by_word_in_any_case(text, view):
    assert view_of(text) == view


@given(
    word=st.sampled_from([word for word, view in WORDS.items() if view != "OTHER"]),
    before=st.sampled_from(["", "ERECT ", "supine_", "chest, "]),
    after=st.sampled_from(["", " PORTABLE", "/ERECT", " (2)"]),
    upper=st.booleans(),
)
def test_words_that_name_no_view_change_none(word, before, after, upper):
    text = f"{before}{word}{after}"
    assert view_of(text if upper else text.lower()) == WORDS[word]
    assert view_of(f"{text} and axial") == "OTHER"


@pytest.mark.parametrize("text", [text for text, _ in CASES if len(text) <= 16 and text != "Lateral (left)"])
def test_headers_and_tables_are_read_alike(tmp_path, text, caplog):
    write(tmp_path / "a.dcm", film(8), ViewPosition=text.upper())
    header = read_header(tmp_path / "a.dcm")
    (tmp_path / "labels.csv").write_text(f"image,patient,view\na.dcm,1,{text}\n")
    table = read_source("csv", tmp_path, {}).table
    assert (header.view or "") == table["view"].item()
    assert ("are unknown and count as blank" in caplog.text) == (text != "" and not header.view)


@pytest.mark.parametrize("code", [code for code in CODES if code != "L"])
def test_a_view_code_is_read_where_view_position_says_nothing(tmp_path, code):
    path = write(tmp_path / "a.dcm", film(8), ViewPosition="ERECT", ViewCodeSequence=[code_item(code)])
    assert read_header(path).view == CODES[code]


@pytest.mark.parametrize(
    ("orientation", "view"),
    [
        (["A", "F"], "LATERAL"), (["P", "F"], "LATERAL"), (["PL", "FA"], "LATERAL"), (["F", "A"], "LATERAL"),
        (["L", "P"], "OTHER"), (["R", "A"], "OTHER"),
        (["L", "F"], None), (["R", "H"], None), (["L"], None), ([], None), (["A"], None), (["X", "Y"], None),
    ],
)  # fmt: skip
def test_patient_orientation_tells_laterals_and_slices(tmp_path, orientation, view):
    path = write(tmp_path / "a.dcm", film(8), ViewPosition="", PatientOrientation=orientation or None)
    assert read_header(path).view == view == (view_of_directions(tuple(orientation)) or None)
    issue = {"LATERAL": "lateral", "OTHER": "other_view", None: "unknown_view"}[view]
    assert issue in read_dicom(path).issues


def test_a_frontal_view_position_holds_against_an_orientation_of_a_lateral_and_that_is_named(tmp_path):
    radiograph = read_dicom(write(tmp_path / "a.dcm", film(8), PatientOrientation=["A", "F"]))
    assert (radiograph.view, radiograph.issues) == ("PA", ("view_conflict",))


def test_a_dicom_tree_keeps_its_frontal_images_only(tmp_path, caplog):
    caplog.set_level(logging.INFO, "evax")
    words = {"PA": "PA", "PA ERECT": "PA", "": "", "AP": "AP"}
    for number, word in enumerate([*words, "L LAT", "XTABLE LATERAL", "AXIAL", "LAO"]):
        tags = {"PatientID": f"P{number}", "SOPInstanceUID": f"1.2.{number}", "ViewPosition": word}
        write(tmp_path / f"{number}.dcm", film(8), **tags)
    write(tmp_path / "9.dcm", film(8), ViewPosition="", PatientOrientation=["A", "F"])
    private = tmp_path.parent / f"{tmp_path.name}.private"
    table = read_source("dicom", tmp_path, {"private": private}).table
    assert list(table["view"]) == list(words.values())
    assert "left out: 3 lateral images, 0 other files, 2 axial and other views" in caplog.text

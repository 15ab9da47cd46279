"""Names of classes, findings, patients and files are compared as people mean them."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import unicodedata

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evax.data.building import build_store
from evax.data.labelled import column_of, with_findings
from evax.data.masked import findings_with_masks
from evax.data.sources import read_source
from evax.data.split import assign_splits, follow_lists
from evax.data.store import open_store
from evax.errors import DataError
from evax.findings import as_spelled, canonical, is_blank, one_spelling, spelling_key
from evax.jobs.localize import check_spellings
from releases import chestxray14, dicom, film, mask, with_files

BOM = b"\xef\xbb\xbf"
NFC, NFD = "é", "e\N{COMBINING ACUTE ACCENT}"


def table_of(raw, text, names=("a", "b", "c", "d", "e", "f"), **options):
    for number, name in enumerate(names):
        film(raw / "images" / f"{name}.png", number)
    (raw / "labels.csv").write_text(text, encoding="utf-8")
    return read_source("csv", raw, options)


def refused(message):
    return pytest.raises(DataError, match=message)


# --- one rule ---------------------------------------------------------------------------------------

WORDS = st.text(st.sampled_from("aBçéÄßﬁ肺Ω19"), min_size=1, max_size=6).filter(lambda word: word[0] != "0")


@given(st.lists(WORDS, min_size=1, max_size=3), st.data())
def test_case_unicode_form_separators_zeros_and_point_zero_make_no_other_name(words, data):
    name = " ".join(words)
    other = data.draw(st.sampled_from([" ", "-", "_", "  "])).join(words)
    other = unicodedata.normalize(data.draw(st.sampled_from(["NFC", "NFD", "NFKC"])), other)
    other = data.draw(st.sampled_from([str, str.upper, str.lower, str.casefold]))(other)
    if name[0].isdecimal():
        other = data.draw(st.sampled_from(["", "0", "00"])) + other
    if name[-1].isdecimal():
        other += data.draw(st.sampled_from(["", ".0", ".00"]))
    assert spelling_key(f" {other}") == spelling_key(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [("-1", "1"), ("1.5", "15"), ("1.05", "1.5"), ("10", "1"), ("TB+", "TB-"), ("0", ""), ("1 2", "12")],
)
def test_names_that_mean_different_things_stay_apart(one, other):
    assert spelling_key(one) != spelling_key(other)


def test_names_of_the_table_of_findings_and_its_synonyms_are_known_in_every_spelling():
    for written in ("pleural-thickening", "PLEURAL THICKENING", "Pleural_Thickening", "ｐleural thickening"):
        assert canonical(written) == "Pleural_Thickening"
    assert canonical(f" Tum{NFD}ur ") == f"Tum{NFC}ur"
    assert as_spelled("pleural effusion", ["Mass", "effusion"]) == "effusion"
    assert as_spelled("covid 19", ["COVID-19"]) == "COVID-19"


def test_the_spelling_is_that_of_the_table_else_the_most_frequent_and_a_warning_counts_them(tmp_path, caplog):
    names = ["covid-19", "COVID-19", "COVID-19", "OEDEMA", "Normal"]
    assert one_spelling(tmp_path, names) == {
        "covid-19": "COVID-19", "COVID-19": "COVID-19", "OEDEMA": "Edema", "Normal": "Normal",
    }  # fmt: skip
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "count as one: COVID-19 ('covid-19' 1 times, 'COVID-19' 2 times)." in warning
    assert one_spelling(tmp_path, names, known=["Covid_19"])["covid-19"] == "Covid_19"


# --- classes ----------------------------------------------------------------------------------------


def test_classes_of_a_table_that_differ_only_in_spelling_are_one_and_the_spellings_are_listed(
    tmp_path, caplog
):
    text = "image,patient,label\na,1,Normal\nb,2,normal\nc,3,Normal\nd,4,COVID-19\ne,5,covid 19\nf,6,01\n"
    manifest = table_of(tmp_path, text + "g,7,1.0\n", names="abcdefg")
    assert manifest.findings == ("01", "COVID-19", "Normal")
    np.testing.assert_array_equal(manifest.labels().argmax(axis=1), [2, 2, 2, 1, 1, 0, 0])
    for merged in ("'Normal' 2 times, 'normal' 1 times", "'COVID-19' 1 times", "'01' 1 times, '1.0' 1 times"):
        assert merged in caplog.text


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "n/a", "<NA>", "NULL", "#N/A", " "])
def test_a_word_for_blank_is_no_class(tmp_path, word):
    assert is_blank(word)
    with refused(r"column 'label', line 3 is blank.*Fill it in or leave the image out \(1 in all\)"):
        table_of(tmp_path, f"image,patient,label\na,1,sick\nb,2,{word}\n")


def test_none_is_a_class_and_is_pointed_at(tmp_path, caplog):
    manifest = table_of(tmp_path, "image,patient,label\na,1,Mild\nb,2,None\n")
    assert manifest.findings == ("Mild", "None")
    assert "1 images are of a class called None, and it is kept" in caplog.text


def test_class_folders_that_differ_only_in_spelling_are_one_class(tmp_path, caplog):
    places = [f"train/{NFC}", f"train/{NFD}", f"test/{NFC.upper()}", "train/Mass", "test/mass"]
    for number, place in enumerate(places):
        film(tmp_path / place / f"{number}.png", number)
    manifest = read_source("folders", tmp_path, {})
    assert len(manifest.findings) == 2
    assert manifest.labels().sum(axis=0).tolist() == [2, 3]
    assert all((tmp_path / image).is_file() for image in manifest.table["image"])
    assert "Mass ('mass' 1 times, 'Mass' 1 times)" in caplog.text
    film(tmp_path / "train" / "NaN" / "x.png")
    with refused("has a folder NaN, as programs call a class that is blank"):
        read_source("folders", tmp_path, {})


def test_categories_of_a_coco_file_that_differ_only_in_spelling_are_one_finding(tmp_path, caplog):
    film(tmp_path / "a.png")
    boxes = [{"image_id": 1, "category_id": number, "bbox": [number, 0, 5, 5]} for number in (1, 2)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 48, "height": 48}],
        "categories": [{"id": 1, "name": "Rib fracture"}, {"id": 2, "name": "rib-fracture"}],
        "annotations": boxes,
    }
    (tmp_path / "annotations.json").write_bytes(BOM + json.dumps(content).encode())
    manifest = read_source("coco", tmp_path, {})
    assert manifest.findings == ("Rib fracture",)
    assert len(manifest.boxes) == 2
    assert "'Rib fracture' 1 times, 'rib-fracture' 1 times" in caplog.text


# --- findings ---------------------------------------------------------------------------------------


def test_a_word_for_blank_is_a_blank_label(tmp_path):
    manifest = table_of(tmp_path, "image,patient,Scar,Mass\na,1,1,NA\nb,2,NaN,0\nc,3,0,null\n")
    assert manifest.findings == ("Scar", "Mass")
    np.testing.assert_array_equal(manifest.labels(), [[1, np.nan], [np.nan, 0], [0, np.nan]])


def test_two_columns_of_one_finding_in_two_spellings_are_refused(tmp_path):
    with refused("the finding Scar has two columns, maybe in two spellings: keep one of Scar, SCAR"):
        table_of(tmp_path, "image,patient,Scar,SCAR\na,1,1,0\n")


def test_findings_of_boxes_and_masks_are_spelled_as_in_the_table(tmp_path):
    mask(tmp_path / "masks" / "a_RIB FRACTURE.png", (0, 0, 9, 9))
    mask(tmp_path / "masks" / "rib-fracture" / "b.png", (0, 0, 9, 9))
    (tmp_path / "boxes.csv").write_bytes(BOM + b"image,finding,x,y,width,height\na,rib fracture,0,0,1,1\n")
    manifest = table_of(tmp_path, "image,patient,Rib_Fracture\na,1,1\nb,2,0\n")
    assert set(manifest.boxes["finding"]) == set(manifest.masks["finding"]) == {"Rib_Fracture"}
    assert len(manifest.masks) == 2


def test_findings_asked_for_are_found_in_every_spelling(tmp_path):
    mask(tmp_path / "masks" / "a_Rib_Fracture.png", (0, 0, 9, 9))
    options = {"findings": ("rib fracture", "pleural effusion")}
    manifest = table_of(tmp_path, "image,patient,Rib_Fracture,EFFUSION\na,1,1,0\nb,2,0,1\n", **options)
    assert manifest.findings == ("rib fracture", "Effusion")
    store = build_store(manifest, tmp_path / "store", size=16)
    assert with_findings(store, ["RIB-FRACTURE"]).manifest.findings == ("rib fracture",)
    assert findings_with_masks(store, ["Rib Fracture"]) == ("rib fracture",)


# --- patients ---------------------------------------------------------------------------------------


def test_patients_that_differ_only_in_spelling_are_warned_of_by_line_and_never_by_name(tmp_path, caplog):
    text = "image,patient,Mass\na,Ada,0\nb,ADA,1\nc,0042,0\nd,42.0,1\ne,nan,0\nf,None,1\n"
    table = table_of(tmp_path, text).table
    assert list(table["patient"]) == ["Ada", "ADA", "0042", "42.0", "images/e.png", "images/f.png"]
    assert "2 of 6 images name no patient" in caplog.text
    differ = "4 patient IDs differ from another one only in case, Unicode form, blanks, '-' or '_' between"
    assert f"{differ} words, leading zeros or a final '.0'" in caplog.text
    assert "(lines 2, 3, 4, 5)" in caplog.text
    assert "ADA" not in caplog.text
    assert "42" not in caplog.text.replace("0042", "")


def test_patients_that_differ_truly_are_not_warned_of(tmp_path, caplog):
    table_of(tmp_path, "image,patient,Mass\na,P1,0\nb,P10,1\nc,P-2,0\nd,12,1\ne,1.2,0\nf,2,1\n")
    assert "patient IDs differ" not in caplog.text


@pytest.mark.parametrize("source", ["folders", "dicom"])
def test_patients_of_headers_that_differ_only_in_spelling_are_counted_and_never_named(
    tmp_path, caplog, source
):
    caplog.set_level(logging.INFO, "evax")
    for name, patient in {"a": "ada 7", "b": "ADA-7", "c": "Bob", "d": "nan", "e": "None"}.items():
        path = tmp_path / "raw" / f"{name}.dcm"
        dicom(path)
        header = pydicom.dcmread(path)
        header.PatientID, header.StudyInstanceUID = patient, f"1.2.{ord(name)}"
        header.save_as(path)
    options = {"private": tmp_path / "private"} if source == "dicom" else {}
    table = read_source(source, tmp_path / "raw", options).table
    assert table["patient"].nunique() == 5
    assert "2 of 5 images name no patient" in caplog.text
    assert "2 patient IDs differ from another one only in case" in caplog.text
    assert not any(name in caplog.text for name in ("ada", "ADA", "Bob"))


def test_patients_of_file_names_that_differ_only_in_zeros_are_warned_of(tmp_path, caplog):
    for name in ("p01_a.png", "p1_b.png"):
        film(tmp_path / name)
    read_source("folders", tmp_path, {"patient_pattern": r"(p\d+)"})
    assert "2 patient IDs differ" in caplog.text


# --- files ------------------------------------------------------------------------------------------


def test_a_listed_image_is_found_though_its_file_name_has_another_unicode_form_or_case(tmp_path, caplog):
    text = f"image,patient,Mass\nb{NFC}bé.png,1,0\nIMG_1.PNG,2,1\nimages/x,3,0\n"
    table = table_of(tmp_path, text, names=(f"b{NFD}be\N{COMBINING ACUTE ACCENT}", "img_1", "x")).table
    assert all((tmp_path / image).is_file() for image in table["image"])
    assert "the names of 2 files differ from the listed ones in case or Unicode form" in caplog.text


def test_an_image_is_not_taken_for_another_one_that_is_listed_itself_or_has_a_rival(tmp_path):
    text = "image,patient,Mass\na,1,0\nA,2,1\nB_1,3,0\n"
    table = table_of(tmp_path, text, names=("a", "b_1", "b_1 ")).table
    (tmp_path / "images" / "B_1.PNG").write_bytes((tmp_path / "images" / "a.png").read_bytes())
    assert list(table["image"]) == ["images/a.png", "A", "images/b_1.png"]
    assert list(read_source("csv", tmp_path, {}).table["image"]) == ["images/a.png", "A", "B_1"]


@pytest.mark.parametrize("form", [NFC, NFD])
def test_lists_and_split_tables_name_images_in_either_unicode_form(tmp_path, form, caplog):
    caplog.set_level(logging.INFO, "evax")
    manifest = table_of(tmp_path, f"image,patient\n{NFD}1,1\n{NFD}2,2\n", names=(f"{NFD}1", f"{NFD}2"))
    train, test = f"{form}1.png\r\n".encode(), f"IMAGES/{form.upper()}2.png 0 1\n".encode()
    lists = with_files(tmp_path / "lists", {"train.txt": BOM + train, "test.txt": BOM + test})
    assert list(follow_lists(manifest, lists).table["split"]) == ["train", "test"]
    assert "2 of 2 listed images found" in caplog.text
    store = build_store(assign_splits(manifest, 0, 0, 0), tmp_path / "store", size=16)
    (tmp_path / "split.csv").write_bytes(BOM + f"image,split\nimages/{form}1.png,val\n".encode())
    assert column_of(store, tmp_path / "split.csv", "split") == ["val", ""]


def test_images_whose_names_differ_only_in_case_stay_two_images(tmp_path):
    manifest = table_of(tmp_path, "image,patient\na,1\nA,2\n", names=("a", "A"))
    lists = with_files(tmp_path / "lists", {"train.txt": "A.png\n", "test.txt": "a.png\n"})
    table = follow_lists(manifest, lists).table
    split = dict(zip(table["image"], table["split"], strict=True))
    assert split == {"images/a.png": "test", "images/A.png": "train"}
    for name in "aA":
        mask(tmp_path / "masks" / f"{name}_Mass.png", (0, 0, 9, 9))
    pieces = read_source("csv", tmp_path, {}).masks
    drawn = dict(zip(pieces["image"], pieces["file"], strict=True))
    assert drawn == {"images/A.png": "masks/A_Mass.png", "images/a.png": "masks/a_Mass.png"}


def test_listed_images_that_are_missing_are_a_warning(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "evax")
    manifest = table_of(tmp_path, "image,patient\na,1\n")
    follow_lists(manifest, with_files(tmp_path / "lists", {"test.txt": "a.png\nb.png\n"}))
    assert "1 of 2 listed images found" in caplog.text


def test_a_mask_is_that_of_its_image_in_either_unicode_form(tmp_path):
    film(tmp_path / "images" / f"{NFC}_1.png")
    mask(tmp_path / "masks" / f"{NFD}_1_Mass.png", (0, 0, 9, 9))
    manifest = read_source("masks", tmp_path, {})
    assert manifest.masks[["image", "finding"]].to_numpy().tolist() == [[f"images/{NFC}_1.png", "Mass"]]
    store = build_store(assign_splits(manifest, 0, 0, 0), tmp_path / "store", size=16)
    assert len(store.masked_rows("Mass")) == 1


def latin(folder, name, source):
    """A copy under a name whose bytes are no UTF-8."""
    folder.mkdir(parents=True, exist_ok=True)
    path = os.fsencode(folder) + b"/" + name
    with open(path, "wb") as file:
        file.write(source.read_bytes())
    return path


def test_images_and_masks_whose_names_are_no_utf_8_are_kept_under_names_with_escapes(tmp_path):
    film(tmp_path / "images" / "a.png")
    mask(tmp_path / "masks" / "a_Mass.png", (0, 0, 9, 9))
    latin(tmp_path / "images", b"b\xf6r_1.png", tmp_path / "images" / "a.png")
    latin(tmp_path / "masks", b"b\xf6r_1_L\xe4sion.png", tmp_path / "masks" / "a_Mass.png")
    for source, raw in (("masks", tmp_path), ("folders", tmp_path / "images")):
        manifest = assign_splits(read_source(source, raw, {}), 0.2, 0.2, 0)
        assert set(manifest.table["image"].str.rpartition("/")[2]) == {"a.png", r"b\udcf6r_1.png"}
        store = build_store(manifest, tmp_path / f"{source}.store", size=16)
        assert (len(store), store.card["rejected"]) == (2, 0)
        assert set(open_store(store.path).manifest.table["image"]) == set(manifest.table["image"])
    assert open_store(tmp_path / "masks.store").mask_findings() == (r"L\udce4sion", "Mass")


def test_a_dicom_tree_and_its_crosswalk_hold_names_that_are_no_utf_8(tmp_path):
    dicom(tmp_path / "a.dcm")
    latin(tmp_path / "raw", b"M\xfcller.dcm", tmp_path / "a.dcm")
    for _ in range(2):  # the crosswalk is read again
        manifest = read_source("dicom", tmp_path / "raw", {"private": tmp_path / "private"})
    assert list(manifest.table["file"]) == [r"M\udcfcller.dcm"]
    assert r"M\udcfcller.dcm" in (tmp_path / "private" / "crosswalk.csv").read_text(encoding="utf-8")
    assert len(build_store(assign_splits(manifest, 0, 0, 0), tmp_path / "store", size=16)) == 1


def test_a_coco_file_may_name_an_image_by_half_a_letter(tmp_path):
    film(tmp_path / "a.png")
    latin(tmp_path, b"\xe9.png", tmp_path / "a.png")
    names = enumerate(["\udce9.png", "\ud800.png", "a.png"])
    images = [{"id": number, "file_name": name, "width": 48, "height": 48} for number, name in names]
    content = {"images": images, "categories": [{"id": 1, "name": "\udfff"}], "annotations": []}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    manifest = assign_splits(read_source("coco", tmp_path, {}), 0, 0, 0)
    store = build_store(manifest, tmp_path / "store", size=16)
    assert list(store.manifest.table["image"]) == [r"\udce9.png", "a.png"]
    assert r"\ud800.png" in (tmp_path / "store" / "rejected.csv").read_text(encoding="utf-8")


# --- tables and lists -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_table_of_chestxray14_is_read_under_both_its_names(tmp_path, name, packed):
    chestxray14(tmp_path)
    table = (tmp_path / "Data_Entry_2017.csv").read_bytes()
    (tmp_path / "Data_Entry_2017.csv").unlink()
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(BOM + table) if packed else BOM + table)
    (tmp_path / "test_list.txt").write_bytes(BOM + (tmp_path / "test_list.txt").read_bytes())
    manifest = read_source("chestxray14", tmp_path, {})
    assert list(manifest.table["split"]) == ["", "test"]


@pytest.mark.parametrize(
    ("source", "there", "missing"),
    [
        ("csv", "Labels (1).csv", "labels.csv"),
        ("coco", "instances.json", "annotations.json"),
        ("chestxray14", "Data_Entry.csv", "Data_Entry_2017.csv"),
        ("chexpert", "train_cheXbert.csv", "train.csv"),
        ("mimic_cxr", "mimic-cxr-2.1.0-metadata.csv.gz", "mimic-cxr-2.0.0-metadata.csv"),
        ("covidx9a", "train_COVIDx9B.txt", "train_COVIDx9A.txt"),
        ("rsna", "stage_2_labels.csv", "stage_2_train_labels.csv"),
        ("siim", "train-rle (2).csv", "train-rle.csv"),
    ],
)
def test_a_missing_table_or_list_is_named_with_the_like_ones_that_are_there(tmp_path, source, there, missing):
    (tmp_path / there).write_text("x\n")
    with refused(f"{missing}.*{re.escape(f'The folder holds {there}.')}"):
        read_source(source, tmp_path, {})


@pytest.mark.parametrize("word", ["positive", "COVID-19", "covid-19", "Positive"])
def test_positive_of_the_first_list_of_covidx9a_is_covid_19(tmp_path, word):
    film(tmp_path / "train" / "d e.png")
    film(tmp_path / "test" / "f.png")
    train, test = BOM + f"4 d e.png {word} sirm\n".encode(), "9 f.png normal rsna\n"
    with_files(tmp_path, {"train_COVIDx9A.txt": train, "test_COVIDx9A.txt": test})
    manifest = read_source("covidx9a", tmp_path, {})
    assert manifest.findings == ("Normal", "Pneumonia", "COVID-19")
    assert manifest.labels().sum(axis=0).tolist() == [1, 0, 1]
    assert list(manifest.table["patient"]) == ["4", "9"]


def test_boxes_under_another_spelling_than_the_bundle_s_are_refused(tmp_path):
    (tmp_path / "boxes.csv").write_text("image,finding,x,y,width,height\na,Rib fracture,0,0,1,1\n")
    manifest = table_of(tmp_path, "image,patient,Rib fracture\na,1,1\n")
    store = build_store(assign_splits(manifest, 0, 0, 0), tmp_path / "store", size=16)
    check_spellings(store, ("Rib fracture", "Mass"))
    with refused("has boxes or masks of 'Rib fracture', which the bundle calls 'rib_fracture': prepare the"):
        check_spellings(store, ("rib_fracture", "Mass"))


@pytest.mark.parametrize("written", ["./f3.png", "images//f3.png", "./images/./f3", r".\images\f3.png"])
def test_lists_and_tables_may_write_a_path_in_other_ways(tmp_path, written):
    manifest = table_of(tmp_path, f"image,patient\n{written},1\n", names=("f3",))
    assert manifest.table["image"].tolist() == ["images/f3.png"]
    lists = with_files(tmp_path / "lists", {"test.txt": f"{written} 0 1\n"})
    assert follow_lists(manifest, lists).table["split"].tolist() == ["test"]
    store = build_store(assign_splits(manifest, 0, 0, 0), tmp_path / "store", size=16)
    (tmp_path / "split.csv").write_text("image,split\n./images//f3.png,val\n")
    assert column_of(store, tmp_path / "split.csv", "split") == ["val"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("packed", [False, True])
def test_lists_and_tables_in_utf_16_are_read_by_their_mark(tmp_path, encoding, packed):
    def write(name, text):
        content = ("\ufeff" + text).encode(encoding)
        path = tmp_path / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
        return path

    film(tmp_path / "images" / f"{NFC}肺.png")
    write("labels.csv", f"image,patient,Mass\r\n{NFC}肺.png,1,1\r\n")
    manifest = read_source("csv", tmp_path, {})
    assert manifest.table["image"].tolist() == [f"images/{NFC}肺.png"]
    assert manifest.table["Mass"].tolist() == [1]
    (tmp_path / "lists").mkdir()
    write("lists/val.txt", f"{NFC}肺.png\r\n")
    assert follow_lists(manifest, tmp_path / "lists").table["split"].tolist() == ["val"]
    store = build_store(assign_splits(manifest, 0, 0, 0), tmp_path / "store", size=16)
    split = write("split.csv", "patient,split\n1,test\n")
    assert column_of(store, split, "split") == ["test"]
    write("labels.csv", "image;patient;Mass\r\na;1;1\r\n")
    with refused("separates its columns by semicolons"):
        read_source("csv", tmp_path, {})


@pytest.mark.parametrize("word", ["nan", "", " N/A", None, float("nan")])
def test_a_category_of_a_coco_file_that_is_blank_is_refused(tmp_path, word):
    content = {"images": [], "categories": [{"id": 7, "name": word}], "annotations": []}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with refused("annotations.json: category 7 is blank, or called"):
        read_source("coco", tmp_path, {})

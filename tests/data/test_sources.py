"""Releases as they lie on a disk -> the one table; what is wrong with one is said in a sentence."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import BasicTextSRStorage, EncapsulatedPDFStorage, RTPlanStorage

from evax.data.sources import read_source
from evax.data.sources.disk import check_disk
from evax.errors import ConfigError, DataError
from evax.findings import CHESTXRAY14
from releases import written


def draw(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 90).save(path)


@pytest.fixture
def raw(tmp_path):
    """Images images/a.png, images/b.png, images/c.jpg; tables are written by the tests."""
    draw(tmp_path / "images" / "a.png", tmp_path / "images" / "b.png", tmp_path / "images" / "c.jpg")
    return tmp_path


def from_csv(raw, labels, boxes=None, **options):
    (raw / "labels.csv").write_text(labels)
    if boxes is not None:
        (raw / "boxes.csv").write_text("image,finding,x,y,width,height\n" + boxes)
    return read_source("csv", raw, options)


def refused(message, error=DataError):
    return pytest.raises(error, match=message)


# --- any source -------------------------------------------------------------------------------------


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with refused("There is no folder .*none. --raw names the folder that holds the images"):
        read_source("csv", tmp_path / "none", {})


def test_an_unknown_source_and_a_foreign_option_are_refused(tmp_path):
    with refused("No source is called 'folder'. Did you mean 'folders'", ConfigError):
        read_source("folder", tmp_path, {})
    with refused(r"The source 'folders' has no option table \(its options: patient_pattern\)", ConfigError):
        read_source("folders", tmp_path, {"table": "a.csv"})


def test_a_source_is_called_by_its_kind_and_public_set_and_never_by_the_folder_s_name(tmp_path):
    raw = tmp_path / "Saint Mary, images of Ada Lovelace"
    draw(raw / "a.png")
    assert read_source("folders", raw, {}).source == "folders"
    for content, source in [
        ('{"name": "hannover_covid19", "finished": true}', "folders:hannover_covid19"),
        ('{"name": "phantoms"}', "folders:phantoms"),
        ('{"name": "Ada Lovelace"}', "folders"),
        ('["phantoms"]', "folders"),
        ('{"name": ["phantoms"]}', "folders"),
    ]:
        (raw / "fetched.json").write_text(content)
        assert read_source("folders", raw, {}).source == source


# --- csv: the images ---------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["images/a.png", "a.png", "a", "images/a", r"images\a.png"])
def test_an_image_is_found_as_written_in_images_and_by_its_stem(raw, written):
    assert list(from_csv(raw, f"image\n{written}\n").table["image"]) == ["images/a.png"]


def test_splits_of_a_table_are_the_words_that_folders_may_have_in_any_case(raw):
    text = "image,patient,split\na,1,Train\nb,2,TEST\nc,3,validation\nd,4,valid\ne,5,\n"
    assert list(from_csv(raw, text).table["split"]) == ["train", "test", "val", "val", ""]


def test_every_image_is_looked_for_by_itself(raw):
    table = from_csv(raw, "image\nlost\na\nc\nimages/b.png\n").table
    assert list(table["image"]) == ["lost", "images/a.png", "images/c.jpg", "images/b.png"]


@pytest.mark.parametrize("header", ["image", "Image_ID", "file", " filename", "PATH"])
def test_the_column_of_images_may_have_other_names(raw, header):
    assert list(from_csv(raw, f"{header},Mass\na,1\n").table["image"]) == ["images/a.png"]


def test_facts_about_images_and_patients_are_taken_over(raw):
    text = (
        "image_id,patient_id,study_id,gender,age,projection,split\na,7,s,male,51.5,pa,test\nb, 7 ,,f,,AP,\n"
    )
    table = from_csv(raw, text).table
    assert table[["patient", "study", "view", "sex", "split"]].to_numpy().tolist() == [
        ["7", "s", "PA", "M", "test"],
        ["7", "", "AP", "F", ""],
    ]
    np.testing.assert_array_equal(table["age"], [51.5, np.nan])


@pytest.mark.parametrize("header", ["PatientID", "Patient ID", "patient-id", "Subject_ID"])
def test_the_column_of_patients_may_have_other_names(raw, header, caplog):
    assert list(from_csv(raw, f"image,{header}\na,p\nb,p\n").table["patient"]) == ["p", "p"]
    assert "no column 'patient'" not in caplog.text


@pytest.mark.parametrize(
    ("written", "view"),
    [
        ("AP supine", "AP"), ("'pa'", "PA"), (" AP ", "AP"), ("postero-anterior", "PA"),
        ("left lateral", "LATERAL"), ("LL", "LATERAL"), ("R-10214", "PA"), ("PA and lateral", ""),
        ("ap_portable", "AP"), ("map", ""),
    ],
)  # fmt: skip
def test_views_are_understood_in_any_case_and_with_further_words(raw, written, view):
    assert list(from_csv(raw, f"image,patient,view\na,1,{written}\n").table["view"]) == [view]


def test_sexes_are_understood_as_words_and_what_is_not_understood_is_counted_once(raw, caplog):
    text = "image,patient,sex,view\na,1,male,PA\nb,2,FEMALE,lordotic\nc,3,m,\n"
    table = from_csv(raw, text + "d,4,,PA\ne,5,O,PA\nf,6,'f',swimmer\n").table
    assert list(table["sex"]) == ["M", "F", "M", "", "", "F"]
    assert list(table["view"]) == ["PA", "", "", "PA", "PA", ""]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "2 of view (lordotic, swimmer) and 1 of sex (O) are unknown and count as blank" in warning


def test_a_table_without_patients_is_warned_of(raw, caplog):
    from_csv(raw, "image,Mass\na,1\n")
    assert "has no column 'patient': every image counts as a patient of its own" in caplog.text


def test_columns_that_may_name_the_patient_are_named_and_how_to_say_so(raw, caplog):
    from_csv(raw, "image_id,MRN,case_id,StudyID,side,Mass\na,1,2,3,left,1\n")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert (
        "Maybe it is MRN or case_id or StudyID: rename the column that is the same in all images" in warning
    )


def test_ages_in_dicom_s_form_are_read_and_others_are_counted(raw, caplog):
    table = from_csv(raw, "image,patient,age\na,1,063Y\nb,2,006M\nc,3,7.5\n").table
    np.testing.assert_array_equal(table["age"], [63, np.nan, 7.5])
    assert "1 ages are no number of years" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "1e2",
        "12/05/50",
        "12 05 50",
        "<1",
        ">89",
        "40-49",
        "18+",
        "58.5.1",
        "6M",
        "born 50",
        "1,5",
        "121",
        "٥٨",
    ],
)
def test_an_age_that_is_no_plain_number_of_years_is_blank_and_counted(raw, caplog, text):
    table = from_csv(raw, f'image,patient,age\na,1,"{text}"\nb,2,58\n').table
    np.testing.assert_array_equal(table["age"], [np.nan, 58])
    assert "1 ages are no number of years" in caplog.text


@pytest.mark.parametrize(
    ("text", "age"), [("058Y", 58), ("58.5", 58.5), ("39 yrs", 39), ("7 Years old", 7), ("90+", 90)]
)
def test_ages_are_understood_with_their_unit_and_over_89_as_90(raw, text, age):
    assert from_csv(raw, f"image,age\na,{text}\n").table["age"].tolist() == [age]


def test_a_negative_age_is_unknown(raw):
    assert from_csv(raw, "image,age\na,-3\nb,3\n").table["age"].isna().tolist() == [True, False]


def test_a_row_of_more_fields_than_the_header_is_refused(raw):
    with refused("a line has more columns than the header.* Texts that hold commas belong in quotes"):
        from_csv(raw, "image,Mass\na,1,left,upper\nb,0,,\n")


def test_some_words_among_the_labels_of_an_unknown_finding_are_refused_and_not_lost(raw):
    with refused("column 'Rib_Fracture', line 4 holds 'yes', not a number"):
        from_csv(raw, "image,Rib_Fracture\na,1\nb,0\nc,yes\n")


def test_an_image_without_a_patient_is_a_patient_of_its_own_and_counted(raw, caplog):
    table = from_csv(raw, "image,patient\na,\nb,\nc,p\n").table
    assert list(table["patient"]) == ["images/a.png", "images/b.png", "p"]
    assert "2 of 3 images name no patient: each counts as a patient of its own" in caplog.text


@pytest.mark.parametrize(("films", "warned"), [(11, True), (10, False)])
def test_one_patient_of_a_table_with_most_of_the_images_is_warned_of(raw, caplog, films, warned):
    names = ["unknown" if number < films else f"p{number}" for number in range(20)]
    from_csv(raw, "image,patient\n" + "".join(f"{number},{name}\n" for number, name in enumerate(names)))
    assert ("one Patient ID holds 11 of 20 images" in caplog.text) == warned
    assert "unknown" not in caplog.text


def test_a_table_without_a_column_of_images_says_what_it_has_and_what_is_accepted(raw):
    message = (
        r"labels.csv has no column 'image' that names the images; it has picture, Mass. Rename one of them"
    )
    with refused(message + r" \(also accepted: image_id, image_index, file"):
        from_csv(raw, "picture,Mass\na,1\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "labels.csv is empty. Name it with --table"),
        (
            "image,note\na,schr\xe4g\n".encode("latin-1"),
            "is not text in UTF-8 .*: save it as 'CSV UTF-8', or conv",
        ),
        (
            b"image;Mass\na;0,5\n",
            "labels.csv separates its columns by semicolons, .*: save it as CSV with commas",
        ),
        (b"image\tMass\na\t1\n", "labels.csv separates its columns by tabs"),
        (
            b"image,Mass\na,1\nb,1,left,upper\n",
            "line 3 has more columns than the header, or a quote that does",
        ),
        (b'image,Mass\na,"1\n', "a line has more columns than the header, or a quote that does not end"),
        (b"image,Mass\n", "the table has no images"),
        (b"image\na\nb\na\n", "the image images/a.png is listed twice"),
        (b"image,split\na,fold3\n", "the split 'fold3' is unknown; known: train, val, test or blank"),
    ],
)
def test_a_table_that_is_none_is_refused(raw, content, message):
    (raw / "labels.csv").write_bytes(content)
    with refused(message):
        read_source("csv", raw, {})


def test_a_missing_table_is_named_with_the_option_that_names_it(raw):
    with refused("There is no table .*labels.csv. Name it with --table"):
        read_source("csv", raw, {})
    (raw / "mine.csv").write_text("image\na\n")
    assert len(read_source("csv", raw, {"table": "mine.csv"}).table) == 1


# --- csv: the labels --------------------------------------------------------------------------------


def test_every_further_column_of_1_0_minus_1_or_blank_is_a_finding(raw, caplog):
    caplog.set_level(logging.INFO, "evax")
    text = "image,age,pleural effusion,modality,Scar,note,empty\na,1,1,CR,-1.0,0,\nb,0,,DX,0,x,\n"
    manifest = from_csv(raw, text)
    assert manifest.findings == ("Effusion", "Scar")
    np.testing.assert_array_equal(manifest.labels(), [[1, -1], [np.nan, 0]])
    assert not manifest.exclusive
    assert "findings are pleural effusion, Scar; other columns: modality, note, empty." in caplog.text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "yes",
            "labels.csv: column 'Effusion', line 3 holds 'yes', not a number. Labels are 1 .present., 0 ",
        ),
        (
            "2",
            r"Effusion of images/b.png is 2; labels are 1 \(present\), 0 \(absent\), -1 \(uncertain\) or",
        ),
    ],
)
def test_a_wrong_value_in_the_column_of_a_known_finding_is_refused_and_the_column_not_skipped(
    raw, value, message
):
    with refused(message):
        from_csv(raw, f"image,Effusion\na,1\nb,{value}\n")


def test_only_the_findings_asked_for_are_taken_and_text_in_them_is_refused(raw):
    text = "image,Scar,Mass\na,1,0\nb,maybe,1\n"
    assert from_csv(raw, text, findings=("Mass",)).findings == ("Mass",)
    with refused("column 'Scar', line 3 holds 'maybe', not a number. .* class names is --label-column"):
        from_csv(raw, text, findings=("Scar",))
    with refused("labels.csv has no column 'Scars'; it has image, Scar, Mass"):
        from_csv(raw, text, findings=("Scars",))


def test_two_columns_of_one_finding_are_refused(raw):
    with refused("the finding Effusion has two columns, maybe in two spellings: keep one"):
        from_csv(raw, "image,Effusion,pleural effusion\na,1,0\n")


@pytest.mark.parametrize(("header", "options"), [("label", {}), ("kind", {"label_column": "kind"})])
def test_a_column_of_class_names_gives_exactly_one_finding_per_image(raw, header, options):
    manifest = from_csv(raw, f"image,{header},Mass\na,normal,1\nb,PNEUMONIA,1\nc,normal,0\n", **options)
    assert manifest.findings == ("Pneumonia", "normal")
    assert manifest.exclusive
    np.testing.assert_array_equal(manifest.labels(), [[0, 1], [1, 0], [0, 1]])


def test_an_image_without_its_class_is_refused_with_its_line(raw):
    with refused("labels.csv: column 'label', line 3 is blank; .* Fill it in or leave the image out"):
        from_csv(raw, "image,label\na,normal\nb, \n")
    with refused("labels.csv has no column 'klass'; it has image, label"):
        from_csv(raw, "image,label\na,normal\n", label_column="klass")


# --- csv: the boxes ---------------------------------------------------------------------------------


def test_boxes_find_their_images_however_the_table_names_them(raw, caplog):
    caplog.set_level(logging.INFO, "evax")
    boxes = "a,pleural effusion,0.1,0.2,0.3,0.4\nimages/b.png,Mass,0,0,1,1\nz,Mass,0,0,1,1\n"
    found = from_csv(raw, "image,Effusion,Mass\na,1,0\nb,0,1\n", boxes).boxes
    assert found.to_numpy().tolist() == [
        ["images/a.png", "Effusion", 0.1, 0.2, 0.3, 0.4],
        ["images/b.png", "Mass", 0.0, 0.0, 1.0, 1.0],
    ]
    assert "1 of 3 boxes are of images that are not listed" in caplog.text


def test_a_name_that_is_too_long_for_a_file_is_that_of_a_missing_image(raw):
    name = "x" * 300
    assert from_csv(raw, f"image,Mass\n{name},1\n", "").table["image"].tolist() == [name]


def test_boxes_that_cannot_be_read_are_refused(raw):
    labels = "image,Mass\na,1\n"
    with refused("boxes.csv: column 'width', line 2 holds '30px', not a number. Boxes are fractions"):
        from_csv(raw, labels, "a,Mass,0,0,30px,0.4\n")
    with refused("a box of images/a.png leaves the image or is empty; boxes are x, y, width, height in frac"):
        from_csv(raw, labels, "a,Mass,10,20,30,40\n")
    (raw / "boxes.csv").write_text("image,finding\na,Mass\n")
    with refused("boxes.csv lacks the columns x, y, width, height"):
        read_source("csv", raw, {})


# --- folders ----------------------------------------------------------------------------------------


def test_the_folder_of_an_image_is_its_class(tmp_path):
    draw(
        tmp_path / "normal" / "p1_a.png",
        tmp_path / "pneumonia" / "p1_b.png",
        tmp_path / "pneumonia" / "x" / "p2.png",
    )
    (tmp_path / "pneumonia" / "notes.txt").write_text("no image")
    manifest = read_source("folders", tmp_path, {})
    assert manifest.findings == ("Pneumonia", "normal")
    assert manifest.exclusive
    np.testing.assert_array_equal(manifest.labels(), [[0, 1], [1, 0], [1, 0]])
    assert list(manifest.table["image"]) == ["normal/p1_a.png", "pneumonia/p1_b.png", "pneumonia/x/p2.png"]
    assert manifest.table["patient"].nunique() == 3


def test_folders_named_train_val_and_test_are_the_splits_and_the_next_ones_the_classes(tmp_path):
    draw(tmp_path / "train" / "NORMAL" / "a.png", tmp_path / "val" / "PNEUMONIA" / "b.png")
    draw(tmp_path / "test" / "NORMAL" / "c.png", tmp_path / "__MACOSX" / "test" / "NORMAL" / "._c.png")
    manifest = read_source("folders", tmp_path, {})
    assert manifest.findings == ("NORMAL", "Pneumonia")
    assert dict(zip(manifest.table["image"], manifest.table["split"], strict=True)) == {
        "test/NORMAL/c.png": "test", "train/NORMAL/a.png": "train", "val/PNEUMONIA/b.png": "val",
    }  # fmt: skip
    draw(tmp_path / "more" / "d.png")
    with refused("holds a folder test beside class folders"):
        read_source("folders", tmp_path, {})


def test_folders_without_a_pattern_of_patients_are_warned_of(tmp_path, caplog):
    draw(tmp_path / "a.png")
    read_source("folders", tmp_path, {"patient_pattern": "(a)"})
    assert "names no patients" not in caplog.text
    read_source("folders", tmp_path, {})
    assert "names no patients: every image counts as a patient of its own" in caplog.text


def test_images_without_folders_are_unlabelled(tmp_path):
    draw(tmp_path / "b.PNG", tmp_path / "a.jpeg")
    manifest = read_source("folders", tmp_path, {})
    assert list(manifest.table["image"]) == ["a.jpeg", "b.PNG"]
    assert manifest.labels().shape == (2, 0)


def test_dicoms_of_any_name_are_images_and_what_is_none_is_counted(tmp_path, dicom_film, caplog):
    (tmp_path / "sick").mkdir()
    for name in ("1.2.840.10", "1.2.840.11"):  # a UID: its last number is no suffix
        dicom_film.save_as(tmp_path / "sick" / name)
    draw(tmp_path / "normal" / "a.png")
    for name in ("b.webp", "c.webp", "LICENSE"):
        (tmp_path / "normal" / name).write_bytes(b"no film")
    table = read_source("folders", tmp_path, {}).table
    assert list(table["image"]) == ["normal/a.png", "sick/1.2.840.10", "sick/1.2.840.11"]
    assert list(table["patient"]) == ["normal/a", "sick/1.2.840.10", "sick/1.2.840.10"]  # as headers say
    assert "3 files are no images and are passed over: 2 .webp, 1 no suffix" in caplog.text


@pytest.mark.parametrize(
    ("source", "places"), [("folders", ("sick", "well")), ("masks", ("images", "images"))]
)
def test_dicoms_of_one_patient_id_are_one_patient_whose_id_is_kept_nowhere(
    tmp_path, dicom_film, caplog, source, places
):
    if source == "masks":
        (tmp_path / "masks").mkdir()
    first, second = (tmp_path / place for place in places)
    for path, name in [
        (first / "a.dcm", "ADA1"), (first / "b", "BOB2"), (first / "c", ""), (second / "d.dcm", "ADA1"),
    ]:  # fmt: skip
        write_dicom(dicom_film, path, PatientID=name)
    draw(second / "e.png")
    caplog.set_level(logging.INFO, "evax")
    table = read_source(source, tmp_path, {}).table
    patients = dict(zip(table["image"].str[-5:].str.strip("/"), table["patient"], strict=True))
    assert patients["d.dcm"] == patients["a.dcm"] == f"{places[0]}/a"
    assert table["patient"].nunique() == 4
    assert "the headers of 3 of 5 images name a patient, 2 patients in all" in caplog.text
    assert "2 of 5 images name no patient: each counts as a patient of its own" in caplog.text
    assert caplog.text.count("a store keeps the names of files as they are") == 1
    stored = table.drop(columns="split_key")  # which decides the split and gets into no store
    assert not any(name in stored.to_csv() + caplog.text for name in ("ADA1", "BOB2"))


def test_a_pattern_of_patients_goes_before_headers_and_a_broken_header_names_nobody(
    tmp_path, dicom_film, caplog
):
    for name in ("x1_a.dcm", "x2_a.dcm", "x3_a.dcm"):
        write_dicom(dicom_film, tmp_path / name, PatientID="ADA1")
    (tmp_path / "x3_a.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00")
    named = read_source("folders", tmp_path, {"patient_pattern": r"(x\d)"}).table
    assert list(named["patient"]) == ["x1", "x2", "x3"]
    assert "a store keeps the names of files as they are" in caplog.text
    assert list(read_source("folders", tmp_path, {}).table["patient"]) == ["x1_a", "x1_a", "x3_a"]


@pytest.mark.parametrize("split", ["", "train"])
def test_a_class_whose_images_cannot_be_read_is_refused_instead_of_forgotten(tmp_path, split):
    draw(tmp_path / split / "normal" / "a.png")
    (tmp_path / split / "sick").mkdir()
    (tmp_path / split / "sick" / "b.bmp").write_bytes(b"BM")
    with refused(r"sick holds files, but no image .*: convert its images, or move the folder away"):
        read_source("folders", tmp_path, {})


def test_the_patient_is_read_from_the_file_name(tmp_path):
    draw(
        *(
            tmp_path / kind / name
            for kind, name in [("a", "person12_1.png"), ("b", "person12_7.png"), ("b", "person1_7.png")]
        )
    )
    table = read_source("folders", tmp_path, {"patient_pattern": r"(person\d+)"}).table
    assert list(table["patient"]) == ["person12", "person12", "person1"]


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        ("(person", ConfigError, r"patient_pattern '\(person' is not a regular expression: "),
        (r"(IM-\d+)", DataError, "finds no patient at the start of p1.png; it needs one group"),
        ("(IM)?p", DataError, "finds no patient at the start of p1.png; it needs one group"),
        (r"p\d", DataError, "finds no patient at the start of p1.png; it needs one group"),
    ],
)
def test_a_pattern_that_finds_no_patient_is_refused_with_the_image(tmp_path, pattern, error, message):
    draw(tmp_path / "p1.png")
    with refused(message, error):
        read_source("folders", tmp_path, {"patient_pattern": pattern})


def test_a_folder_without_images_or_with_loose_ones_beside_classes_is_refused(tmp_path):
    with refused("There are no images in .* .looked for .png, .jpg"):
        read_source("folders", tmp_path, {})
    draw(tmp_path / "a.png", tmp_path / "normal" / "b.png")
    with refused(
        r"holds both images \(a.png\) and folders of images: move the loose images into a class folder"
    ):
        read_source("folders", tmp_path, {})


# --- dicom ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dicom_film(phantoms):
    return pydicom.dcmread(next(phantoms.glob("images/*.dcm")))


def write_dicom(film, path, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    film = copy.deepcopy(film)
    for keyword, value in tags.items():
        setattr(film, keyword, value)
    film.save_as(path, enforce_file_format=True)


@pytest.fixture
def tree(dicom_film, tmp_path):
    """Two images of Ada, one of Bob, a lateral image, a file without a patient; a note and an empty file."""
    raw = tmp_path / "raw"
    ada, bob = {"PatientID": "ADA1", "StudyInstanceUID": "1.2.3"}, {"PatientID": "BOB2", "PatientAge": "070Y"}
    write_dicom(
        dicom_film, raw / "ADA1" / "1.dcm", **ada, ViewPosition="PA", PatientSex="F", PatientAge="031Y"
    )
    write_dicom(dicom_film, raw / "ADA1" / "2", **ada, ViewPosition="AP")
    write_dicom(dicom_film, raw / "BOB2" / "1.dcm", **bob)
    write_dicom(dicom_film, raw / "BOB2" / "2.dcm", **bob, ViewPosition="LL")
    write_dicom(dicom_film, raw / "nobody" / "1.dcm", PatientID="", StudyInstanceUID="1.2.5")
    (raw / "nobody" / "note.txt").write_text("a long note about the images, and no image by itself")
    (raw / "DICOMDIR").write_bytes((raw / "BOB2" / "1.dcm").read_bytes())
    return raw


def from_dicom(tree, private="private"):
    return read_source("dicom", tree, {"private": tree.parent / private})


def test_a_tree_of_dicoms_gives_its_frontal_images_by_pseudonym(tree, caplog):
    caplog.set_level(logging.INFO, "evax")
    manifest = from_dicom(tree)
    table = manifest.table.set_index("file")
    assert list(table.index) == ["ADA1/1.dcm", "ADA1/2", "BOB2/1.dcm", "nobody/1.dcm"]
    assert "4 images; left out: 1 lateral images, 2 other files." in caplog.text
    assert "2 files are no chest images and are left out: 1 DICOMDIR, 1 .txt." in caplog.text
    assert table["patient"].nunique() == 3
    assert table.at["ADA1/1.dcm", "patient"] == table.at["ADA1/2", "patient"]
    assert table.at["ADA1/1.dcm", "study"] == table.at["ADA1/2", "study"] != ""
    assert table.at["nobody/1.dcm", "patient"] == table.at["nobody/1.dcm", "study"] != ""
    assert (table.at["ADA1/1.dcm", "view"], table.at["ADA1/2", "view"]) == ("PA", "AP")
    assert (table.at["ADA1/1.dcm", "sex"], table.at["ADA1/1.dcm", "age"]) == ("F", 31)
    for secret in ("ADA1", "BOB2", "1.2.3"):
        assert secret not in manifest.table.drop(columns=["file", "split_key"]).to_csv()
    assert manifest.findings == ()


def test_the_same_key_gives_a_patient_the_same_pseudonym_in_every_store_and_another_key_another(
    tree, tmp_path
):
    first = from_dicom(tree).table
    (tree / "ADA1").rename(tree / "moved")
    again, other = from_dicom(tree).table, from_dicom(tree, "other").table
    assert set(again["patient"][again["file"].str.startswith("moved")]) == {first["patient"][0]}
    assert not set(other["patient"]) & set(again["patient"])


def test_key_and_crosswalk_lead_back_and_are_for_their_owner_only(tree, tmp_path):
    table = from_dicom(tree).table
    lines = (tmp_path / "private" / "crosswalk.csv").read_text().splitlines()
    assert lines == [
        "image,file",
        *(f"{image},{tree / file}" for image, file in zip(table["image"], table["file"], strict=True)),
    ]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "private").iterdir()} == {
        "crosswalk.csv": "0o600",
        "pseudonyms.key": "0o600",
    }


def test_trees_that_share_a_private_folder_keep_their_places_in_the_crosswalk(tree, dicom_film, tmp_path):
    first = from_dicom(tree).table
    write_dicom(dicom_film, tmp_path / "second" / "1.dcm", PatientID="ADA1")
    second = read_source("dicom", tmp_path / "second", {"private": tmp_path / "private"}).table
    assert set(second["patient"]) < set(first["patient"])
    lines = (tmp_path / "private" / "crosswalk.csv").read_text().splitlines()[1:]
    assert {line.split(",")[0] for line in lines} == {*first["image"], *second["image"]}
    assert any(line.endswith(str(tmp_path / "second" / "1.dcm")) for line in lines)


def test_what_a_kill_left_of_a_crosswalk_does_not_get_into_the_next_one(tree, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / ".crosswalk.csv.unfinished").write_text("left,over\n" * 1000)
    images = from_dicom(tree).table["image"]
    lines = (tmp_path / "private" / "crosswalk.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["image", *images]


def test_a_damaged_key_is_refused_and_not_replaced(tree, tmp_path):
    from_dicom(tree)
    (tmp_path / "private" / "pseudonyms.key").write_bytes(b"short")
    with refused("pseudonyms.key is not a pseudonym key: it has 5 bytes, expected 32"):
        from_dicom(tree)
    assert (tmp_path / "private" / "pseudonyms.key").read_bytes() == b"short"


def test_an_unreadable_file_in_the_tree_does_not_stop_the_others(tree):
    (tree / "empty.dcm").write_bytes(b"")
    (tree / "cut.dcm").write_bytes((tree / "BOB2" / "1.dcm").read_bytes()[:300])
    assert {"empty.dcm", "cut.dcm", "BOB2/1.dcm"} <= set(from_dicom(tree).table["file"])


@pytest.mark.parametrize("modality", ["SR", "RTPLAN", "DX"])  # documents have the modality of their study
def test_an_object_without_pictures_is_another_file_and_an_image_without_its_pixels_is_a_damaged_image(
    tree, caplog, modality
):
    caplog.set_level(logging.INFO, "evax")
    film = pydicom.dcmread(tree / "BOB2" / "1.dcm")
    del film.PixelData
    film.save_as(tree / "BOB2" / "3.dcm")
    del film.Rows, film.Columns
    film.save_as(tree / "BOB2" / "4.dcm")
    film.Modality = modality
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = {
        "SR": BasicTextSRStorage, "RTPLAN": RTPlanStorage, "DX": EncapsulatedPDFStorage,
    }[modality]  # fmt: skip
    film.save_as(tree / "BOB2" / "document.dcm")
    manifest = from_dicom(tree)
    assert "6 images; left out: 1 lateral images, 3 other files." in caplog.text
    name = {"SR": "Basic Text SR Storage", "RTPLAN": "RT Plan Storage", "DX": "Encapsulated PDF Storage"}
    assert f"no chest images and are left out: 1 {name[modality]}, 1 DICOMDIR, 1 .txt." in caplog.text
    files = manifest.table.set_index("image")["file"]
    assert "BOB2/document.dcm" not in set(files)
    (fault,) = check_disk(manifest)
    for name in ("BOB2/3.dcm", "BOB2/4.dcm"):
        assert f"{files.index[files == name][0]} (no pixels)" in fault
    assert fault.startswith("unreadable: 2 files: ")


def test_a_tree_without_frontal_images_says_what_it_found(tree):
    for path in [*tree.rglob("1.dcm"), tree / "ADA1" / "2"]:
        path.unlink()
    with refused(r"There is no frontal DICOM image in .*raw \(1 lateral images, 2 other files\)"):
        from_dicom(tree)


def test_of_dates_only_the_days_since_the_first_study_are_kept(dicom_film, tmp_path):
    raw = tmp_path / "raw"
    dates = {"a": "20240229", "b": "20240301", "c": "20230301", "d": ""}
    for name, date in dates.items():
        write_dicom(dicom_film, raw / f"{name}.dcm", PatientID="ADA1", StudyDate=date)
    write_dicom(dicom_film, raw / "e.dcm", PatientID="BOB2", StudyDate="", AcquisitionDate="20190101")
    write_dicom(dicom_film, raw / "f.dcm", PatientID="BOB2", StudyDate="20190111")
    table = from_dicom(raw).table.set_index("file")
    np.testing.assert_array_equal(table["study_day"], [365, 366, 0, np.nan, 0, 10])
    assert "2024" not in table.drop(columns=["image", "patient", "study"]).to_csv()


def test_images_of_one_study_stay_together_when_they_name_no_patient(dicom_film, tmp_path, caplog):
    tags = {
        "a": {"PatientID": "", "StudyInstanceUID": "1.2.3"},
        "b": {"PatientID": "", "StudyInstanceUID": "1.2.3"},
        "c": {"PatientID": "", "StudyInstanceUID": ""},
        "d": {"PatientID": "ADA1", "StudyInstanceUID": "1.2.4"},
        "e": {"PatientID": "", "StudyInstanceUID": "1.2.4"},
    }
    for name, of_film in tags.items():
        write_dicom(dicom_film, tmp_path / "raw" / f"{name}.dcm", **of_film)
    table = from_dicom(tmp_path / "raw").table.set_index("file")
    patient = table["patient"]
    assert patient["a.dcm"] == patient["b.dcm"] == table.at["a.dcm", "study"]
    assert patient["c.dcm"] == table.at["c.dcm", "image"]
    assert patient["d.dcm"] == patient["e.dcm"] != table.at["e.dcm", "study"]
    assert "4 of 5 images name no patient: images of one study are kept together" in caplog.text


def test_one_patient_with_most_of_the_images_is_warned_of(dicom_film, tmp_path, caplog):
    dicom_film = copy.deepcopy(dicom_film)
    del dicom_film.PixelData
    for number in range(20):
        name = "ANONYMOUS" if number < 11 else f"P{number}"
        write_dicom(dicom_film, tmp_path / "raw" / f"{number}.dcm", PatientID=name)
    from_dicom(tmp_path / "raw")
    assert "one Patient ID holds 11 of 20 images" in caplog.text
    assert "ANONYMOUS" not in caplog.text
    caplog.clear()
    write_dicom(dicom_film, tmp_path / "raw" / "0.dcm", PatientID="P0")
    from_dicom(tmp_path / "raw")
    assert not caplog.text


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"BodyPartExamined": "HAND"}, "1 images of other body parts"),
        ({"BodyPartExamined": "HAND"}, "1 files are no chest images and are left out: 1 body_part_HAND."),
        ({"Modality": "CT"}, "1 pictures of other modalities"),
        ({"Modality": "CT"}, "1 files are no chest images and are left out: 1 modality_CT."),
        ({"Modality": "ADA LOVELACE"}, "no chest images and are left out: 1 modality_unknown."),
        ({"BurnedInAnnotation": "YES"}, "1 images with burned-in names"),
    ],
)
def test_what_its_header_calls_something_else_is_left_out_and_counted(
    dicom_film, tmp_path, caplog, tags, what
):
    caplog.set_level(logging.INFO, "evax")
    write_dicom(dicom_film, tmp_path / "raw" / "1.dcm")
    write_dicom(dicom_film, tmp_path / "raw" / "2.dcm", **tags)
    assert list(from_dicom(tmp_path / "raw").table["file"]) == ["1.dcm"]
    assert what in caplog.text


def test_images_with_burned_in_names_are_kept_when_asked_for(dicom_film, tmp_path):
    write_dicom(dicom_film, tmp_path / "raw" / "1.dcm", BurnedInAnnotation="YES")
    options = {"private": tmp_path / "private", "keep_burned_in": True}
    assert len(read_source("dicom", tmp_path / "raw", options).table) == 1


# --- ChestX-ray14 -----------------------------------------------------------------------------------

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)


@pytest.fixture
def release(tmp_path):
    draw(tmp_path / "images_001" / "images" / "1_0.png", tmp_path / "images_002" / "images" / "2_0.png")
    (tmp_path / "Data_Entry_2017.csv").write_text(
        HEADER + "1_0.png,Effusion|Infiltration,0,1,057Y,M,PA,2682,2749,0.1,0.1\n"
        "2_0.png,No Finding,0,2,411,F,AP,2682,2749,0.1,0.1\n3_0.png,Hernia,0,3,60,F,AP,2682,2749,0.1,0.1\n"
    )
    (tmp_path / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n1_0.png,Infiltrate,256,512,128,64,,,\n"
        "3_0.png,Hernia,1,1,9,9,,,\n"
    )
    (tmp_path / "test_list.txt").write_text("2_0.png\n")
    (tmp_path / "train_val_list.txt").write_text("1_0.png\n3_0.png\n")
    return tmp_path


def test_the_official_release_is_read_in_all_its_parts(release, caplog):
    caplog.set_level(logging.INFO, "evax")
    manifest = read_source("chestxray14", release, {})
    assert manifest.findings == CHESTXRAY14
    assert list(manifest.table["image"]) == ["images_001/images/1_0.png", "images_002/images/2_0.png"]
    present = [{CHESTXRAY14[column] for column in np.flatnonzero(row)} for row in manifest.labels()]
    assert present == [{"Effusion", "Infiltration"}, set()]
    assert list(manifest.table["split"]) == ["", "test"]
    np.testing.assert_array_equal(manifest.table["age"], [57, np.nan])
    assert manifest.boxes.to_numpy().tolist() == [
        ["images_001/images/1_0.png", "Infiltration", 0.25, 0.5, 0.125, 0.0625]
    ]
    assert "1 of 3 listed images are not in" in caplog.text


def test_what_the_release_lacks_is_named(release):
    entries = (release / "Data_Entry_2017.csv").read_text()
    (release / "Data_Entry_2017.csv").write_text(
        entries.replace("Hernia", "Pox").replace("No Finding", "Pox")
    )
    with refused("Data_Entry_2017.csv has the finding 'Pox', unknown in this release"):
        read_source("chestxray14", release, {})
    (release / "Data_Entry_2017.csv").write_text(entries.replace("Patient ID", "Patient"))
    with refused("Data_Entry_2017.csv lacks the columns Patient ID"):
        read_source("chestxray14", release, {})
    (release / "Data_Entry_2017.csv").write_text(entries)
    (release / "train_val_list.txt").write_text("3_0.png\n")
    with refused("1_0.png is in neither test_list.txt nor train_val_list.txt"):
        read_source("chestxray14", release, {})
    (release / "train_val_list.txt").unlink()
    with refused("no list .*train_val_list.txt. The official release has .* The folder holds test_list.txt"):
        read_source("chestxray14", release, {})


def test_a_release_of_which_no_image_is_there_is_refused_with_an_example(release):
    for path in release.glob("*/images/*.png"):
        path.unlink()
    with refused(
        "None of the 3 images that chestxray14 lists is in .*: there is no images/1_0.png, for example"
    ):
        read_source("chestxray14", release, {})


# --- real releases ----------------------------------------------------------------------------------


@pytest.mark.real
def test_the_sample_of_chestxray14_has_the_counts_of_its_description(shared):
    manifest = read_source("chestxray14", shared / "chestxray14-sample", {})
    counts = dict(zip(manifest.findings, manifest.labels().sum(axis=0).astype(int).tolist(), strict=True))
    assert (len(manifest.table), manifest.table["patient"].nunique()) == (758, 502)
    assert (counts["Pneumonia"], counts["Infiltration"], counts["Atelectasis"], counts["Edema"]) == (
        378,
        141,
        80,
        80,
    )
    assert (manifest.table["split"] == "test").sum() == 200
    assert manifest.boxes["finding"].value_counts().to_dict()["Pneumonia"] == 32
    assert len(manifest.boxes) == 38
    assert set(manifest.boxes["image"]) <= set(manifest.table["image"][manifest.table["split"] == "test"])


@pytest.mark.real
def test_hannover_s_images_are_unlabelled_because_their_modality_is_no_finding(shared):
    manifest = read_source("csv", shared / "hannover-covid19", {})
    assert manifest.findings == ()
    assert (len(manifest.table), manifest.table["patient"].nunique()) == (243, 71)
    assert manifest.table["view"].value_counts().to_dict() == {"AP": 194, "PA": 49}
    assert all((manifest.root / image).is_file() for image in manifest.table["image"])


@pytest.mark.real
def test_both_kermany_sets_divide_the_same_patients_alike(shared):
    from evax.data.split import assign_splits

    whole = read_source("csv", shared / "kermany-pneumonia", {})
    assert whole.table["patient"].nunique() == 2846
    assert dict(zip(whole.findings, whole.labels().sum(axis=0), strict=True)) == {
        "bacterial": 2530,
        "normal": 1341,
        "viral": 1345,
    }
    pattern = {"patient_pattern": r"(person\d+|NORMAL2-IM-\d+|IM-\d+)"}
    part = read_source("folders", shared / "kermany-lungs" / "images", pattern)
    sides = [
        dict(assign_splits(m, 0.1, 0.2, 0).table[["patient", "split"]].to_numpy()) for m in (whole, part)
    ]
    assert set(sides[1]) <= set(sides[0])
    assert all(sides[0][patient] == split for patient, split in sides[1].items())


@pytest.mark.real
def test_real_dicoms_are_indexed(shared, tmp_path):
    manifest = read_source("dicom", shared / "dicom", {"private": tmp_path})
    assert len(manifest.table) == 2


def test_stores_of_one_table_know_that_their_names_of_patients_are_the_same(tmp_path):
    draw(tmp_path / "a.png", tmp_path / "b.png")

    def namespace(*lines, source="csv"):
        (tmp_path / "labels.csv").write_text("\n".join(lines))
        return read_source(source, tmp_path, {}).namespace

    first = namespace("image,patient,Mass", "a.png,p,1", "b.png,q,0")
    assert namespace("image,patient,split,Edema", "b.png,q,test,1", "a.png,p,,0") == first
    others = {namespace("image,patient", "a.png,p"), namespace("image,patient", "a.png,p", "b.png,p")}
    others.add(namespace(source="folders"))
    Image.new("L", (31, 20)).save(tmp_path / "a.png")  # the same names of other images
    others.add(namespace("image,patient", "a.png,p", "b.png,q"))
    assert len(others - {first}) == 4


def test_stores_of_one_release_or_one_key_know_that_their_names_of_patients_are_the_same(tree, tmp_path):
    assert from_dicom(tree).namespace == from_dicom(tree / "BOB2", "../private").namespace
    assert from_dicom(tree).namespace != from_dicom(tree, "other").namespace
    assert read_source("siim", written("siim", tmp_path / "siim"), {}).namespace == "siim"

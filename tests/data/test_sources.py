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


@pytest.mark.parametrize(
    ("labels", "column", "expected"),
    [
        *((f"image\n{film}\n", "image", ["images/a.png"])
          for film in ("images/a.png", "a.png", "a", "images/a", r"images\a.png")),
        *((f"{header},Mass\na,1\n", "image", ["images/a.png"])
          for header in ("image", "Image_ID", "file", " filename", "PATH")),
        ("image\nlost\na\nc\nimages/b.png\n", "image",
         ["lost", "images/a.png", "images/c.jpg", "images/b.png"]),
        (f"image,Mass\n{'x' * 300},1\n", "image", ["x" * 300]),  # too long for the name of a file
        ("image,patient,split\na,1,Train\nb,2,TEST\nc,3,validation\nd,4,valid\ne,5,\n", "split",
         ["train", "test", "val", "val", ""]),
        ("image,age\na,-3\nb,3\n", "age", [np.nan, 3]),
        *((f"image,age\na,{age}\n", "age", [years]) for age, years in [
            ("058Y", 58), ("58.5", 58.5), ("39 yrs", 39), ("7 Years old", 7), ("90+", 90),
        ]),
        *((f"image,patient,view\na,1,{view}\n", "view", [meant]) for view, meant in [
            ("AP supine", "AP"), ("'pa'", "PA"), (" AP ", "AP"), ("postero-anterior", "PA"),
            ("left lateral", "LATERAL"), ("LL", "LATERAL"), ("R-10214", "PA"), ("PA and lateral", ""),
            ("ap_portable", "AP"), ("map", ""),
        ]),
    ],
)  # fmt: skip
def test_images_splits_ages_and_views_are_understood_as_people_write_them(raw, labels, column, expected):
    np.testing.assert_array_equal(from_csv(raw, labels, "").table[column], expected)


def test_facts_about_images_and_patients_are_taken_over(raw):
    text = (
        "image_id,patient_id,study_id,gender,age,projection,split\na,7,s,male,51.5,pa,test\nb, 7 ,,f,,AP,\n"
    )
    table = from_csv(raw, text).table
    facts = table[["patient", "study", "view", "sex", "split"]].to_numpy().tolist()
    assert facts == [["7", "s", "PA", "M", "test"], ["7", "", "AP", "F", ""]]
    np.testing.assert_array_equal(table["age"], [51.5, np.nan])


@pytest.mark.parametrize("header", ["PatientID", "Patient ID", "patient-id", "Subject_ID"])
def test_the_column_of_patients_may_have_other_names(raw, header, caplog):
    assert list(from_csv(raw, f"image,{header}\na,p\nb,p\n").table["patient"]) == ["p", "p"]
    assert "no column 'patient'" not in caplog.text


def test_sexes_are_understood_as_words_and_what_is_not_understood_is_counted_once(raw, caplog):
    text = "image,patient,sex,view\na,1,male,PA\nb,2,FEMALE,lordotic\nc,3,m,\n"
    table = from_csv(raw, text + "d,4,,PA\ne,5,O,PA\nf,6,'f',swimmer\n").table
    assert list(table["sex"]) == ["M", "F", "M", "", "", "F"]
    assert list(table["view"]) == ["PA", "", "", "PA", "PA", ""]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "2 of view (lordotic, swimmer) and 1 of sex (O) are unknown and count as blank" in warning


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("image,Mass\na,1\n", "has no column 'patient': every image counts as a patient of its own"),
        ("image_id,MRN,case_id,StudyID,side,Mass\na,1,2,3,left,1\n",
         "Maybe it is MRN or case_id or StudyID: rename the column that is the same in all images"),
    ],
)  # fmt: skip
def test_a_table_without_patients_is_warned_of_once_with_the_columns_that_may_name_them(
    raw, caplog, text, warning
):
    from_csv(raw, text)
    (said,) = [record.getMessage() for record in caplog.records]
    assert warning in said


@pytest.mark.parametrize(
    "text",
    ["006M", "1e2", "12/05/50", "12 05 50", "<1", ">89", "40-49", "18+", "58.5.1", "6M", "born 50", "1,5",
     "121", "٥٨"],
)  # fmt: skip
def test_an_age_that_is_no_plain_number_of_years_is_blank_and_counted(raw, caplog, text):
    table = from_csv(raw, f'image,patient,age\na,1,"{text}"\nb,2,58\nc,3,063Y\nd,4,7.5\n').table
    np.testing.assert_array_equal(table["age"], [np.nan, 58, 63, 7.5])
    assert "1 ages are no number of years" in caplog.text


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


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "labels.csv is empty. Name it with --table"),
        ("image,note\na,schr\xe4g\n".encode("latin-1"),
         "is not text in UTF-8 .*: save it as 'CSV UTF-8', or conv"),
        ("image;Mass\na;0,5\n",
         "labels.csv separates its columns by semicolons, .*: save it as CSV with commas"),
        ("image\tMass\na\t1\n", "labels.csv separates its columns by tabs"),
        ("image,Mass\na,1\nb,1,left,upper\n",
         "line 3 has more columns than the header, or a quote that does"),
        ('image,Mass\na,"1\n', "a line has more columns than the header, or a quote that does not end"),
        ("image,Mass\na,1,left,upper\nb,0,,\n",
         "a line has more columns than the header.* Texts that hold commas belong in quotes"),
        ("image,Mass\n", "the table has no images"),
        ("image\na\nb\na\n", "the image images/a.png is listed twice"),
        ("image,split\na,fold3\n", "the split 'fold3' is unknown; known: train, val, test or blank"),
        ("picture,Mass\na,1\n",
         r"labels.csv has no column 'image' that names the images; it has picture, Mass. Rename one of them "
         r"\(also accepted: image_id, image_index, file"),
        ("image,Rib_Fracture\na,1\nb,0\nc,yes\n",
         "column 'Rib_Fracture', line 4 holds 'yes', not a number"),
        ("image,Effusion\na,1\nb,yes\n",
         "labels.csv: column 'Effusion', line 3 holds 'yes', not a number. Labels are 1 .present., 0 "),
        ("image,Effusion\na,1\nb,2\n",
         r"Effusion of images/b.png is 2; labels are 1 \(present\), 0 \(absent\), -1 \(uncertain\) or"),
        ("image,Effusion,pleural effusion\na,1,0\n",
         "the finding Effusion has two columns, maybe in two spellings: keep one"),
        ("image,label\na,normal\nb, \n",
         "labels.csv: column 'label', line 3 is blank; .* Fill it in or leave the image out"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_refused_with_what_to_do(raw, labels, message):
    (raw / "labels.csv").write_bytes(labels if isinstance(labels, bytes) else labels.encode())
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
    ("options", "message"),
    [
        ({"findings": ("Scar",)},
         "column 'Scar', line 3 holds 'maybe', not a number. .* class names is --label-column"),
        ({"findings": ("Scars",)}, "labels.csv has no column 'Scars'; it has image, Scar, Mass"),
        ({"label_column": "klass"}, "labels.csv has no column 'klass'; it has image, Scar, Mass"),
    ],
)  # fmt: skip
def test_only_the_columns_asked_for_are_taken_and_must_fit(raw, options, message):
    text = "image,Scar,Mass\na,1,0\nb,maybe,1\n"
    assert from_csv(raw, text, findings=("Mass",)).findings == ("Mass",)
    with refused(message):
        from_csv(raw, text, **options)


@pytest.mark.parametrize(("header", "options"), [("label", {}), ("kind", {"label_column": "kind"})])
def test_a_column_of_class_names_gives_exactly_one_finding_per_image(raw, header, options):
    manifest = from_csv(raw, f"image,{header},Mass\na,normal,1\nb,PNEUMONIA,1\nc,normal,0\n", **options)
    assert manifest.findings == ("Pneumonia", "normal")
    assert manifest.exclusive
    np.testing.assert_array_equal(manifest.labels(), [[0, 1], [1, 0], [0, 1]])


# --- csv: the boxes ---------------------------------------------------------------------------------


def test_boxes_find_their_images_however_the_table_names_them(raw, caplog):
    caplog.set_level(logging.INFO, "evax")
    boxes = "a,pleural effusion,0.1,0.2,0.3,0.4\nimages/b.png,Mass,0,0,1,1\nz,Mass,0,0,1,1\n"
    found = from_csv(raw, "image,Effusion,Mass\na,1,0\nb,0,1\n", boxes).boxes
    assert found.to_numpy().tolist() == [
        ["images/a.png", "Effusion", 0.1, 0.2, 0.3, 0.4], ["images/b.png", "Mass", 0.0, 0.0, 1.0, 1.0],
    ]  # fmt: skip
    assert "1 of 3 boxes are of images that are not listed" in caplog.text


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ("image,finding,x,y,width,height\na,Mass,0,0,30px,0.4\n",
         "boxes.csv: column 'width', line 2 holds '30px', not a number. Boxes are fractions"),
        ("image,finding,x,y,width,height\na,Mass,10,20,30,40\n",
         "a box of images/a.png leaves the image or is empty; boxes are x, y, width, height in frac"),
        ("image,finding\na,Mass\n", "boxes.csv lacks the columns x, y, width, height"),
    ],
)  # fmt: skip
def test_boxes_that_cannot_be_read_are_refused(raw, boxes, message):
    (raw / "boxes.csv").write_text(boxes)
    with refused(message):
        from_csv(raw, "image,Mass\na,1\n")


# --- folders ----------------------------------------------------------------------------------------


def test_the_folder_of_an_image_is_its_class(tmp_path):
    films = ["normal/p1_a.png", "pneumonia/p1_b.png", "pneumonia/x/p2.png"]
    draw(*(tmp_path / name for name in films))
    (tmp_path / "pneumonia" / "notes.txt").write_text("no image")
    manifest = read_source("folders", tmp_path, {})
    assert manifest.findings == ("Pneumonia", "normal")
    assert manifest.exclusive
    np.testing.assert_array_equal(manifest.labels(), [[0, 1], [1, 0], [1, 0]])
    assert list(manifest.table["image"]) == films
    assert manifest.table["patient"].nunique() == 3


def test_folders_named_train_val_and_test_are_the_splits_and_the_next_ones_the_classes(tmp_path):
    draw(tmp_path / "train" / "NORMAL" / "a.png", tmp_path / "val" / "PNEUMONIA" / "b.png")
    draw(tmp_path / "test" / "NORMAL" / "c.png", tmp_path / "__MACOSX" / "test" / "NORMAL" / "._c.png")
    manifest = read_source("folders", tmp_path, {})
    assert manifest.findings == ("NORMAL", "Pneumonia")
    assert dict(zip(manifest.table["image"], manifest.table["split"], strict=True)) == {
        "test/NORMAL/c.png": "test", "train/NORMAL/a.png": "train", "val/PNEUMONIA/b.png": "val",
    }  # fmt: skip


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
    films = {first / "a.dcm": "ADA1", first / "b": "BOB2", first / "c": "", second / "d.dcm": "ADA1"}
    write_dicoms(dicom_film, tmp_path, {path: {"PatientID": name} for path, name in films.items()})
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
    write_dicoms(dicom_film, tmp_path, {f"x{number}_a.dcm": {"PatientID": "ADA1"} for number in (1, 2, 3)})
    (tmp_path / "x3_a.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00")
    named = read_source("folders", tmp_path, {"patient_pattern": r"(x\d)"}).table
    assert list(named["patient"]) == ["x1", "x2", "x3"]
    assert "a store keeps the names of files as they are" in caplog.text
    assert list(read_source("folders", tmp_path, {}).table["patient"]) == ["x1_a", "x1_a", "x3_a"]


def test_the_patient_is_read_from_the_file_name(tmp_path):
    draw(*(tmp_path / name for name in ("a/person12_1.png", "b/person12_7.png", "b/person1_7.png")))
    table = read_source("folders", tmp_path, {"patient_pattern": r"(person\d+)"}).table
    assert list(table["patient"]) == ["person12", "person12", "person1"]


NO_PATIENT = "finds no patient at the start of p1.png; it needs one group"
NO_FILM = r"sick holds files, but no image .*: convert its images, or move the folder away"


@pytest.mark.parametrize(
    ("films", "pattern", "message"),
    [
        *((["p1.png"], pattern, NO_PATIENT) for pattern in (r"(IM-\d+)", "(IM)?p", r"p\d")),
        ([], "", "There are no images in .* .looked for .png, .jpg"),
        (["a.png", "normal/b.png"], "",
         r"holds both images \(a.png\) and folders of images: move the loose images into a class folder"),
        (["train/NORMAL/a.png", "val/PNEUMONIA/b.png", "test/NORMAL/c.png", "more/d.png"], "",
         "holds a folder test beside class folders"),
        (["normal/a.png", "sick/b.bmp"], "", NO_FILM),
        (["train/normal/a.png", "train/sick/b.bmp"], "", NO_FILM),
    ],
)  # fmt: skip
def test_folders_that_are_none_of_classes_or_name_no_patient_are_refused(tmp_path, films, pattern, message):
    draw(*(tmp_path / name for name in films))
    with refused(message):
        read_source("folders", tmp_path, {"patient_pattern": pattern} if pattern else {})


def test_a_pattern_of_patients_that_is_none_is_refused(tmp_path):
    draw(tmp_path / "p1.png")
    with refused(r"patient_pattern '\(person' is not a regular expression: ", ConfigError):
        read_source("folders", tmp_path, {"patient_pattern": "(person"})


# --- dicom ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dicom_film(phantoms):
    return pydicom.dcmread(next(phantoms.glob("images/*.dcm")))


def write_dicoms(film, raw, films):
    """A copy of the image for each path, with its tags."""
    for name, tags in films.items():
        copied = copy.deepcopy(film)
        for keyword, value in tags.items():
            setattr(copied, keyword, value)
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        copied.save_as(raw / name, enforce_file_format=True)
    return raw


@pytest.fixture
def tree(dicom_film, tmp_path):
    """Two images of Ada, one of Bob, a lateral image, a file without a patient; a note and an empty file."""
    ada, bob = {"PatientID": "ADA1", "StudyInstanceUID": "1.2.3"}, {"PatientID": "BOB2", "PatientAge": "070Y"}
    raw = write_dicoms(dicom_film, tmp_path / "raw", {
        "ADA1/1.dcm": {**ada, "ViewPosition": "PA", "PatientSex": "F", "PatientAge": "031Y"},
        "ADA1/2": {**ada, "ViewPosition": "AP"},
        "BOB2/1.dcm": bob,
        "BOB2/2.dcm": {**bob, "ViewPosition": "LL"},
        "nobody/1.dcm": {"PatientID": "", "StudyInstanceUID": "1.2.5"},
    })  # fmt: skip
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
    assert lines[0] == "image,file"
    places = zip(table["image"], table["file"], strict=True)
    assert lines[1:] == [f"{image},{tree / file}" for image, file in places]
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "private").iterdir()}
    assert modes == {"crosswalk.csv": "0o600", "pseudonyms.key": "0o600"}


def test_trees_that_share_a_private_folder_keep_their_places_in_the_crosswalk(tree, dicom_film, tmp_path):
    first = from_dicom(tree).table
    write_dicoms(dicom_film, tmp_path / "second", {"1.dcm": {"PatientID": "ADA1"}})
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


@pytest.mark.parametrize(
    ("modality", "uid"),  # documents have the modality of their study
    [("SR", BasicTextSRStorage), ("RTPLAN", RTPlanStorage), ("DX", EncapsulatedPDFStorage)],
)
def test_an_object_without_pictures_is_another_file_and_an_image_without_its_pixels_is_a_damaged_image(
    tree, caplog, modality, uid
):
    caplog.set_level(logging.INFO, "evax")
    film = pydicom.dcmread(tree / "BOB2" / "1.dcm")
    del film.PixelData
    film.save_as(tree / "BOB2" / "3.dcm")
    del film.Rows, film.Columns
    film.save_as(tree / "BOB2" / "4.dcm")
    film.Modality = modality
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = uid
    film.save_as(tree / "BOB2" / "document.dcm")
    manifest = from_dicom(tree)
    assert "6 images; left out: 1 lateral images, 3 other files." in caplog.text
    assert f"no chest images and are left out: 1 {uid.name}, 1 DICOMDIR, 1 .txt." in caplog.text
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
    raw = write_dicoms(dicom_film, tmp_path / "raw", {
        "a": {"PatientID": "ADA1", "StudyDate": "20240229"},
        "b": {"PatientID": "ADA1", "StudyDate": "20240301"},
        "c": {"PatientID": "ADA1", "StudyDate": "20230301"},
        "d": {"PatientID": "ADA1", "StudyDate": ""},
        "e": {"PatientID": "BOB2", "StudyDate": "", "AcquisitionDate": "20190101"},
        "f": {"PatientID": "BOB2", "StudyDate": "20190111"},
    })  # fmt: skip
    table = from_dicom(raw).table.set_index("file")
    np.testing.assert_array_equal(table["study_day"], [365, 366, 0, np.nan, 0, 10])
    assert "2024" not in table.drop(columns=["image", "patient", "study"]).to_csv()


def test_images_of_one_study_stay_together_when_they_name_no_patient(dicom_film, tmp_path, caplog):
    raw = write_dicoms(dicom_film, tmp_path / "raw", {
        "a": {"PatientID": "", "StudyInstanceUID": "1.2.3"},
        "b": {"PatientID": "", "StudyInstanceUID": "1.2.3"},
        "c": {"PatientID": "", "StudyInstanceUID": ""},
        "d": {"PatientID": "ADA1", "StudyInstanceUID": "1.2.4"},
        "e": {"PatientID": "", "StudyInstanceUID": "1.2.4"},
    })  # fmt: skip
    table = from_dicom(raw).table.set_index("file")
    patient = table["patient"]
    assert patient["a"] == patient["b"] == table.at["a", "study"]
    assert patient["c"] == table.at["c", "image"]
    assert patient["d"] == patient["e"] != table.at["e", "study"]
    assert "4 of 5 images name no patient: images of one study are kept together" in caplog.text


@pytest.mark.parametrize(("films", "warned"), [(11, True), (10, False)])
def test_one_patient_with_most_of_the_images_is_warned_of(dicom_film, tmp_path, caplog, films, warned):
    bare = copy.deepcopy(dicom_film)
    del bare.PixelData
    names = ["ANONYMOUS" if number < films else f"P{number}" for number in range(20)]
    tags = {f"{number}.dcm": {"PatientID": name} for number, name in enumerate(names)}
    from_dicom(write_dicoms(bare, tmp_path / "raw", tags))
    assert ("one Patient ID holds 11 of 20 images" in caplog.text) == warned == bool(caplog.text)
    assert "ANONYMOUS" not in caplog.text


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"BodyPartExamined": "HAND"}, ["1 images of other body parts", "left out: 1 body_part_HAND."]),
        ({"Modality": "CT"}, ["1 pictures of other modalities", "left out: 1 modality_CT."]),
        ({"Modality": "ADA LOVELACE"}, ["no chest images and are left out: 1 modality_unknown."]),
        ({"BurnedInAnnotation": "YES"}, ["1 images with burned-in names"]),
    ],
)
def test_what_its_header_calls_something_else_is_left_out_and_counted(
    dicom_film, tmp_path, caplog, tags, said
):
    caplog.set_level(logging.INFO, "evax")
    raw = write_dicoms(dicom_film, tmp_path / "raw", {"1.dcm": {}, "2.dcm": tags})
    assert list(from_dicom(raw).table["file"]) == ["1.dcm"]
    assert all(what in caplog.text for what in said)
    assert ("1 files are no chest images and are" in caplog.text) == ("BurnedInAnnotation" not in tags)


def test_images_with_burned_in_names_are_kept_when_asked_for(dicom_film, tmp_path):
    raw = write_dicoms(dicom_film, tmp_path / "raw", {"1.dcm": {"BurnedInAnnotation": "YES"}})
    options = {"private": tmp_path / "private", "keep_burned_in": True}
    assert len(read_source("dicom", raw, options).table) == 1


# --- ChestX-ray14 -----------------------------------------------------------------------------------


@pytest.fixture
def release(tmp_path):
    """Three listed images, of which two are there, with a box of the one that is not."""
    with (written("chestxray14", tmp_path) / "BBox_List_2017.csv").open("a") as file:
        file.write("00000003_000.png,Hernia,1,1,9,9,,,\n")
    return tmp_path


def test_the_official_release_is_read_in_all_its_parts(release, caplog):
    caplog.set_level(logging.INFO, "evax")
    manifest = read_source("chestxray14", release, {})
    first, second = "images_001/images/00000001_000.png", "images_002/images/00000002_000.png"
    assert manifest.findings == CHESTXRAY14
    assert list(manifest.table["image"]) == [first, second]
    present = [{CHESTXRAY14[column] for column in np.flatnonzero(row)} for row in manifest.labels()]
    assert present == [{"Effusion", "Infiltration"}, set()]
    assert list(manifest.table["split"]) == ["", "test"]
    np.testing.assert_array_equal(manifest.table["age"], [57, np.nan])
    assert manifest.boxes.to_numpy().tolist() == [[first, "Infiltration", 0.25, 0.5, 0.125, 0.0625]]
    assert "1 of 3 listed images are not in" in caplog.text


def test_a_release_of_which_no_image_is_there_is_refused_with_an_example(release):
    for path in release.glob("*/images/*.png"):
        path.unlink()
    message = "None of the 3 images that chestxray14 lists is in .*: there is no images/00000001_000.png, for"
    with refused(f"{message} example"):
        read_source("chestxray14", release, {})


# --- real releases ----------------------------------------------------------------------------------


@pytest.mark.real
def test_the_sample_of_chestxray14_has_the_counts_of_its_description(shared):
    manifest = read_source("chestxray14", shared / "chestxray14-sample", {})
    counts = dict(zip(manifest.findings, manifest.labels().sum(axis=0).astype(int).tolist(), strict=True))
    assert (len(manifest.table), manifest.table["patient"].nunique()) == (758, 502)
    assert counts.items() >= {"Pneumonia": 378, "Infiltration": 141, "Atelectasis": 80, "Edema": 80}.items()
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
    counts = dict(zip(whole.findings, whole.labels().sum(axis=0), strict=True))
    assert counts == {"bacterial": 2530, "normal": 1341, "viral": 1345}
    pattern = {"patient_pattern": r"(person\d+|NORMAL2-IM-\d+|IM-\d+)"}
    part = read_source("folders", shared / "kermany-lungs" / "images", pattern)
    divided = [assign_splits(manifest, 0.1, 0.2, 0).table for manifest in (whole, part)]
    sides = [dict(table[["patient", "split"]].to_numpy()) for table in divided]
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

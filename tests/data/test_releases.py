"""Every public release in its official layout becomes the one table, with all its boxes and masks."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from evax.data.masks import decode_rle
from evax.data.sources import list_source, read_source
from evax.data.split import assign_splits, follow_lists
from evax.errors import DataError
from evax.findings import CHEXPERT
from releases import RELEASES, film, mask, with_files, written


def read(name, folder, **options):
    return read_source(name, written(name, folder), options)


def refused(message):
    return pytest.raises(DataError, match=message)


def replaced(*pairs):
    """A change of a table: each first text becomes the second."""

    def change(text):
        for old, new in pairs:
            text = text.replace(old, new)
        return text

    return change


def label(manifest, row, finding):
    return float(manifest.table[finding].iloc[row])


@pytest.mark.parametrize("name", RELEASES)
def test_every_image_of_a_release_is_found_and_no_patient_is_in_two_splits(name, tmp_path):
    manifest = read(name, tmp_path)
    assert manifest.root == tmp_path
    assert all((tmp_path / image).is_file() for image in manifest.table["image"])
    split = assign_splits(manifest, validation=0.3, test=0.3, seed=0).table
    assert split.groupby("patient")["split"].nunique().max() == 1


MIMIC_LABELS = "\n".join(["subject_id,study_id," + ",".join(CHEXPERT), *["1,50414267" + "," * 14] * 2])


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),  # change: of its text, all its content, or None: it is gone
    [
        ("chexpert", "train.csv", replaced(("Edema", "Oedematous")), "train.csv lacks the columns Edema"),
        ("chexpert", "train.csv", replaced(("patient00001", "p1")),
         "the path CheXpert-v1.0-small/train/p1/.* names no patient and study"),
        ("chexpert", "train.csv", replaced(("Pleural Other", "effusion")),
         "lacks the columns Pleural Other: it is another table or another version of it"),
        ("chexpert", "train.csv", replaced(("Path", "effusion,Path"), ("\nChe", "\n1,Che")),
         "has two columns of the finding Effusion: delete one"),
        ("chexpert", "train.csv", None,
         "There is no table .*train.csv. It is part of the release; --raw names the folder that holds it"),
        ("mimic_cxr", "mimic-cxr-2.0.0-split.csv", "dicom_id,split\nd1,train\nd2,train\nd3,development\n",
         r"mimic-cxr-2.0.0-split.csv names no split of d3 \(train, validate or test\)"),
        ("mimic_cxr", "mimic-cxr-2.0.0-chexpert.csv", MIMIC_LABELS,
         "mimic-cxr-2.0.0-chexpert.csv lists the study 50414267 twice"),
        ("covidx9a", "train_COVIDx9A.txt", "3 a b.jpeg pneumonia cohen\n4 c.png sick rsna\n",
         "train_COVIDx9A.txt, line 2: expected 'patient filename class source' with a class of normal, "),
        ("covidx9a", "train_COVIDx9A.txt", b"\xef\xbb\xbf4 d e.png negative sirm\n",
         "line 1: expected .* but the class is 'negative'. Lists of other versions belong to other so"),
        ("covidx_cxr4", "train.txt", b"\xef\xbb\xbf4 d e.png pneumonia sirm\n",
         "line 1: expected .* but the class is 'pneumonia'. Lists of other versions belong to other so"),
        ("covidx9a", "test_COVIDx9A.txt", "alone\n",
         "test_COVIDx9A.txt, line 1: expected 'patient filename class source'"),
        ("covidx9a", "test_COVIDx9A.txt", "1 ä.png normal rsna".encode("latin-1"),
         "The list .*test_COVIDx9A.txt cannot be read"),
        ("covidx_cxr4", "train.txt", None,
         "There is no list .*train.txt. --raw names the folder that holds it and train/"),
        ("chestxray14", "Data_Entry_2017.csv", replaced(("Hernia", "Pox"), ("No Finding", "Pox")),
         "Data_Entry_2017.csv has the finding 'Pox', unknown in this release"),
        ("chestxray14", "Data_Entry_2017.csv", replaced(("Patient ID", "Patient")),
         "Data_Entry_2017.csv lacks the columns Patient ID"),
        ("chestxray14", "train_val_list.txt", "00000003_000.png\n",
         "00000001_000.png is in neither test_list.txt nor train_val_list.txt"),
        ("chestxray14", "train_val_list.txt", None,
         "no list .*train_val_list.txt. The official release has .* The folder holds test_list.txt"),
        ("chestxray14", "test_list.txt", b"\xff\xff", "The list .*test_list.txt cannot be read"),
        ("chestxray14", "BBox_List_2017.csv", replaced(("Image Index", "Name")),
         "BBox_List_2017.csv does not begin with the columns Image Index, Finding Label, Bbox"),
        ("chestxray14", "BBox_List_2017.csv", replaced(("256", "left")),
         "BBox_List_2017.csv: column 'Bbox .x', line 2 holds 'left', not a number. Boxes are in pix"),
        ("rsna", "stage_2_train_labels.csv", replaced(("256.0,512.0,128.0,256.0,1", "256.0,512.0,,256.0,1")),
         "0004cfab-14fd-4e49-80ba-63a80b6bddd1 has Target 1 and no complete box"),
        ("coco", "annotations.json", None, "There is no file .*annotations.json. Name it with --table"),
    ],
)  # fmt: skip
def test_a_release_with_a_broken_or_missing_table_is_refused_with_file_and_place(
    tmp_path, name, file, change, message
):
    path = written(name, tmp_path) / file
    if change is None:
        path.unlink()
    else:
        with_files(tmp_path, {file: change(path.read_text()) if callable(change) else change})
    with refused(message):
        read_source(name, tmp_path, {})


# --- CheXpert ---------------------------------------------------------------------------------------


def test_chexpert_s_frontal_images_are_those_of_its_own_column(tmp_path):
    manifest = read("chexpert", tmp_path)
    assert manifest.findings == CHEXPERT
    table = manifest.table
    assert list(table["image"]) == [
        "train/patient00001/study1/view1_frontal.jpg",
        "train/patient00002/study1/view1_frontal.jpg",
        "train/patient00002/study2/view1_frontal.jpg",
        "valid/patient64541/study1/view1_frontal.jpg",
    ]
    assert list(table["patient"]) == ["patient00001", "patient00002", "patient00002", "patient64541"]
    assert list(table["study"][:2]) == ["patient00001/study1", "patient00002/study1"]
    facts = table[["view", "sex", "split"]].to_numpy().tolist()
    assert facts == [["AP", "F", ""], ["PA", "M", ""], ["", "", ""], ["AP", "M", "test"]]
    assert manifest.left_out == {"train/patient00002/study1/view2_lateral.jpg": "lateral view"}


def test_chexpert_s_labels_stay_as_written_and_find_their_columns_by_name(tmp_path):
    manifest = read("chexpert", tmp_path)
    assert label(manifest, 0, "No Finding") == 1
    assert label(manifest, 0, "Pneumothorax") == 0
    assert label(manifest, 1, "Edema") == -1
    assert label(manifest, 1, "Effusion") == 1
    assert np.isnan(label(manifest, 1, "Fracture"))
    assert np.isnan(manifest.labels()[2]).all()


# --- MIMIC-CXR-JPG ----------------------------------------------------------------------------------


def test_mimic_s_ap_and_pa_images_get_the_labels_of_their_study_and_the_release_s_split(tmp_path):
    manifest = read("mimic_cxr", tmp_path)
    table = manifest.table
    assert table["image"][0] == "files/p10/p10000032/s50414267/d1.jpg"
    assert list(table["view"]) == ["PA", "AP", "AP", "PA"]
    assert list(table["split"]) == ["train", "train", "val", "test"]
    assert label(manifest, 0, "Atelectasis") == 1
    assert label(manifest, 1, "Effusion") == -1
    assert label(manifest, 1, "Pneumonia") == 0
    assert np.isnan(manifest.labels()[2]).all(), "the study is not in the label table"
    assert label(manifest, 3, "No Finding") == 1
    others = ["files/p10/p10000032/s50414267/d2.jpg", "files/p11/p11000935/s51178377/d6.jpg"]
    assert list(manifest.left_out) == others


def test_the_three_splits_of_a_release_are_kept(tmp_path):
    manifest = assign_splits(read("mimic_cxr", tmp_path), validation=0.5, test=0.5, seed=3)
    assert list(manifest.table["split"]) == ["train", "train", "val", "test"]


# --- COVIDx -----------------------------------------------------------------------------------------


def test_covidx9a_has_three_classes_and_names_with_blanks(tmp_path):
    manifest = read("covidx9a", tmp_path)
    assert manifest.findings == ("Normal", "Pneumonia", "COVID-19")
    assert manifest.exclusive
    assert manifest.table["image"][0] == "train/a b.jpeg"
    assert list(manifest.table["patient"][:2]) == ["3", "3"]
    np.testing.assert_array_equal(manifest.labels()[:3], [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert manifest.table["split"].value_counts().to_dict() == {"train": 4, "test": 2}


def test_where_a_release_names_no_validation_images_they_come_out_of_its_train_images(tmp_path):
    manifest = assign_splits(read("covidx9a", tmp_path), validation=1.0, test=0.0, seed=0)
    assert list(manifest.table["split"]) == ["val"] * 4 + ["test"] * 2


def test_covidx_cxr4_keeps_its_three_splits(tmp_path):
    manifest = read("covidx_cxr4", tmp_path)
    assert manifest.findings == ("Negative", "COVID-19")
    assert manifest.table["split"].value_counts().to_dict() == {"train": 2, "test": 2, "val": 1}


# --- SIIM-ACR and RSNA ------------------------------------------------------------------------------


def united(manifest, image):
    pieces = [decode_rle(rle) for rle in manifest.masks.loc[manifest.masks["image"] == image, "rle"]]
    return np.logical_or.reduce(pieces)


def test_all_run_lengths_of_a_siim_image_are_kept(tmp_path):
    manifest = read("siim", tmp_path)
    table = manifest.table
    assert len(table) == 4
    np.testing.assert_array_equal(table["Pneumothorax"], [0, 1, 0, 1])
    assert len(manifest.masks) == 3
    both = united(manifest, table["image"][1])
    assert both.sum() == 512 + 512 + 512
    assert both[:512, 0].all(), "runs go down the first column"
    assert both[512:, 511].all()
    assert both[512:, 512].all()
    corner = united(manifest, table["image"][3])
    assert corner[1023, 0]
    assert corner.sum() == 1


def test_all_boxes_of_an_rsna_image_are_kept_and_are_its_mask(tmp_path):
    manifest = read("rsna", tmp_path)
    np.testing.assert_array_equal(manifest.table["Pneumonia"], [0, 1, 1, 0])
    boxes = manifest.boxes.iloc[:, 2:].to_numpy().tolist()
    assert boxes == [[0.25, 0.5, 0.125, 0.25], [0, 0, 0.5, 0.5], [0.5, 0, 0.5, 1]]
    mask = united(manifest, manifest.table["image"][1])
    expected = np.zeros((1024, 1024), bool)
    expected[512:768, 256:384] = expected[:512, :512] = True
    np.testing.assert_array_equal(mask, expected)
    assert united(manifest, manifest.table["image"][2])[:, 512:].all()


# --- Shenzhen, lungs, masks beside images ------------------------------------------------------------


def test_shenzhen_s_regions_are_kept_by_abnormality_and_as_tuberculosis(tmp_path):
    manifest = read("shenzhen", tmp_path)
    np.testing.assert_array_equal(manifest.table["Tuberculosis"], [0, 0, 1, 1])
    assert list(manifest.table["patient"][:2]) == ["CHNCXR_0001", "CHNCXR_0002"]
    assert list(manifest.table["sex"][:2]) == ["M", "F"]
    assert list(manifest.table["age"][:2]) == [45, 39]
    assert set(manifest.masks["image"]) == {"CXR_png/CHNCXR_0327_1.png"}, "0999 is no image of the release"
    findings = manifest.masks["finding"].value_counts().to_dict()
    assert findings == {"Tuberculosis": 3, "Small Infiltrate (non-linear)": 2, "Effusion": 1}


def test_zhang_s_lungs_keep_their_test_images(tmp_path):
    manifest = read("lungs", tmp_path)
    assert list(manifest.table["split"]) == [""] * 5 + ["test"] * 2
    assert len(manifest.masks) == 7
    assert set(manifest.masks["finding"]) == {"Lung"}
    assert manifest.masks["file"][1] == "Train/Masks/film_1_mask.png"


@pytest.mark.parametrize("source", ["masks", "lungs", "shenzhen", "csv"])
def test_the_inside_of_mask_files_can_be_named_wherever_there_are_some(tmp_path, source):
    written("masks" if source == "csv" else source, tmp_path)
    with_files(tmp_path, {"labels.csv": "image,patient,Mass\np0_1.png,p0,1\np1_1.png,p1,0\n"})
    manifest = read_source(source, tmp_path, {"mask_value": (255, 0, 0)})
    assert len(manifest.masks)
    assert manifest.select(np.ones(len(manifest.table), bool)).mask_value == (255, 0, 0)


def test_masks_beside_images_are_found_by_name_and_by_folder(tmp_path):
    manifest = read("masks", tmp_path, region="Heart", patient_pattern=r"(p\d)")
    assert list(manifest.table["patient"]) == ["p0", "p1", "p2"]
    assert manifest.masks.to_numpy().tolist() == [
        ["images/p1_1.png", "Mass", "masks/Mass/p1_1.png", ""],
        ["images/p0_1.png", "Heart", "masks/p0_1.png", ""],
        ["images/p0_1.png", "Effusion", "masks/p0_1_Pleural_Effusion.png", ""],
    ]


def test_the_folder_of_masks_may_be_capitalised_and_must_be_there(tmp_path, caplog):
    written("masks", tmp_path)
    (tmp_path / "masks").rename(tmp_path / "Masks")
    assert len(read_source("masks", tmp_path, {}).masks) == 3
    assert "names no patients: every image counts as a patient of its own" in caplog.text
    (tmp_path / "Masks").rename(tmp_path / "labels")
    with refused("There is no folder .*/masks: it holds the masks of the images in images/"):
        read_source("masks", tmp_path, {})


def test_masks_of_other_images_are_left_out_and_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO, "evax")
    written("masks", tmp_path)
    mask(tmp_path / "masks" / "p9_1_Mass.png", (0, 0, 9, 9))
    assert len(read_source("masks", tmp_path, {}).masks) == 3
    assert "1 masks belong to no listed image" in caplog.text
    for path in (tmp_path / "images").iterdir():
        path.rename(path.with_name("x" + path.name))
    with refused("belongs to no image, and no other does: a mask is named as its image, maybe"):
        read_source("masks", tmp_path, {})


def test_a_mask_of_two_images_of_one_name_is_refused(tmp_path):
    written("masks", tmp_path)
    film(tmp_path / "images" / "more" / "p2_1.jpg")
    assert len(read_source("masks", tmp_path, {}).masks) == 3, "the images of one name have no masks"
    film(tmp_path / "images" / "more" / "p0_1.jpg")
    with refused("images/more/p0_1.jpg and images/p0_1.png have one name: of which of them is the mask"):
        read_source("masks", tmp_path, {})


def test_a_csv_table_takes_the_masks_beside_it(phantoms):
    manifest = read_source("csv", phantoms, {})
    assert len(manifest.masks) == len(list((phantoms / "masks").glob("*.png")))
    labels = manifest.table.set_index("image")
    assert all(labels.at[image, finding] == 1 for image, finding in manifest.masks.to_numpy()[:, :2])


# --- COCO -------------------------------------------------------------------------------------------


def test_coco_boxes_become_fractions_and_labels(tmp_path):
    manifest = read("coco", tmp_path, patient_pattern=r"(p\d)")
    assert manifest.findings == ("Effusion", "Mass")
    assert list(manifest.table["patient"]) == ["p0", "p1", "p2"]
    np.testing.assert_array_equal(manifest.labels(), [[1, 0], [0, 0], [0, 1]])
    assert manifest.boxes.to_numpy().tolist() == [
        ["images/p0_1.png", "Effusion", 0.25, 0.5, 0.125, 0.25],
        ["images/p0_1.png", "Effusion", 0.5, 0.5, 0.5, 0.25],
        ["images/p2_1.png", "Mass", 0.0, 0.0, 1.0, 1.0],
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"bbox": [12,', '"bbox": [-40,', "a box of images/p0_1.png leaves the image"),
        ('"image_id": 2', '"image_id": 9', "annotation 3 is of an unknown image or category"),
        ('"width": 48, ', "", "an entry of images lacks width"),
        ('"width": 48', '"width": 0', "an image has no width or no height"),
        ('"width": 48', '"width": NaN', "an image has no width or no height"),
        ('"width": 48', f'"width": {10**400}', "is not a COCO file"),
        ('"id": 1, "file_name"', '"id": 0, "file_name"', "two entries of images have one id"),
        ('"width": 48', '"width": "48px"', "is not a COCO file"),
        ('"image_id": 2', '"image_id": [2]', "is not a COCO file"),
        ('"bbox": [12,', '"bbox": [12, 12,', "the bbox of annotation 1 is not x, y, width, height"),
        (
            '"categories"',
            '"kinds"',
            "annotations.json is not a COCO file with images, categories and annotations",
        ),
    ],
)
def test_a_coco_file_that_contradicts_itself_is_refused(tmp_path, old, new, message):
    written("coco", tmp_path)
    path = tmp_path / "annotations.json"
    path.write_text(path.read_text().replace(old, new))
    with refused(message):
        read_source("coco", tmp_path, {})


# --- lists of an experiment -------------------------------------------------------------------------


def test_the_lists_of_an_experiment_choose_images_and_splits(tmp_path):
    manifest = read("siim", tmp_path / "raw")
    ids = list(manifest.table["patient"])
    content = {"train.txt": f"{ids[0]}\n{ids[1]}", "test.txt": f"{ids[3]}.dcm 0 1\n\n"}
    lists = with_files(tmp_path / "lists", content)
    chosen = follow_lists(manifest, lists)
    split = dict(zip(chosen.table["patient"], chosen.table["split"], strict=True))
    assert split == {ids[0]: "train", ids[1]: "train", ids[3]: "test"}
    assert set(chosen.masks["image"]) <= set(chosen.table["image"])
    with_files(lists, {"val.txt": ids[1]})
    with refused(f"{ids[1]} is in a train list and in a val list of"):
        follow_lists(manifest, lists)


def test_lists_name_images_of_equal_names_by_their_paths(tmp_path):
    manifest = read("chexpert", tmp_path / "raw")
    named = "train/patient00002/study2/view1_frontal.jpg"
    lists = with_files(tmp_path / "lists", {"test.txt": f"{named}\nview1_frontal.jpg\n"})
    chosen = follow_lists(manifest, lists).table
    assert chosen[["image", "split"]].to_numpy().tolist() == [[named, "test"]]


def test_lists_name_images_with_blanks_and_with_the_patient_first(tmp_path):
    manifest = read("covidx9a", tmp_path / "raw")
    train = "3 a b.jpeg pneumonia cohen\n3 c.png COVID-19 rsna\n"
    lists = with_files(tmp_path / "lists", {"Train.TXT": train, "test.txt": "z.png\n"})
    chosen = follow_lists(manifest, lists).table
    split = dict(zip(chosen["image"], chosen["split"], strict=True))
    assert split == {"train/a b.jpeg": "train", "train/c.png": "train", "test/z.png": "test"}
    with_files(lists, {"Train.TXT": "a b\n"})
    assert list(follow_lists(manifest, lists).table["image"]) == ["train/a b.jpeg", "test/z.png"]


def test_a_label_in_a_line_is_no_image(tmp_path):
    for name in ("1.png", "b.png"):
        film(tmp_path / "raw" / name)
    manifest = read_source("folders", tmp_path / "raw", {})
    lists = with_files(tmp_path / "lists", {"train.txt": "b.png 0 1\nlost.png 1\nlost 1\n"})
    assert list(follow_lists(manifest, lists).table["image"]) == ["b.png"]


def test_a_list_of_train_and_validation_images_is_divided(tmp_path):
    manifest = read("chestxray14", tmp_path / "raw")
    chosen = follow_lists(manifest, tmp_path / "raw").table
    assert list(chosen["split"]) == ["train", "test"], "validation images are drawn from the first"
    first, second = "00000001_000.png\n", "00000002_000.png\n"
    lists = with_files(tmp_path / "lists", {"train_val_list.txt": first + second, "val.txt": second})
    assert list(follow_lists(manifest, lists).table["split"]) == ["train", "val"]
    with_files(lists, {"test_train.txt": first})
    with refused("test_train.txt says two splits: name it after one of them"):
        follow_lists(manifest, lists)
    (lists / "test_train.txt").rename(lists / "test.txt")
    with refused("00000001_000 is in a test list and in a train_val list of"):
        follow_lists(manifest, lists)


def test_lists_that_are_not_there_or_name_nothing_are_refused(tmp_path):
    manifest, lists = read("siim", tmp_path / "raw"), tmp_path / "lists"
    with refused("There is no folder .*lists. --lists names the folder of an experiment's lists"):
        follow_lists(manifest, lists)
    lists.mkdir()
    with refused("holds no lists of images: train.*.txt, val.*.txt or test.*.txt"):
        follow_lists(manifest, lists)
    with_files(lists, {"train.txt": "1.2.3\n"})
    with refused("None of the 4 images of .*raw is in the lists of"):
        follow_lists(manifest, lists)


def test_everything_a_release_lists_can_be_seen_without_its_images(tmp_path):
    assert len(list_source("chestxray14", written("chestxray14", tmp_path), {}).table) == 3
    assert len(read_source("chestxray14", tmp_path, {}).table) == 2

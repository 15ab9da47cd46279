"""The complete tables of the public releases give the published counts, and a disk is compared with them."""

from __future__ import annotations

import shutil
import zipfile

import pydicom
import pytest

import published_tables
from evax.data.sources import list_source, public_set
from evax.data.sources.disk import check_disk, counted
from evax.data.split import assign_splits, follow_lists
from evax.findings import CHESTXRAY14
from releases import dicom, film, written


@pytest.fixture(scope="module")
def tables():
    return published_tables.folder()


def lists_of(shared, name, folder):
    """The released lists of one experiment, in a folder of their own."""
    folder.mkdir()
    for path in (shared / "official-splits").glob(f"{name}_*.txt.gz"):
        shutil.copy(path, folder / path.name)
    return folder


def agrees_with_published(manifest, ignore=()):
    found = counted(manifest)
    published = public_set(manifest.source).counts
    assert {name: found[name] for name in published if name not in ignore} == {
        name: number for name, number in published.items() if name not in ignore
    }


@pytest.fixture(scope="module")
def chestxray14(shared, tmp_path_factory):
    raw = tmp_path_factory.mktemp("chestxray14")
    published_tables.chestxray14(raw, shared)
    return list_source("chestxray14", raw, {})


@pytest.mark.real
def test_chestxray14_has_its_published_counts(chestxray14):
    agrees_with_published(chestxray14)
    assert counted(chestxray14)["images without a split"] == 86524
    tested = set(chestxray14.table.loc[chestxray14.table["split"] == "test", "image"])
    assert set(chestxray14.boxes["image"]) <= tested, "all 984 boxes are on images of the official test list"
    split = assign_splits(chestxray14, 0.1, 0.2, 0).table
    assert split.groupby("patient")["split"].nunique().max() == 1


@pytest.mark.real
def test_the_paper_s_lists_of_chestxray14_have_their_images_patients_and_positives(
    chestxray14, shared, tmp_path
):
    manifest = follow_lists(chestxray14, lists_of(shared, "cxr14", tmp_path / "lists"))
    table = manifest.table
    by_split = table.groupby("split")
    positives = by_split[list(CHESTXRAY14)].sum().astype(int)
    assert by_split.size().to_dict() == {"train": 75312, "val": 11212, "test": 25596}
    assert by_split["patient"].nunique().to_dict() == {"train": 24342, "val": 3666, "test": 2797}
    assert positives.loc["train"].tolist() == [
        7205, 1501, 7649, 12036, 3574, 4060, 770, 2244, 2480, 1210, 1250, 1083, 1927, 126,
    ]  # fmt: skip
    assert positives.loc["val"].tolist() == [
        1075, 206, 1010, 1746, 460, 648, 106, 393, 372, 168, 173, 168, 315, 15,
    ]  # fmt: skip
    assert positives.loc["test"].tolist() == [
        3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86,
    ]  # fmt: skip
    nothing = (manifest.labels() == 0).all(axis=1)
    assert table[nothing].groupby("split").size().to_dict() == {"train": 43886, "val": 6614, "test": 9861}
    assert table.groupby("patient")["split"].nunique().max() == 1


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory):
    raw = tmp_path_factory.mktemp("chexpert")
    published_tables.chexpert(raw)
    return list_source("chexpert", raw, {})


def test_chexpert_s_train_table_has_191_027_frontal_images(chexpert):
    assert len(chexpert.table) == 191027
    assert len(chexpert.left_out) == 223414 - 191027
    assert chexpert.table["patient"].nunique() == 64534
    labels = chexpert.labels()
    edema = labels[:, chexpert.findings.index("Edema")]
    assert [int((edema == value).sum()) for value in (-1, 0, 1)] == [11818, 15915, 49675]
    assert set(chexpert.table["view"]) == {"AP", "PA", ""}


def test_rsna_has_all_its_9555_boxes(tables, tmp_path):
    with zipfile.ZipFile(tables / "kaggle_stage_2_train_labels.csv.zip") as packed:
        packed.extractall(tmp_path)
    lines = (tmp_path / "stage_2_train_labels.csv").read_text().splitlines()
    assert len(lines) - 1 == 30227
    manifest = list_source("rsna", tmp_path, {})
    agrees_with_published(manifest)
    assert len(manifest.masks) == 9555


@pytest.fixture(scope="module")
def siim(tables, tmp_path_factory):
    raw = tmp_path_factory.mktemp("siim")
    shutil.copy(tables / "siim-pneumothorax-train-rle.csv.gz", raw / "train-rle.csv.gz")
    return list_source("siim", raw, {})


def test_siim_has_all_its_3576_run_lengths(siim):
    agrees_with_published(siim)


@pytest.mark.real
def test_the_paper_s_lists_of_siim_and_rsna_are_positives_only(siim, tables, shared, tmp_path):
    with zipfile.ZipFile(tables / "kaggle_stage_2_train_labels.csv.zip") as packed:
        packed.extractall(tmp_path)
    counts = {"siim": {"train": 1868, "test": 801}, "rsna": {"train": 4236, "test": 1776}}
    for name, manifest in (("siim", siim), ("rsna", list_source("rsna", tmp_path, {}))):
        chosen = follow_lists(manifest, lists_of(shared, name, tmp_path / name))
        assert chosen.table["split"].value_counts().to_dict() == counts[name]
        assert (chosen.labels() == 1).all()
        assert set(chosen.masks["image"]) == set(chosen.table["image"])


@pytest.mark.real
def test_covidx9a_has_its_published_counts_and_shares_no_patient(shared, tmp_path):
    for split in ("train", "test"):
        released = shared / "official-splits" / f"covidx9a_{split}.txt.gz"
        published_tables.unpacked(released, tmp_path / f"{split}_COVIDx9A.txt")
    manifest = list_source("covidx9a", tmp_path, {})
    agrees_with_published(manifest)
    labels, tested = manifest.labels(), (manifest.table["split"] == "test").to_numpy()
    assert labels[~tested].sum(axis=0).tolist() == [8085, 5555, 16490]
    assert labels[tested].sum(axis=0).tolist() == [100, 100, 200]
    assert manifest.table.groupby("patient")["split"].nunique().max() == 1
    split = assign_splits(manifest, 0.1, 0.2, 0).table
    assert split["split"].value_counts()["test"] == 400
    assert split.groupby("patient")["split"].nunique().max() == 1


# --- the disk ---------------------------------------------------------------------------------------


def test_extra_images_are_warned_of_and_no_fault(tmp_path, caplog):
    written("lungs", tmp_path)
    film(tmp_path / "Train" / "more" / "film_9.png")
    assert faults_of("lungs", tmp_path) == [], "COVIDx V9A and CheXpert have images that their tables lack"
    assert "1 files: Train/more/film_9.png that no table of lungs names; they are not used" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><title>Sign in</title>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        b"BM" + bytes(60),
        bytes(500),
    ],
)
def test_a_file_that_begins_as_no_image_is_a_fault(content, tmp_path):
    written("lungs", tmp_path)
    (tmp_path / "Train" / "Images" / "film_0.png").write_bytes(content)
    assert faults_of("lungs", tmp_path) == [
        "unreadable: 1 files: Train/Images/film_0.png (begins as no PNG, JPEG, TIFF or DICOM)"
    ]


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "encapsulated"])
def test_a_cut_off_dicom_is_found_by_the_length_of_its_pixels(syntax, tmp_path):
    path = tmp_path / "a.dcm"
    dicom(path)
    dataset = pydicom.dcmread(path)
    if syntax == "encapsulated":
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
        dataset.PixelData = pydicom.encaps.encapsulate([bytes(3000)])
    elif syntax == "implicit":
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    elif syntax == "big endian":
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    kind = dataset.file_meta.TransferSyntaxUID
    pydicom.dcmwrite(
        path, dataset, implicit_vr=kind.is_implicit_VR, little_endian=kind.is_little_endian, overwrite=True
    )
    whole = path.read_bytes()
    assert faults_of("folders", tmp_path) == []
    path.write_bytes(whole[:-100])
    assert faults_of("folders", tmp_path) == ["unreadable: 1 files: a.dcm (cut off)"]
    path.write_bytes(whole[:600])
    (fault,) = faults_of("folders", tmp_path)
    assert fault.startswith("unreadable: 1 files: a.dcm (")


def faults_of(name, raw):
    return check_disk(list_source(name, raw, {}))


def test_a_small_release_is_told_from_the_complete_one_by_every_count(tmp_path):
    faults = faults_of("rsna", written("rsna", tmp_path))
    assert faults == [
        "films: the tables list 4, published are 26,684 (RSNA 2018, stage_2_train_labels.csv)",
        "Pneumonia: the tables list 2, published are 6,012 (RSNA 2018, stage_2_train_labels.csv)",
        "boxes: the tables list 3, published are 9,555 (RSNA 2018, stage_2_train_labels.csv)",
        "images with boxes: the tables list 2, published are 6,012 (RSNA 2018, stage_2_train_labels.csv)",
    ]


def test_what_is_missing_or_cut_off_is_named_without_decoding(tmp_path):
    written("lungs", tmp_path)
    assert faults_of("lungs", tmp_path) == []
    cut = tmp_path / "Train" / "Images" / "film_0.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    (tmp_path / "Test" / "Masks" / "film_6.png").write_bytes(b"")
    assert faults_of("lungs", tmp_path) == [
        "unreadable: 2 files: Train/Images/film_0.png (cut off), Test/Masks/film_6.png (empty)",
    ]


def test_images_that_a_release_leaves_out_are_not_extra_and_a_few_of_many_are_named(tmp_path, caplog):
    written("mimic_cxr", tmp_path)
    on_disk = [fault for fault in faults_of("mimic_cxr", tmp_path) if "published" not in fault]
    assert on_disk == [], "laterals lie there and are not used"
    for path in tmp_path.rglob("*.jpg"):
        path.rename(path.with_name("moved_" + path.name))
    (missing,) = [fault for fault in faults_of("mimic_cxr", tmp_path) if "published" not in fault]
    assert missing.startswith("missing: 4 files: files/p10/p10000032/s50414267/d1.jpg, ")
    assert "6 files: files/p10/p10000032/s50414267/moved_d1.jpg, " in caplog.text
    assert " and 1 more that no table of mimic_cxr names" in caplog.text


def test_a_damaged_jpeg_is_found_by_its_end(tmp_path):
    written("chexpert", tmp_path)
    path = tmp_path / "train" / "patient00001" / "study1" / "view1_frontal.jpg"
    path.write_bytes(path.read_bytes()[:-30] + bytes(30))
    assert f"unreadable: 1 files: {path.relative_to(tmp_path)} (cut off)" in faults_of("chexpert", tmp_path)


def test_an_image_with_a_pseudonym_is_named_by_it(phantoms, tmp_path):
    raw = tmp_path / "raw" / "LOVELACE_ADA"
    raw.mkdir(parents=True)
    shutil.copy(next(phantoms.glob("images/*.dcm")), raw / "1.dcm")
    (raw / "2.dcm").write_bytes(b"")
    manifest = list_source("dicom", tmp_path / "raw", {"private": tmp_path / "private"})
    (fault,) = check_disk(manifest)
    (pseudonym,) = manifest.table.loc[manifest.table["file"].str.endswith("2.dcm"), "image"]
    assert fault == f"unreadable: 1 files: {pseudonym} (empty)"

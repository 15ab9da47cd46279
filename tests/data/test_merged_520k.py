"""Merged-520k: which images the paper likely took, and which of them would leak into a test."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest

import published_tables
from evax.data.sources import list_source
from evax.data.sources.corpora.merged_520k import OWN_TEST, RELEASES, SAME_PATIENT
from evax.data.split import assign_splits
from evax.errors import ConfigError, DataError
from releases import with_files, written

PAPER = [
    "chestxray14/images_001/images/00000001_000.png",
    "chestxray14/images/00000003_000.png",
    "chexpert/train/patient00001/study1/view1_frontal.jpg",
    "chexpert/train/patient00002/study1/view1_frontal.jpg",
    "chexpert/train/patient00002/study2/view1_frontal.jpg",
    "mimic_cxr/files/p10/p10000032/s50414267/d1.jpg",
    "mimic_cxr/files/p10/p10000764/s57375967/d3.jpg",
    "mimic_cxr/files/p10/p10000898/s50771383/d4.jpg",
    "mimic_cxr/files/p11/p11000935/s50578979/d5.jpg",
]


@pytest.fixture
def raw(tmp_path):
    return written("merged_520k", tmp_path / "raw")


@pytest.fixture
def lists(tmp_path):
    """RSNA tests on a ChestX-ray14 image under another name, COVIDx on the same and on one nobody knows, a
    third list on a CheXpert train image and a lateral one.
    """
    folder = tmp_path / "lists"
    with_files(folder / "rsna", {"test.txt": "0174c4bb\n", "train.txt": "00000003_000.png\n"})
    mapping = [{"img_id": "00000001_000.png", "subset_img_id": "0174c4bb", "SOPInstanceUID": "1.2.3", "n": 1}]
    (folder / "mapping.json").write_text(json.dumps(mapping))
    with gzip.open(folder / "test_COVIDx9A.txt.gz", "wt") as file:
        file.write("0174c4bb 0174c4bb.png normal rsna\n41-01 z.png COVID-19 ricord\n")
    (folder / "mine_test.txt").write_text(
        "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg\n"
        "CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg\n"
    )
    return folder


def test_the_paper_s_composition_is_every_frontal_image_but_its_two_official_tests(raw, caplog):
    with caplog.at_level(logging.INFO):
        manifest = list_source("merged_520k", raw, {})
    table = manifest.table
    assert list(table["image"]) == PAPER
    assert set(table["split"]) == {"train"}
    assert manifest.findings == ()
    assert list(table["patient"][2:6]) == [
        "chexpert/patient00001", "chexpert/patient00002", "chexpert/patient00002", "mimic_cxr/p10000032",
    ]  # fmt: skip
    assert manifest.left_out == {
        "chexpert/train/patient00002/study1/view2_lateral.jpg": "lateral view",
        "mimic_cxr/files/p10/p10000032/s50414267/d2.jpg": "neither AP nor PA",
        "mimic_cxr/files/p11/p11000935/s51178377/d6.jpg": "neither AP nor PA",
        "chestxray14/images_002/images/00000002_000.png": "official test list of ChestX-ray14",
        "chexpert/valid/patient64541/study1/view1_frontal.jpg": "valid.csv of CheXpert",
    }
    assert "Images that RSNA, SIIM-ACR and COVIDx test on are in it" in caplog.text


def test_tested_images_are_left_out_under_whatever_name_with_their_patients(raw, lists, caplog):
    with caplog.at_level(logging.INFO):
        manifest = list_source("merged_520k", raw, {"tested": lists})
    why = manifest.left_out
    assert list(manifest.table["image"]) == [image for image in PAPER if image not in why]
    assert {image: why[image] for image in PAPER if image in why} == {
        PAPER[0]: "tested by rsna/test.txt",
        PAPER[3]: "tested by mine_test.txt",
        PAPER[4]: SAME_PATIENT,
        PAPER[8]: OWN_TEST,
    }
    said = [record.getMessage().split() for record in caplog.records]
    for line in ("chestxray14 3 2 1", "chexpert 5 3 1", "mimic_cxr 6 4 3", "together 14 9 5"):
        assert line.split() in said
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned.pop(0).endswith("not read, because no list of tested images (*test*.txt): rsna/train.txt.")
    unknown = warned
    assert len(unknown) == 1, "what a list says of images that are left out anyway is known"
    assert unknown[0].startswith("test_COVIDx9A.txt.gz: 1 of its names are no image of the three releases")


def listing(raw, folder, content):
    return list_source("merged_520k", raw, {"tested": with_files(folder, {"test.txt": content})})


def test_a_patient_whose_lateral_image_alone_is_tested_is_left_out(raw, tmp_path):
    lines = "train/patient00002/study1/view2_lateral.jpg\nfiles/p10/p10000032/s50414267/d2.jpg\n"
    why = listing(raw, tmp_path / "lists", lines).left_out
    assert [why[image] for image in (PAPER[3], PAPER[4], PAPER[5])] == [SAME_PATIENT] * 3
    assert PAPER[2] not in why


def test_lists_are_found_in_any_case_and_other_files_are_named(raw, tmp_path, caplog):
    lists = with_files(tmp_path / "lists", {"readme.md": "lists", "RSNA_Test.TXT": "00000003_000.png\n"})
    with_files(lists / "more", {"val.txt": "00000001_000.png\n"})
    why = list_source("merged_520k", raw, {"tested": lists}).left_out
    assert why[PAPER[1]] == "tested by RSNA_Test.TXT"
    assert "not read, because no list of tested images (*test*.txt): more/val.txt, readme.md." in caplog.text


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("CheXpert-v1.0/train/patient00002/study2/view1_frontal.jpg", True),
        ("/data/CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg 0 1", True),
        ("patient00002/study2/view1_frontal.jpg", True),
        ("test/patient64800/study1/view2_lateral.jpg", False),
        ("CheXpert-v1.0/test/patient64800/study1/view2_lateral.jpg", False),
        ("view2_lateral.jpg", False),
    ],
)
def test_a_path_is_never_cut_down_to_another_patient_s_image(line, found, raw, tmp_path, caplog):
    why = listing(raw, tmp_path / "lists", f"{line}\n").left_out
    assert (PAPER[3] in why) == found, "of the same patient"
    assert ("test.txt: 1 of its names are no image" in caplog.text) != found


def test_a_list_with_the_patient_first_names_its_images(raw, tmp_path):
    why = listing(raw, tmp_path / "lists", "7 00000003_000.png normal rsna\n").left_out
    assert why[PAPER[1]] == "tested by test.txt"


def test_a_table_of_other_names_reaches_what_no_published_mapping_names(raw, lists):
    (lists / "siim_test.txt").write_text("1.2.276.0.7230010.3.1.4\n")
    (lists / "found.csv").write_text("film,other\n00000003_000.png,1.2.276.0.7230010.3.1.4\n")
    manifest = list_source("merged_520k", raw, {"tested": lists})
    assert manifest.left_out[PAPER[1]] == "tested by siim_test.txt"


def test_lists_that_are_not_named_missing_or_none_are_refused(raw, lists, tmp_path):
    def refused(message, folder=lists, error=DataError):
        with pytest.raises(error, match=message):
            list_source("merged_520k", raw, {"tested": folder})

    refused("This recipe needs --tested LISTS: the folder with the lists", Path(""), ConfigError)
    refused("There is no folder .*none. --tested names the folder with the lists", tmp_path / "none")
    (lists / "found.csv").write_text("a,b\n")
    refused("found.csv lacks the columns film, other")
    (lists / "mapping.json").write_text('{"img_id": "x"}')
    refused("mapping.json is not RSNA's mapping: a list of entries with img_id and subset_img_id")
    (tmp_path / "empty").mkdir()
    refused("empty holds no list of tested images: no file is called .test..txt", tmp_path / "empty")
    (raw / "chexpert").rename(raw / "CheXpert")
    refused("has no folder chexpert: it holds the official releases, or links to them, as chestxray14, chexp")


def test_patients_are_divided_as_in_a_store_of_their_release_alone(raw):
    shares = {"validation": 0.3, "test": 0.3, "seed": 3}
    merged = list_source("merged_520k", raw, {})
    merged.table["split"] = ""
    split = dict(zip(merged.table["image"], assign_splits(merged, **shares).table["split"], strict=True))
    for name in RELEASES:
        alone = list_source(name, raw / name, {})
        alone.table["split"] = ""
        parts = assign_splits(alone, **shares).table["split"]
        for image, part in zip(alone.table["image"], parts, strict=True):
            assert split.get(f"{name}/{image}", part) == part
    assert len(set(split.values())) > 1


@pytest.mark.real
@pytest.mark.long
def test_the_complete_tables_give_the_published_number_and_a_smaller_one_without_leaks(
    shared, tmp_path, caplog
):
    """RSNA's mapping could not be had here: ten of its ids are given ChestX-ray14 names at will."""
    raw, lists = tmp_path / "raw", tmp_path / "lists"
    for name in ("chestxray14", "chexpert", "mimic_cxr"):
        (raw / name).mkdir(parents=True)
    published_tables.chestxray14(raw / "chestxray14", shared)
    published_tables.chexpert(raw / "chexpert")
    published_tables.mimic_cxr(raw / "mimic_cxr", tested=600)
    lists.mkdir()
    for path in (shared / "official-splits").glob("*_test*.txt.gz"):
        (lists / path.name).symlink_to(path)
    with gzip.open(lists / "rsna_test.txt.gz", "rt") as file:
        ids = file.read().split()
    trained = (raw / "chestxray14" / "train_val_list.txt").read_text().split()
    chosen = [film for film in trained if film.endswith("_000.png")][:10]  # ten patients
    patients = {film.split("_")[0] for film in chosen}
    mapping = [{"img_id": film, "subset_img_id": name} for film, name in zip(chosen, ids[:10], strict=True)]
    (lists / "mapping.json").write_text(json.dumps(mapping))
    with caplog.at_level(logging.INFO):
        manifest = list_source("merged_520k", raw, {"tested": lists})
    said = [record.getMessage() for record in caplog.records]
    table = [line.split() for line in said]
    of_patients = sum(film.split("_")[0] in patients for film in trained)
    clean = 520_885 - 600 - of_patients
    assert len(manifest.table) == clean
    assert ["together", "712,644", "520,885", f"{clean:,}"] in table
    assert ["chestxray14", "112,120", "86,524", f"{86_524 - of_patients:,}"] in table
    assert "Left out of the one without known leaks: 10, tested by rsna_test.txt.gz." in said
    assert "Left out of both: 25,596, official test list of ChestX-ray14." in said
    unknown = [line.split(" of its names")[0] for line in said if "of its names" in line]
    assert "siim_test.txt.gz: 801" in unknown
    assert "rsna_test.txt.gz: 1766" in unknown
    assert not any(line.startswith("cxr14_test") for line in unknown)

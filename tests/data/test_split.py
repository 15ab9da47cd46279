"""Patients are divided, by their name and the seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dicoms
from evax.data.building import build_store
from evax.data.manifest import Manifest
from evax.data.sources import read_source
from evax.data.split import assign_splits, split_position
from evax.errors import ConfigError

PATIENTS = st.lists(st.text(max_size=8), min_size=1, max_size=60)
SEEDS = st.integers(0, 2**31)
NAMES = ["", "train", "val", "test"]


def films_of(patients, splits=None):
    """A manifest with one image for each entry."""
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(len(patients))], "patient": patients})
    table = table.assign(study="", view="", sex="", age=np.nan, split=splits or "")
    return Manifest(table=table, findings=(), exclusive=False, source="mine", root=Path())


def places(manifest, **options):
    options = {"validation": 0.2, "test": 0.3, "seed": 0} | options
    return dict(enumerate(assign_splits(manifest, **options).table["split"]))


@settings(deadline=None)
@given(PATIENTS, PATIENTS, SEEDS)
def test_no_patient_is_in_two_parts_and_more_images_move_nobody(patients, others, seed):
    few, many = (places(films_of(people), seed=seed) for people in (patients, [*patients, *others]))
    assert few == {film: many[film] for film in few}
    assert (pd.Series(few).groupby(pd.Series(patients)).nunique() == 1).all()
    assert set(few.values()) <= {"train", "val", "test"}


@settings(deadline=None)
@given(st.text(), SEEDS)
def test_a_position_is_a_number_from_0_to_1_that_patient_and_seed_decide(patient, seed):
    assert 0 <= split_position(patient, seed) < 1
    assert split_position(patient, seed) == split_position(patient, seed)
    assert split_position(patient, seed) != split_position(patient + "x", seed)
    assert split_position(patient, seed) != split_position(patient, seed + 1)


def test_positions_are_the_same_on_every_machine_and_in_every_version():
    assert split_position("person1", 0) == 0.4377947868119649
    assert split_position("person1", 1) == 0.747565640601397


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.2), (0.25, 0.25), (0.0, 0.5), (0.3, 0.0)])
def test_the_parts_have_about_the_shares_that_were_asked_for(validation, test):
    split = pd.Series(places(films_of([f"p{i}" for i in range(5000)]), validation=validation, test=test))
    found = [(split == name).mean() for name in ("train", "val", "test")]
    assert found == pytest.approx([1 - validation - test, validation, test], abs=0.02)


def test_another_seed_divides_otherwise():
    people = films_of([f"p{i}" for i in range(100)])
    assert places(people, seed=0) != places(people, seed=1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=2), st.sampled_from(NAMES)), min_size=1, max_size=40), SEEDS)
def test_named_splits_stay_and_a_patient_of_several_goes_to_the_strictest(films, seed):
    patients, names = zip(*films, strict=True)
    split = places(films_of(patients, names), seed=seed)
    assert all(pd.Series(split).groupby(pd.Series(patients)).nunique() == 1)
    for film, patient in enumerate(patients):
        named = {name for other, name in films if other == patient}
        if "test" in named:
            assert split[film] == "test"
        elif "val" in named:
            assert split[film] == "val"
        elif "val" in names:
            assert split[film] != "val", "no others are validated on"
            assert split[film] == "train" or named == {""}
        if split[film] == "test" and "test" in names:
            assert "test" in named, "no others are tested"


def test_a_release_with_a_test_list_keeps_the_share_of_validation_among_the_rest():
    patients = [f"p{i}" for i in range(4000)]
    split = pd.Series(places(films_of(patients, ["test"] * 1000 + [""] * 3000), validation=0.2, test=0.5))
    assert (split[:1000] == "test").all()
    assert (split[1000:] == "val").mean() == pytest.approx(0.2, abs=0.02)
    assert set(split[1000:]) == {"train", "val"}


def test_the_splits_of_a_source_are_kept_patient_by_patient_and_only_the_others_are_divided():
    patients = ["a", "a", "b", "c", *(f"p{i}" for i in range(500))]
    split = pd.Series(places(films_of(patients, ["train", "val", "train", "test"] + [""] * 500)))
    assert list(split[:4]) == ["val", "val", "train", "test"]
    assert set(split[4:]) == {"train"}
    without_test = pd.Series(places(films_of(patients, ["train", "val", "train", ""] + [""] * 500)))
    assert set(without_test[3:]) == {"train", "test"}


def test_the_given_manifest_is_not_changed():
    people = films_of(["a", "b"])
    assign_splits(people, validation=0.5, test=0.5, seed=0)
    assert list(people.table["split"]) == ["", ""]


@pytest.mark.parametrize(("validation", "test"), [(0.6, 0.5), (-0.1, 0.2), (0.1, -0.2)])
def test_shares_that_make_no_sense_are_refused(validation, test):
    with pytest.raises(ConfigError, match=f"shares with a sum up to 1, got {validation} and {test}"):
        assign_splits(films_of(["a"]), validation=validation, test=test, seed=0)


def test_images_whose_named_split_is_overturned_are_counted(caplog):
    places(films_of(["a", "a", "b", "c"], ["train", "test", "train", "val"]))
    assert "1 images were moved so that nobody is in two" in caplog.text
    caplog.clear()
    places(films_of(["a", "b"], ["train", "test"]), validation=1.0, test=0.0)
    assert not caplog.text


@settings(deadline=None)
@given(PATIENTS, SEEDS, st.randoms(use_true_random=False))
def test_pseudonyms_move_nobody_whatever_the_key_that_made_them(patients, seed, key):
    pseudonyms = {patient: f"{key.random()}{patient}" for patient in patients}
    hidden = films_of([pseudonyms[patient] for patient in patients])
    hidden.table["split_key"] = patients
    assert places(hidden, seed=seed) == places(films_of(patients), seed=seed)


def dicom_people(folder, count=24):
    """An image of each person, some of two, in a folder each; an image that names its study only."""
    for number in range(count):
        for film in range(1 + number % 3 // 2):
            person = folder / f"p{number:02}"
            person.mkdir(parents=True, exist_ok=True)
            ids = {"PatientID": f" {number * 37:04} ", "StudyInstanceUID": f"1.9.{number}"}
            ids["SOPInstanceUID"] = f"1.{number}.{film}"
            dicoms.write(person / f"{film}.dcm", dicoms.film(seed=number), **ids)
    ids = {"SOPInstanceUID": "1.7", "StudyInstanceUID": "1.8.9", "PatientID": ""}
    dicoms.write(folder / "p00" / "unnamed.dcm", dicoms.film(), **ids)


def split_by_film(manifest, seed=0):
    """File -> split."""
    table = assign_splits(manifest, validation=0.2, test=0.3, seed=seed).table
    return dict(zip(table["file"] if "file" in table else table["image"], table["split"], strict=True))


@pytest.mark.parametrize("seed", [0, 5])
def test_a_dicom_tree_is_divided_alike_under_every_key_and_as_other_sources_divide_it(tmp_path, seed):
    raw = tmp_path / "raw"
    dicom_people(raw)
    first, second = (read_source("dicom", raw, {"private": tmp_path / name}) for name in ("a", "b"))
    assert not set(first.table["patient"]) & set(second.table["patient"])
    split = split_by_film(first, seed)
    assert split == split_by_film(second, seed)
    assert set(split.values()) == {"train", "val", "test"}
    folders = split_by_film(read_source("folders", raw, {}), seed)
    del folders["p00/unnamed.dcm"]  # folders know no studies: it is a patient of its own there
    assert folders == {name: split[name] for name in folders}
    lines = [f"{name},{int(name[1:3]) * 37:04}" for name in folders]
    (raw / "labels.csv").write_text("\n".join(["image,patient", *lines]))
    assert folders == split_by_film(read_source("csv", raw, {}), seed)


def test_the_key_of_a_split_gets_into_no_file_of_a_store(tmp_path):
    """Nor into a digest on which numbers of patients could be tried out."""
    stores = []
    for name, identifier in (("a", "MRN0000421"), ("b", "MRN0000422")):
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True)
        dicoms.write(raw / "film.dcm", dicoms.film(), PatientID=identifier)
        manifest = assign_splits(read_source("folders", raw, {}), validation=0, test=0, seed=0)
        stores.append(build_store(manifest, tmp_path / name / "store", size=16).path)
    for path in stores[0].iterdir():
        assert path.read_bytes() == (stores[1] / path.name).read_bytes()

"""A folder of images becomes a store, whatever is wrong with some of them and whenever it is interrupted."""

from __future__ import annotations

import copy
import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

import evax
from evax.cli import run
from evax.errors import DataError
from evax.jobs.prepare import log_issues, prepare, source_options
from evax.options.data import PrepareConfig


def draw(path, seed=0, side=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def dicom_film(phantoms):
    return pydicom.dcmread(next(phantoms.glob("images/*.dcm")))


def write_dicom(film, path, *, remove=(), **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    film = copy.deepcopy(film)
    for keyword, value in tags.items():
        setattr(film, keyword, value)
    for keyword in remove:
        delattr(film, keyword)
    film.save_as(path, enforce_file_format=True)


def rejected(store):
    with (store / "rejected.csv").open(newline="") as file:
        (header, *rows) = csv.reader(file)
    assert header == ["image", "reason"]
    return dict(rows)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def config(tmp_path):
    """Twelve images without labels."""
    for number in range(12):
        draw(tmp_path / "raw" / f"p{number}.png", number)
    return PrepareConfig(
        raw=tmp_path / "raw", out=tmp_path / "store", source="folders", size=16, validation=0.3, test=0.3,
        workers=1,
    )  # fmt: skip


def write_bad_films(film, folder):
    """One of each kind of file that cannot be read, and a word of the reason for it."""
    (folder / "empty.png").write_bytes(b"")
    draw(folder / "corrupt.png", side=64)
    content = (folder / "corrupt.png").read_bytes()
    (folder / "corrupt.png").write_bytes(content[:800] + bytes(400) + content[1200:])
    write_dicom(film, folder / "truncated.dcm")
    (folder / "truncated.dcm").write_bytes((folder / "truncated.dcm").read_bytes()[:200_000])
    write_dicom(film, folder / "report.dcm", remove=("PixelData", "Rows", "Columns"))
    write_dicom(film, folder / "cine.dcm", NumberOfFrames=2, PixelData=film.PixelData * 2)
    return {
        "empty.png": "is empty (0 bytes): copy it again from its source.",
        "corrupt.png": "is damaged or of an unsupported kind",
        "truncated.dcm": "is damaged or of an unsupported kind",
        "report.dcm": "has no pixel data, it is a Digital X-Ray Image Storage - For Presentation: leave",
        "cine.dcm": "has 2 frames: an image has one. Export the wanted frame alone.",
    }


@pytest.mark.filterwarnings("ignore:End of file reached")
def test_images_that_cannot_be_read_are_listed_with_their_reasons_and_stop_nothing(
    tmp_path, dicom_film, capsys
):
    folder = tmp_path / "raw"
    draw(folder / "a.png")
    write_dicom(dicom_film, folder / "middle.dcm")
    draw(folder / "z.png")
    reasons = write_bad_films(dicom_film, folder)
    arguments = ["--source", "folders", "--size", "32", "--workers", "1"]
    assert run(["prepare", "--raw", str(folder), "--out", str(tmp_path / "store"), *arguments]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "store")
    store = evax.open_store(tmp_path / "store")
    assert list(store.manifest.table["image"]) == ["a.png", "middle.dcm", "z.png"]
    assert (store.pixels(0) == store.pixels(2)).all()
    assert store.pixels(1).std() > 10
    found = rejected(store.path)
    assert found.keys() == reasons.keys()
    for image, reason in reasons.items():
        assert found[image].startswith(image)
        assert reason in found[image]


@pytest.mark.filterwarnings("ignore:End of file reached")
def test_a_tree_of_dicoms_with_the_same_files_ends_well_too(tmp_path, dicom_film):
    folder = tmp_path / "raw"
    write_dicom(dicom_film, folder / "good.dcm")
    write_bad_films(dicom_film, folder)
    prepare(PrepareConfig(raw=folder, out=tmp_path / "store", source="dicom", size=32, workers=1))
    assert len(evax.open_store(tmp_path / "store")) == 1
    reasons = " ".join(rejected(tmp_path / "store").values())
    for word in ("is empty (0 bytes)", "is damaged", "has no pixel data", "has 2 frames"):
        assert word in reasons


IDENTIFYING = {  # each value can be found by itself; dates are searched for as they are
    "PatientName": "LOVELACE^AUGUSTA", "PatientID": "PATIENT4711", "PatientBirthDate": "18151210",
    "PatientBirthName": "GORDONBYRON", "PatientMotherBirthName": "MILBANKE",
    "PatientAddress": "PORLOCKWEIR 7", "PatientTelephoneNumbers": "5550199",
    "OtherPatientIDs": "OTHERID42", "PatientComments": "COUNTESSCOMMENT",
    "AdditionalPatientHistory": "HISTORYNOTE", "EthnicGroup": "ETHNICNOTE", "Occupation": "MATHEMATICIAN",
    "AccessionNumber": "ACC998877", "StudyID": "STUDY6655", "StudyDate": "18430923",
    "SeriesDate": "18430924", "AcquisitionDate": "18430925", "ContentDate": "18430926",
    "StudyTime": "231559", "StudyDescription": "DESCRIBEDSTUDY", "SeriesDescription": "DESCRIBEDSERIES",
    "ReferringPhysicianName": "BABBAGE^CHARLES", "PerformingPhysicianName": "DEMORGAN^AUGUSTUS",
    "OperatorsName": "SOMERVILLE^FAIRFAX", "InstitutionName": "ANALYTICHOSPITAL",
    "InstitutionAddress": "ENGINEROAD", "StationName": "STATION31", "DeviceSerialNumber": "SERIAL8899",
    "ProtocolName": "PROTOCOLWORDS", "ImageComments": "COMMENTWORDS", "StudyInstanceUID": "1.2.3.4711",
    "SeriesInstanceUID": "1.2.3.4712", "SOPInstanceUID": "1.2.3.4713",
    "FrameOfReferenceUID": "1.2.3.4714",
}  # fmt: skip
BURNED = {"BurnedInAnnotation": "YES", "PatientName": "BURNEDNAME"}


@pytest.mark.filterwarnings("always")
def test_nothing_that_identifies_a_patient_is_in_any_byte_of_store_log_and_report(
    tmp_path, dicom_film, caplog, capfd, recwarn
):
    """Good images and every kind of refused one, at the most talkative level of the log."""
    folder, out = tmp_path / "raw" / "LOVELACE_ADA", tmp_path / "store"
    caplog.set_level(logging.DEBUG)
    write_dicom(dicom_film, folder / "PATIENT4711_1.dcm", **IDENTIFYING)
    write_dicom(dicom_film, folder / "PATIENT4711_2.dcm", **IDENTIFYING, NumberOfFrames=2)
    write_dicom(dicom_film, folder / "PATIENT4711_3.dcm", **IDENTIFYING, remove=("PixelData",))
    write_dicom(dicom_film, folder / "PATIENT4711_4.dcm", **IDENTIFYING, PhotometricInterpretation="NAME")
    write_dicom(dicom_film, folder / "PATIENT4711_5.dcm", **IDENTIFYING, BodyPartExamined="HAND")
    write_dicom(dicom_film, folder / "PATIENT4711_6.dcm", **IDENTIFYING | BURNED)
    content = (folder / "PATIENT4711_1.dcm").read_bytes()
    (folder / "PATIENT4711_7.dcm").write_bytes(content[: len(content) // 2])
    misplaced = content.replace(b"18430923", b"MISPLACE").replace(b"18151210", b"MISPLACE")  # no dates
    (folder / "PATIENT4711_8.dcm").write_bytes(misplaced)
    (folder / "PATIENT4711_9.dcm").write_bytes(b"")
    with caplog.at_level(logging.DEBUG, "pydicom"):
        prepare(PrepareConfig(raw=folder.parent, out=out, source="dicom", size=96, workers=1))
        evax.audit(evax.AuditConfig(stores=(out,), out=tmp_path / "audit"))
    store = evax.open_store(out)
    assert (len(store), len(rejected(out))) == (2, 5)
    assert store.manifest.table["study_day"].tolist() == [0, 2]
    said = caplog.text + "".join(capfd.readouterr()) + "".join(str(warning.message) for warning in recwarn)
    written = files_of(out) | files_of(tmp_path / "audit") | {"what was said": said.encode()}
    secrets = {part for value in IDENTIFYING.values() for part in value.split("^")}
    secrets |= {"MISPLACE", "BURNEDNAME", "LOVELACE_ADA"}
    for name, content in written.items():
        for secret in secrets:
            for spelled in (secret, secret.lower(), secret.title()):
                assert spelled.encode() not in content, f"{secret} in {name}"
    # what leads back lies beside the store, or where the user wants it
    assert b"LOVELACE_ADA/PATIENT4711_1.dcm" in (tmp_path / "store.private" / "crosswalk.csv").read_bytes()


def test_images_with_burned_in_names_are_kept_only_when_asked_for(tmp_path):
    config = PrepareConfig(raw=tmp_path, out=tmp_path / "store", source="dicom")
    assert "keep_burned_in" not in source_options(config)
    assert source_options(replace(config, keep_burned_in=True))["keep_burned_in"] is True


def test_what_looks_wrong_is_counted_and_warned_of(caplog):
    caplog.set_level(logging.INFO, "evax")
    log_issues({"no_window": 12, "looks_inverted": 2}, "csv")
    assert "Unusual: 12 no_window, 2 looks_inverted" in caplog.text
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "2 images have the issue looks_inverted: look at them; nothing was changed."
    ]


def test_images_that_should_not_be_in_a_store_are_warned_of(caplog):
    issues = {"no_window": 1, "lateral": 2, "body_part_HAND": 1, "burned_in_annotation": 3}
    log_issues(issues, "dicom")  # there they were asked for
    assert not caplog.text
    log_issues(issues, "csv")
    assert "2 lateral, 1 body_part_HAND, 3 burned_in_annotation (column issues)" in caplog.text


def test_a_store_is_described_when_it_is_made(config):
    store = prepare(replace(config, statistics=True))
    (described,) = json.loads((store / "statistics" / "statistics.json").read_text())["stores"]
    assert described["films"] == len(evax.open_store(store))
    assert "<svg" in (store / "statistics" / "statistics.html").read_text()


@pytest.fixture
def classes(tmp_path):
    """Two images; each mask file holds 1 on the left, 2 on the right and 255 (ignored) in a corner."""
    labels = np.zeros((20, 16), np.uint8)
    labels[4:12, :8], labels[12:, 8:], labels[:4, :4] = 1, 2, 255
    for folder in ("images", "masks"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
        for number in range(2):
            values = labels if folder == "masks" else labels // 2 + np.uint8(30 * number)
            Image.fromarray(values).save(tmp_path / "raw" / folder / f"p{number}.png")
    return PrepareConfig(raw=tmp_path / "raw", out=tmp_path / "store", source="masks", size=20, workers=1)


def test_the_value_that_is_inside_a_mask_can_be_named(classes, tmp_path, caplog):
    with pytest.raises(DataError, match="None of the 2 images could be read"):
        prepare(classes)
    assert "holds the values 0; 1; 2; 255, and which" in (classes.out / "rejected.csv").read_text()
    left, right = (
        evax.open_store(prepare(replace(classes, out=tmp_path / str(value), mask_value=(value,)))).masks(1)
        for value in (1, 2)
    )
    assert left["Region"][4:12, :10].all()
    assert left["Region"].sum() == 8 * 10
    assert right["Region"][12:, 10:].all()
    assert right["Region"].sum() == 8 * 10
    assert "No mask holds" not in caplog.text
    with pytest.raises(DataError, match=r"already holds something else: mask_value was \(1,\), is \(2,\)"):
        prepare(replace(classes, out=tmp_path / "1", mask_value=(2,)))
    prepare(replace(classes, out=tmp_path / "7", mask_value=(7,)))
    assert "No mask holds the value 7, so all are empty. Check --mask-value, delete" in caplog.text


def test_the_command_line_takes_a_mask_value_as_a_number_or_a_colour(classes, capsys):
    arguments = ["prepare", "--raw", str(classes.raw), "--out", str(classes.out), "--size", "20"]
    assert run([*arguments, "--source", "folders", "--mask-value", "1"]) == 1
    assert "The source 'folders' has no option mask_value" in capsys.readouterr().err
    assert run([*arguments, "--source", "masks", "--workers", "1", "--mask-value", "2", "2", "2"]) == 0
    assert evax.open_store(classes.out).masks(0)["Region"].sum() == 80


def test_an_empty_split_is_warned_of(config, caplog):
    prepare(replace(config, validation=0.0, test=1.0))
    assert "The split train of" in caplog.text
    assert "The split val of" not in caplog.text  # none was asked for


def test_key_and_crosswalk_lie_where_the_user_wants_them(tmp_path, dicom_film):
    write_dicom(dicom_film, tmp_path / "raw" / "1.dcm")
    out, private = tmp_path / "store", tmp_path / "safe"
    prepare(PrepareConfig(raw=tmp_path / "raw", out=out, source="dicom", size=32, workers=1, private=private))
    assert sorted(path.name for path in private.iterdir()) == ["crosswalk.csv", "pseudonyms.key"]
    assert not (tmp_path / "store.private").exists()


@pytest.fixture
def long_work(tmp_path):
    """600 small images, one empty, and large ones at the end: time for a kill after the first shard."""
    folder = tmp_path / "raw"
    for number in range(600):
        draw(folder / f"{number:04}.png", number)
    (folder / "0007.png").write_bytes(b"")
    Image.new("L", (4000, 4000), 90).save(folder / "z0.png")
    for number in range(1, 6):
        (folder / f"z{number}.png").hardlink_to(folder / "z0.png")
    return folder


def children_of(process):
    threads = Path(f"/proc/{process}/task").glob("*/children")
    return [int(pid) for thread in threads for pid in thread.read_text().split()]


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes through /proc")
def test_a_killed_prepare_leaves_no_processes_and_goes_on_to_the_same_store(long_work, tmp_path):
    def command(out):
        return [
            sys.executable, "-c", "import evax.cli; evax.cli.main()", "prepare", "--raw", str(long_work),
            "--out", str(out), "--source", "folders", "--size", "16", "--workers", "2",
        ]  # fmt: skip

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    killed = tmp_path / "killed"
    process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (killed / "shard-00000.arrow").is_file():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    children = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(children) >= 2
    assert not (killed / "store.json").exists()
    with pytest.raises(DataError, match="is unfinished: run the same evax prepare again, it goes on"):
        evax.open_store(killed)
    first = (killed / "shard-00000.arrow").stat().st_mtime_ns
    subprocess.run(command(killed), check=True, capture_output=True)
    assert (killed / "shard-00000.arrow").stat().st_mtime_ns == first
    assert files_of(killed) == files_of(tmp_path / "whole")
    while any(alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_same_seed_gives_the_same_store_and_another_seed_another_split(config, tmp_path):
    one = evax.open_store(prepare(config))
    same = evax.open_store(prepare(replace(config, out=tmp_path / "same")))
    other = evax.open_store(prepare(replace(config, out=tmp_path / "other", seed=1)))
    assert same.fingerprint == one.fingerprint != other.fingerprint
    assert list(other.manifest.table["split"]) != list(one.manifest.table["split"])
    before = files_of(config.out)
    assert prepare(config) == config.out  # run twice, it keeps what is there
    assert files_of(config.out) == before


def test_options_decide_size_split_and_patients(config):
    changed = replace(config, size=20, validation=0.0, test=1.0, patient_pattern="(p1?)")
    store = evax.open_store(prepare(changed))
    assert store.size == 20
    assert set(store.manifest.table["patient"]) == {"p", "p1"}
    assert set(store.manifest.table["split"]) == {"test"}
    assert store.card["split"] == "by patient, seed 0, validation 0, test 1 or the release's"


def test_the_columns_named_for_a_csv_are_used(config, tmp_path):
    lines = [f"p{number}.png,{number % 2},{'ab'[number % 2]},x" for number in range(12)]
    (config.raw / "my.csv").write_text("\n".join(["image,Scar,kind,remark", *lines]))
    config = replace(config, source="csv", table="my.csv")
    assert evax.open_store(prepare(config)).manifest.findings == ("Scar",)
    by_class = replace(config, label_column="kind", out=tmp_path / "b")
    assert evax.open_store(prepare(by_class)).manifest.findings == ("a", "b")
    with pytest.raises(DataError, match="column 'remark', line 2 holds 'x', not a number"):
        prepare(replace(config, findings=("remark",), out=tmp_path / "c"))


def test_a_mistake_is_one_line_on_the_terminal_and_exit_status_1(config, tmp_path, capsys):
    def said(*arguments):
        assert run(["prepare", "--out", str(config.out), *arguments]) == 1
        return capsys.readouterr().err.splitlines()

    raw = str(config.raw)
    assert said("--raw", str(tmp_path / "none")) == [
        f"evax prepare: There is no folder {tmp_path}/none. --raw names the folder that holds the images."
    ]
    assert said("--raw", raw) == [f"evax prepare: There is no table {raw}/labels.csv. Name it with --table."]
    assert said("--raw", raw, "--source", "folders", "--table", "a.csv") == [
        "evax prepare: The source 'folders' has no option table (its options: patient_pattern)."
    ]
    assert not config.out.exists()


def test_an_out_that_holds_other_images_is_left_alone(config):
    prepare(config)
    before = files_of(config.out)

    def refused(message, **changes):
        with pytest.raises(DataError, match=message):
            prepare(replace(config, **changes))

    refused("else: size was 16, is 20; seed was 0, is 5. Choose another --out or", seed=5, size=20)
    refused(r"else: patient_pattern was not given, is \(p\\d\). Choose", patient_pattern=r"(p\d)")
    draw(config.raw / "p12.png")
    refused("else: number of images was 12, is 13. Choose another --out or delete")
    (config.raw / "p12.png").rename(config.raw / "p0.png")
    (config.raw / "p1.png").rename(config.raw / "p99.png")
    refused("the images, the tables or their splits are others. Choose")
    assert files_of(config.out) == before


def test_an_out_made_with_another_key_says_so(tmp_path, dicom_film):
    write_dicom(dicom_film, tmp_path / "raw" / "1.dcm")
    config = PrepareConfig(raw=tmp_path / "raw", out=tmp_path / "store", source="dicom", size=32, workers=1)
    prepare(config)
    prepare(config)
    with pytest.raises(DataError, match=r"else: the key of the pseudonyms was [0-9a-f]{8}, is [0-9a-f]{8}\."):
        prepare(replace(config, private=tmp_path / "other"))

"""evax audit from the command line, and what pretrain makes of its result."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

import evax
from evax.cli import run
from evax.data.building import build_store
from evax.data.sources import read_source
from evax.data.split import assign_splits
from evax.errors import DataError
from evax.jobs.audit import audit
from evax.jobs.prepare import prepare
from evax.options.data import AuditConfig, PrepareConfig


@pytest.fixture(scope="module")
def leaky(phantoms, tmp_path_factory):
    """The same phantoms under other patient names and another seed: the two stores leak into each other."""
    raw = tmp_path_factory.mktemp("leaky")
    shutil.copytree(phantoms / "images", raw / "images")
    rows = list(csv.DictReader((phantoms / "labels.csv").open()))
    with (raw / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "patient"])
        table.writerows([row["image"], f"other-{row['patient']}"] for row in rows)
    return prepare(PrepareConfig(raw=raw, out=raw / "store", seed=3, size=112, workers=1))


@pytest.fixture(scope="module")
def audited(phantom_store, leaky, tmp_path_factory):
    out = tmp_path_factory.mktemp("audit") / "run"
    assert run(["audit", str(phantom_store), str(leaky), "--out", str(out)]) == 0
    return out


def test_the_audit_finds_every_image_at_the_other_size_and_says_what_leaks(audited, phantom_store, leaky):
    content = json.loads((audited / "audit.json").read_text())
    tables = [evax.open_store(path).manifest.table for path in (phantom_store, leaky)]
    tables = [table.set_index("image") for table in tables]
    pairs = list(csv.DictReader((audited / "duplicates.csv").open()))
    assert len(pairs) == len(tables[0]) == 48
    for pair in pairs:
        rows = tables[0].iloc[int(pair["row"])], tables[1].iloc[int(pair["other_row"])]
        assert rows[0].name == rows[1].name
        tested_and_trained = (rows[0]["split"] == "test") != (rows[1]["split"] == "test")
        assert pair["tested_and_trained"] == str(int(tested_and_trained))
    leaks = {(leak["tested"], leak["trained"]): leak for leak in content["leaks"]}
    first, second = tables[0]["split"], tables[1]["split"].loc[tables[0].index]
    assert leaks[0, 1]["films_by_exposure"] == ((first == "test") & (second != "test")).sum() > 0
    assert leaks[1, 0]["films_by_exposure"] == ((second == "test") & (first != "test")).sum() > 0
    assert not content["passed"]


def test_the_page_stands_alone_and_no_file_names_an_image_or_a_patient(audited):
    page = (audited / "audit.html").read_text()
    assert "Leak." in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("data:image/jpeg") == 48  # 24 pairs
    for name in ("audit.html", "audit.json", "duplicates.csv"):
        text = (audited / name).read_text()
        assert "PH000" not in text
        assert ".png" not in text


def test_pretrain_refuses_a_store_that_leaks(audited, phantom_store, tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "run"), "--audit", str(audited / "audit.json")]
    assert run(["pretrain", str(phantom_store), *arguments]) == 1
    assert "failed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_pretrain_warns_of_two_stores_of_one_table_that_divide_its_patients_otherwise(
    phantoms, phantom_store, tmp_path, caplog
):
    """At another size, so that no pixels are the same, and so that nothing is learned here."""
    manifest = assign_splits(read_source("csv", phantoms, {}), validation=0.25, test=0.25, seed=3)
    other = build_store(manifest, tmp_path / "other", size=32).path
    assert run(["pretrain", str(phantom_store), str(other), "--out", str(tmp_path / "run")]) == 1
    assert "so the encoder cannot be tested on that split" in caplog.text


def test_a_store_alone_passes_and_a_leak_may_fail_the_command(phantom_store, leaky, tmp_path, capsys):
    alone = [
        "audit",
        str(phantom_store),
        "--out",
        str(tmp_path / "alone"),
        "--fail-on-leaks",
        "--pictures",
        "0",
    ]
    assert run(alone) == 0
    content = json.loads((tmp_path / "alone" / "audit.json").read_text())
    assert content["passed"]
    assert content["patients_checked"]
    both = ["audit", str(phantom_store), str(leaky), "--out", str(tmp_path / "both"), "--fail-on-leaks"]
    assert run([*both, "--no-same-patients"]) == 1
    assert "2 leaks" in capsys.readouterr().err


def test_a_store_of_unknown_patients_does_not_pass_without_a_word(phantoms, tmp_path, caplog):
    for number, path in enumerate(sorted((phantoms / "images").glob("*.png"))[:6]):
        (tmp_path / "raw").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "raw" / f"{number}.png")
    options = {"raw": tmp_path / "raw", "out": tmp_path / "store", "source": "folders", "size": 112}
    store = prepare(PrepareConfig(**options, workers=1))
    content = json.loads(audit(AuditConfig(stores=(store,), out=tmp_path / "run")).read_text())
    assert content["patients_checked"] is False
    assert content["stores"][0]["films_of_unknown_patients"] == 6
    assert content["stores"][0]["patients"] == 0
    page = (tmp_path / "run" / "audit.html").read_text()
    assert "Unknown patients." in page
    assert "no patient of one" not in page
    assert '<span class="tag">no, by pictures</span>' in page
    assert "the patients of 6 of 6 images are unknown" in caplog.text


def test_a_store_of_images_too_small_to_be_told_apart_is_refused_before_anything_else(
    phantoms, phantom_store, tmp_path, capsys
):
    small = prepare(PrepareConfig(raw=phantoms, out=tmp_path / "small", size=64, workers=1))
    with pytest.raises(DataError, match="prepare it with --size"):
        audit(AuditConfig(stores=(phantom_store, small), out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert "comparing" not in capsys.readouterr().err


def test_a_leak_through_a_third_store_can_be_located(phantoms, tmp_path, caplog):
    pictures = sorted((phantoms / "images").glob("*.png"))[:3]
    stores = []
    for name, split in (("tested", "test"), ("between", "test"), ("trained", "train")):
        (raw := tmp_path / name).mkdir()
        for path in pictures:
            shutil.copy(path, raw / path.name)
        lines = [f"{path.name},{name}-{path.stem},{split}" for path in pictures]
        (raw / "labels.csv").write_text("\n".join(["image,patient,split", *lines]))
        store = prepare(PrepareConfig(raw=raw, out=raw / "store", size=112, workers=1))
        stores.append(store)
    order = (stores[1], stores[0], stores[2])  # identical images are pairs with the first store's only
    content = json.loads(audit(AuditConfig(stores=order, out=tmp_path / "run")).read_text())
    direct, leak = content["leaks"]
    assert direct["linked"] == {"films": 0, "via": []}
    between, tested, trained = [store["name"] for store in content["stores"]]
    assert (leak["tested"], leak["trained"]) == (1, 2)
    count = leak["films_by_exposure"]
    assert leak["linked"] == {"films": count, "via": [0]}
    rows = list(csv.DictReader((tmp_path / "run" / "duplicates.csv").open()))
    linked = [row for row in rows if row["kind"] == "linked"]
    assert len(linked) == count > 0
    for row in linked:
        assert (row["store"], row["split"]) == (tested, "test")
        assert (row["other_store"], row["other_split"]) == (trained, "train")
        assert row["via"] == f"{between} {row['row']}"
    assert f"{count} of them only via images of {between}" in caplog.text
    assert f"{count} only via {between}" in (tmp_path / "run" / "audit.html").read_text()

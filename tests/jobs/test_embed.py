import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import evax
from bundles import random_bundle
from evax.adaptation.feature_table import FeatureParts
from evax.errors import ConfigError, DataError
from evax.jobs import embed as job
from evax.jobs.embed import embed
from evax.options.results import EmbedConfig

WRITE = FeatureParts.write


def record_parts(patch, most=None):
    """The images of each part that is written from now on; Ctrl-C instead of one more than `most` parts."""
    made = []

    def record(parts, path, rows, *rest):
        if len(made) == most:
            raise KeyboardInterrupt
        made.append(rows)
        WRITE(parts, path, rows, *rest)

    patch.setattr(FeatureParts, "write", record)
    return made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def films(phantoms, tmp_path):
    """Five images and one that is damaged."""
    names = sorted(path for path in phantoms.rglob("*.png") if "mask" not in str(path))[:5]
    folder = tmp_path / "films"
    folder.mkdir()
    for number, path in enumerate(names):
        shutil.copy(path, folder / f"{number}.png")
    (folder / "2-damaged.png").write_bytes((folder / "2.png").read_bytes()[:150])
    return folder


@pytest.fixture
def config(films, bundle, tmp_path):
    return EmbedConfig(
        films=(films,), out=tmp_path / "x.parquet", bundle=bundle, batch_size=2, precision="fp32"
    )


def rows_of(config):
    return {Path(row["film"]).name: row for row in pq.read_table(embed(config)).to_pylist()}


def test_the_table_holds_the_feature_vector_of_the_predictor_for_every_image(config, films):
    rows, predictor = rows_of(config), evax.open_bundle(config.bundle)
    assert list(rows) == ["0.png", "1.png", "2-damaged.png", "2.png", "3.png", "4.png"]
    for name in ("0.png", "2.png", "4.png"):
        assert rows[name]["feature"] == pytest.approx(predictor(films / name).tolist(), abs=1e-5)
    assert rows["2-damaged.png"]["feature"] is None
    assert "damaged" in rows["2-damaged.png"]["error"]
    assert not Path(f"{config.out}.parts").exists()


def test_class_token_and_patches_are_those_of_the_encoder(config, films, tmp_path):
    predictor = evax.open_bundle(config.bundle)
    image = predictor.network_input(evax.read_image(films / "1.png"))[None]
    with torch.no_grad():
        patches, _, cls = predictor.network.encode(torch.from_numpy(image))
    for tokens, expected in (("cls", cls[0]), ("patches", patches[0].flatten())):
        rows = rows_of(replace(config, tokens=tokens, out=tmp_path / tokens))
        assert rows["1.png"]["feature"] == pytest.approx(expected.tolist(), abs=1e-4)
    layout = json.loads(pq.read_schema(tmp_path / "patches").metadata[b"evax"])
    assert layout["grid"] == [4, 4]
    assert layout["length"] == 16 * layout["width"] == 16 * 192
    assert layout["chain"] == predictor.card.preprocess.to_json()


def test_a_store_gives_the_features_of_its_images_under_their_names(config, phantom_store):
    rows = pq.read_table(embed(replace(config, films=(phantom_store,)))).to_pylist()
    store, predictor = evax.open_store(phantom_store), evax.open_bundle(config.bundle)
    assert [row["film"] for row in rows] == store.manifest.table["image"].tolist()
    image = predictor.card.preprocess.to_input(store.pixels(7))[None, None]
    with torch.no_grad():
        expected = predictor.network.encode(torch.from_numpy(image)).patches.mean(dim=1)[0]
    assert rows[7]["feature"] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_cnn_with_published_weights_embeds_images_as_they_come(config):
    cnn = replace(config, bundle=None, encoder="efficientnet_lite0", weights=Path("imagenet"), image_size=64)
    assert len(rows_of(cnn)["0.png"]["feature"]) == 1280
    with pytest.raises(ConfigError, match="has no class token"):
        embed(replace(cnn, tokens="cls", out=cnn.out.with_name("cls.parquet")))


def test_an_interrupted_table_goes_on_after_its_last_part(config, monkeypatch):
    monkeypatch.setattr(job, "PART_FILMS", 2)
    whole = rows_of(config)
    written = (config.films[0] / "0.png").stat().st_mtime_ns
    parts = Path(f"{config.out}.parts")
    record_parts(monkeypatch, 2)
    config.out.unlink()
    with pytest.raises(KeyboardInterrupt):
        embed(config)
    assert {path.name for path in parts.glob("part-*")} == {f"part-000000{n}.parquet" for n in (0, 1)}
    with pytest.raises(DataError, match="was begun with other images, weights or options: delete it"):
        embed(replace(config, tokens="cls"))
    os.utime(config.films[0] / "0.png", ns=(1, 1))  # written again since
    with pytest.raises(DataError, match="was begun with other images"):
        embed(config)
    os.utime(config.films[0] / "0.png", ns=(written, written))
    made = record_parts(monkeypatch)
    assert rows_of(config) == whole
    assert len(made) == 1
    assert not parts.exists()


@pytest.mark.parametrize(("began", "other"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_a_table_that_goes_on_keeps_the_precision_it_began_with(config, monkeypatch, began, other):
    monkeypatch.setattr(job, "PART_FILMS", 2)
    whole = rows_of(replace(config, precision=began, out=config.out.with_name("whole.parquet")))
    with monkeypatch.context() as patch:
        record_parts(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            embed(replace(config, precision=began))
    with pytest.raises(DataError, match=r"other images, weights or options: .* Different: precision\."):
        embed(replace(config, precision=other))
    # on a machine that would now decide otherwise
    monkeypatch.setattr("evax.runs.device.bf16_is_faster", lambda: other == "bf16")
    assert rows_of(replace(config, precision="auto")) == whole


def test_a_table_goes_on_with_the_same_weights_wherever_they_lie(config, bundle, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        record_parts(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            embed(config)
    moved = replace(config, bundle=random_bundle(tmp_path / "moved", seed=1))
    with pytest.raises(DataError, match=r"Different: weights\."):
        embed(moved)
    shutil.copytree(bundle, moved.bundle, dirs_exist_ok=True)
    assert len(rows_of(moved)) == 6


def test_a_part_of_long_features_holds_few_images(config, monkeypatch):
    made = record_parts(monkeypatch)
    monkeypatch.setattr(job, "PART_NUMBERS", 3 * 16 * 192)
    embed(replace(config, tokens="patches"))
    assert [len(rows) for rows in made] == [3, 3]
    made.clear()
    embed(replace(config, out=config.out.with_name("mean.parquet")))
    assert [len(rows) for rows in made] == [6]


@pytest.mark.long
def test_a_killed_table_goes_on_to_the_same_rows(config, phantom_store, tmp_path):
    config = replace(config, films=(phantom_store,))
    whole = pq.read_table(embed(config))
    out = tmp_path / "killed.parquet"
    words = ["embed", str(phantom_store), "--bundle", str(config.bundle), "--out", str(out)]
    words += ["--batch-size", "2", "--precision", "fp32"]
    few = f"from evax.jobs import embed; embed.PART_FILMS = 4; from evax.cli import run; run({words!r})"
    process = subprocess.Popen([sys.executable, "-c", few], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not Path(f"{out}.parts", "part-0000001.parquet").is_file():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not out.exists()
    assert subprocess.run([sys.executable, "-c", few], check=False, capture_output=True).returncode == 0
    assert pq.read_table(out).equals(whole)
    assert list(tmp_path.glob("*killed*")) == [out]


def test_images_of_which_none_can_be_read_are_an_error_that_says_why(config, films):
    with pytest.raises(DataError, match="None of the images could be read; the first reason: .*damaged"):
        embed(replace(config, films=(films / "2-damaged.png",)))
    assert not config.out.exists()
    shutil.copy(films / "0.png", films / "2-damaged.png")  # mended: the same command reads it now
    assert rows_of(replace(config, films=(films / "2-damaged.png",)))["2-damaged.png"]["error"] == ""


def test_a_store_among_images_is_refused(config, phantom_store, films):
    with pytest.raises(ConfigError, match="Give one store, or images and folders"):
        embed(replace(config, films=(phantom_store, films)))


def test_a_table_that_is_there_is_not_written_over(config):
    config.out.write_text("older")
    with pytest.raises(DataError, match=r"exists. Choose another --out"):
        embed(config)
    assert config.out.read_text() == "older"

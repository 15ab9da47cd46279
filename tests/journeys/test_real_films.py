"""The journey on real films (EVAX_SHARED): the short parts in every run, the learning in the long one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import evax
from evax.config import read_recipe
from evax.data.augment import CropConfig
from evax.jobs.prepare import prepare
from evax.jobs.pretrain import PretrainConfig, pretrain
from evax.options.results import DemoConfig

RECIPE = Path(__file__).parents[1] / "recipes" / "real_films.yaml"
pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def stores(shared, tmp_path_factory):
    """The four stores of the recipe, small: 160-pixel films."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAX_SHARED", str(shared.parent))
        entries = read_recipe(RECIPE, DemoConfig)["prepare"]
    made = {name: prepare(replace(entry, out=folder / name, size=160)) for name, entry in entries.items()}
    return made


def test_real_films_are_all_readable_and_no_patient_is_in_two_splits(stores):
    counts = {name: len(evax.open_store(path)) for name, path in stores.items()}
    assert counts == {"kermany": 5216, "kermany-lungs": 875, "chestxray14": 758, "hannover": 243}
    for path in stores.values():
        table = evax.open_store(path).manifest.table
        assert table.groupby("patient")["split"].nunique().max() == 1


def test_a_test_patient_of_one_kermany_store_is_trained_on_in_neither(stores):
    tables = [evax.open_store(stores[name]).manifest.table for name in ("kermany", "kermany-lungs")]
    tested = [set(table.loc[table["split"] == "test", "patient"]) for table in tables]
    trained = [set(table.loc[table["split"] != "test", "patient"]) for table in tables]
    assert tested[1]
    assert not (tested[0] | tested[1]) & (trained[0] | trained[1])


def test_films_of_the_store_are_bright_where_the_body_is_dense(stores):
    store = evax.open_store(stores["chestxray14"])
    mean = np.mean([store.pixels(row) for row in range(0, len(store), 5)], axis=0)
    spine, lung = mean[60:100, 75:85].mean(), mean[60:100, 35:50].mean()
    assert spine > lung + 20


@pytest.mark.long
def test_label_free_pre_training_on_real_films_improves_frozen_features(stores, tmp_path):
    pretrain(
        PretrainConfig(
            stores=tuple(stores.values()),
            out=tmp_path / "run",
            image_size=128,
            batch_size=64,
            epochs=4,
            probe_store=stores["kermany"],
            probe_every=4,
            crop=CropConfig(area=(0.3, 1.0)),
        )
    )
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["knn_auc_last"] > report["knn_auc_first"] + 0.05
    assert report["final_cosine"] > 0.5

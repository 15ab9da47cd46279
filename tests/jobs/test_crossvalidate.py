"""A cross-validation is one fine-tuning per fold; every image is tested once, by who did not learn from it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from evax.config import parse_command_line
from evax.data.preprocess import Preprocess
from evax.data.store import open_store
from evax.deploy.bundle import Card, save_bundle, save_seen, seen_in
from evax.errors import ConfigError, DataError
from evax.jobs.crossvalidate import crossvalidate
from evax.jobs.finetune import FinetuneConfig, finetune
from evax.jobs.predict import predict
from evax.models.encoders import build_encoder
from evax.options.results import PredictConfig
from evax.options.studies import CrossvalidateConfig
from studies import SMALL, check_study_page, content_of, copy_of, write_times


def config_of(store, out, **changes):
    return CrossvalidateConfig(store=store, out=out, **(SMALL | {"folds": 3, "steps": 1} | changes))


@pytest.fixture(scope="module")
def study(phantom_store, tmp_path_factory):
    config = config_of(phantom_store, tmp_path_factory.mktemp("study") / "run")
    crossvalidate(config)
    return config


@pytest.fixture
def copied(study, tmp_path):
    return copy_of(study, tmp_path)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    card = Card(
        kind="encoder", encoder="eva_x_tiny_patch16_224", preprocess=Preprocess(store_size=96, input_size=64)
    )
    folder = tmp_path_factory.mktemp("encoder") / "bundle"
    return save_bundle(folder, card, build_encoder(card.encoder, img_size=64))


def result_of(config):
    return content_of(config.out / "crossvalidate.json")


def predictions_of(config):
    files = sorted(config.out.glob("runs/*/predictions-test.csv"))
    return [pd.read_csv(file, dtype={"patient": str}) for file in files]


def test_every_image_of_the_store_is_tested_once_whatever_its_split_says(study):
    films = open_store(study.store).manifest.table
    assert sorted(pd.concat(predictions_of(study))["image"]) == sorted(films["image"])
    for number, table in enumerate(predictions_of(study)):
        split = pd.read_csv(study.out / "folds" / f"fold-{number}.csv").merge(films, on="image")
        people = split.groupby("split_x")["patient"].agg(set)
        assert set(table["patient"]) == people["test"]
        assert not people["test"] & (people["train"] | people["val"])
        assert not people["train"] & people["val"]


def test_mean_sd_and_interval_are_over_folds_and_each_fold_keeps_its_interval_over_patients(study):
    result = result_of(study)
    values = np.array([fold["mauc"] for fold in result["folds"]])
    half = t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert result["mauc"]["mean"] == pytest.approx(values.mean())
    assert result["mauc"]["sd"] == pytest.approx(values.std(ddof=1))
    inside = [max(values.mean() - half, 0), min(values.mean() + half, 1)]  # where scores can lie
    assert result["mauc"]["interval"] == pytest.approx(inside)
    assert result["mauc"]["interval_method"].startswith("t-interval over 3 folds")
    assert all(fold["mauc_patient_interval"] != result["mauc"]["interval"] for fold in result["folds"])
    for name, spread in result["findings"].items():
        scores = [fold[f"auroc:{name}"] for fold in result["folds"] if fold[f"auroc:{name}"] is not None]
        assert spread["entered"] == len(scores)
        assert spread["mean"] == pytest.approx(np.mean(scores))
    assert "no mean of the folds" in result["protocol"]["pooled"]


def test_pooled_numbers_are_those_of_all_tested_images_together(study):
    table = pd.concat(predictions_of(study))
    pooled = result_of(study)["pooled"]
    assert pooled["n"] == len(table)
    for row in pooled["findings"]:
        name = row["name"]
        assert row["auroc"] == pytest.approx(
            roc_auc_score(table[f"label:{name}"], table[f"probability:{name}"]), abs=1e-6
        )
        assert row["threshold"] is None
    assert "patient-clustered" in pooled["interval_method"]


def test_table_figure_and_page_show_every_fold_and_finding(study):
    result = result_of(study)
    rows = pd.read_csv(study.out / "crossvalidate.csv")
    assert rows["mauc"].tolist() == pytest.approx([fold["mauc"] for fold in result["folds"]])
    drawn = (study.out / "crossvalidate.svg").read_text()
    assert all(name in drawn for name in [*open_store(study.store).manifest.findings, "mean of findings"])
    assert (study.out / "crossvalidate.png").read_bytes().startswith(b"\x89PNG")
    means = [spread["mean"] for spread in (result["mauc"], result["macc"], *result["findings"].values())]
    page = check_study_page(study, "crossvalidate", means, runs=3)
    assert "t-interval over folds" in page
    assert f"together: mAUC {result['pooled']['mauc']['value']:.3f}" in page
    assert "Size of the splits" in page  # a check that does not pass on so few images


def test_a_fold_is_the_fine_tuning_of_its_config_file(study, tmp_path):
    recipe = ["--recipe", str(study.out / "runs/fold-1/config.yaml"), "--out", str(tmp_path / "alone")]
    alone = parse_command_line(FinetuneConfig, recipe, "evax finetune")
    finetune(alone)
    report = content_of(alone.out / "report.json")
    assert report["test_metrics"]["mauc"]["value"] == result_of(study)["folds"][1]["mauc"]
    assert report["protocol"]["split"] == "table fold-1.csv"


def test_finished_folds_are_not_repeated_and_other_folds_are_refused(study, copied):
    (copied.out / "crossvalidate.json").unlink()
    (copied.out / "runs" / "fold-2" / "report.json").unlink()  # begun, but not finished
    before = write_times(copied)
    crossvalidate(copied)
    assert len(before) == 2
    assert before.items() <= write_times(copied).items()
    assert result_of(copied)["folds"] == result_of(study)["folds"]
    with pytest.raises(ConfigError, match="--steps was 1, is 2; --folds was 3, is 4. Choose another --out"):
        crossvalidate(replace(copied, folds=4, steps=2))
    with (copied.out / "folds" / "fold-0.csv").open("a") as table:
        table.write("another.png,test\n")
    with pytest.raises(ConfigError, match="fold-0.csv holds another fold. Choose another --out"):
        crossvalidate(copied)
    with pytest.raises(ConfigError, match="continue with --resume"):
        crossvalidate(replace(copied, resume=False))


def test_an_encoder_that_saw_images_of_the_store_is_refused_or_its_patients_only_train(
    study, encoder, tmp_path
):
    store = open_store(study.store)
    seen = store.rows("train")[:6]
    save_seen(encoder, seen_in(store, seen))
    config = replace(study, weights=encoder, out=tmp_path / "run", folds=2)
    patients = store.manifest.table["patient"]
    theirs = set(patients.iloc[seen])
    count = int(patients.isin(theirs).sum())
    with pytest.raises(DataError, match=rf"pre-trained on {count} of the 48 images .* Give --seen train: "):
        crossvalidate(config)
    assert not config.out.exists()
    crossvalidate(replace(config, seen="train"))
    assert set(pd.concat(predictions_of(config))["patient"]) == set(patients) - theirs
    for number in range(2):
        split = pd.read_csv(config.out / "folds" / f"fold-{number}.csv")
        trained = split.loc[split["split"] == "train", "image"]
        assert set(store.manifest.table["image"].iloc[seen]) <= set(trained)
    assert result_of(config)["protocol"]["films_that_only_train"] == count


def test_a_hospital_is_left_out_with_a_table_of_sites(study, tmp_path):
    patients = sorted(set(open_store(study.store).manifest.table["patient"]))
    names = ["north", "south/west"]
    sites = {patient: names[number % 2] for number, patient in enumerate(patients)}
    pd.DataFrame(sites.items(), columns=["patient", "site"]).to_csv(tmp_path / "sites.csv", index=False)
    config = replace(study, out=tmp_path / "run", by="site", table=tmp_path / "sites.csv")
    crossvalidate(config)
    folds = result_of(config)["folds"]
    assert [fold["fold"] for fold in folds] == names
    assert [fold["folder"] for fold in folds] == ["runs/fold-0-north", "runs/fold-1-south-west"]
    for table, site in zip(predictions_of(config), names, strict=True):
        assert set(table["patient"].map(sites)) == {site}


def test_the_paper_s_folds_split_images_and_every_report_figure_and_prediction_says_so(
    study, tmp_path, caplog
):
    config = replace(study, out=tmp_path / "run", by="film", folds=2, bundles=True)
    crossvalidate(config)
    protocol = result_of(config)["protocol"]
    assert (protocol["name"], "images were split, not patients" in protocol["leak"]) == (
        "split by film",
        True,
    )
    assert "images were split, not patients" in (config.out / "crossvalidate.svg").read_text()
    assert "Protocol split by film, not clean." in (config.out / "report.html").read_text()
    report = content_of(config.out / "runs" / "fold-0" / "report.json")
    assert report["protocol"]["name"] == "split by film"
    assert report["protocol"]["patients_in_several_parts"] > 0
    Image.new("L", (64, 64), 90).save(tmp_path / "film.png")
    bundle, films = config.out / "runs" / "fold-0" / "bundle", (tmp_path / "film.png",)
    predict(PredictConfig(bundle=bundle, films=films, out=tmp_path / "scores.csv"))
    assert "optimistic test results: images were split, not patients" in caplog.text
    clean = content_of(study.out / "runs" / "fold-0" / "report.json")["protocol"]
    assert (clean["name"], clean["patients_in_several_parts"]) == ("clean", 0)

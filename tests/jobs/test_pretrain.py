import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import evax
from evax.cli import run
from evax.data.augment import CropConfig
from evax.data.preprocess import Preprocess
from evax.data.unlabelled import common_preprocess, images_outside_tests
from evax.errors import ConfigError, DataError, WeightsError
from evax.jobs.pretrain import pretrain
from evax.options.training import OptimizerConfig
from evax.pretraining.run import preprocess_of
from evax.weights.encoders import EncoderWeights
from evax.weights.released import RELEASED
from official_files import write_mim
from pretraining_runs import command_of, events, losses, started_until_step_7, tiny_run


@pytest.fixture
def tiny(phantom_store, tmp_path):
    return tiny_run(phantom_store, tmp_path / "run")


def test_the_loss_falls_and_the_encoder_bundle_can_be_used(tiny, phantom_store):
    config = replace(
        tiny, epochs=10, probe_store=phantom_store, probe_every=5, optimizer=OptimizerConfig(lr=1e-3)
    )
    bundle = pretrain(config)
    history = [line["loss"] for line in events(config.out, "step")]
    assert np.mean(history[-5:]) < np.mean(history[:5]) - 0.1
    assert evax.open_bundle(bundle).card.kind == "encoder"
    probes = events(config.out, "probe")
    assert [probe["images"] for probe in probes] == [0, probes[1]["images"], len(history) * 8]
    assert all(1 <= probe["rankme"] <= 192 and probe["knn_findings"] >= 1 for probe in probes)
    assert all(0 <= probe["linear_auc"] <= 1 for probe in probes)
    last = events(config.out, "step")[-1]
    assert 0 < last["matmul_share"] < 1
    assert last["left_s"] == 0
    assert 0 < last["spread"] < 2
    report = json.loads((config.out / "report.json").read_text())
    assert report["knn_auc_last"] == probes[-1]["knn_auc"]
    assert report["images"] == len(history) * 8


def test_a_run_repeats_itself_and_every_option_reaches_it(tiny, tmp_path):
    first = losses(tiny)
    assert losses(replace(tiny, out=tmp_path / "again")) == first
    changes = [
        {"seed": 1}, {"mask_ratio": 0.5}, {"batch_size": 4}, {"image_size": 32}, {"epochs": 2.5},
        {"crop": CropConfig(area=(0.9, 1.0))}, {"crop": CropConfig(aspect=(1.0, 1.0))},
        {"crop": CropConfig(flip=0.0)},
        {"optimizer": OptimizerConfig(lr=1e-2)}, {"optimizer": OptimizerConfig(warmup=0.5)},
        {"optimizer": OptimizerConfig(final_lr=1e-3)}, {"optimizer": OptimizerConfig(weight_decay=5.0)},
        {"optimizer": OptimizerConfig(betas=(0.5, 0.5))}, {"optimizer": OptimizerConfig(eps=1e-2)},
        {"optimizer": OptimizerConfig(clip_norm=1e-3, eps=1e-3)}, {"precision": "bf16"},
        {"precision": "fp16"}, {"mask": "block"}, {"crop": CropConfig(scale=(0.75, 1.25))},
        {"tokenizer_norm": "store"}, {"stop_grad_conv1": True},
    ]  # fmt: skip
    for number, change in enumerate(changes):
        assert losses(replace(tiny, out=tmp_path / str(number), **change)) != first, change


def test_the_shares_of_stores_reach_the_run(tiny, tmp_path):
    both = replace(tiny, stores=tiny.stores * 2, epochs=0.3)
    assert losses(both) != losses(replace(both, out=tmp_path / "shares", store_shares=(1.0, 0.0)))


def test_a_run_goes_on_from_an_encoder_at_another_resolution_and_its_card_tells_the_whole_chain(
    tiny, phantom_store, phantoms, tmp_path
):
    from evax.data.building import build_store
    from evax.data.manifest import no_boxes
    from evax.deploy.bundle import read_card, read_seen

    manifest = evax.open_store(phantom_store).manifest
    few = replace(
        manifest, table=manifest.table.iloc[:20].reset_index(drop=True), root=phantoms, boxes=no_boxes()
    )
    first_store = build_store(few, tmp_path / "few", size=96)
    first = pretrain(replace(tiny, stores=(first_store.path,), image_size=32, out=tmp_path / "first"))
    second = pretrain(replace(tiny, weights=first))
    earlier, card = read_card(first), read_card(second)
    assert (card.preprocess.mean, card.preprocess.input_size) == (earlier.preprocess.mean, 64)
    assert card.training["before"] == earlier.training
    assert card.training["images_total"] == earlier.training["images"] + card.training["images"]
    assert earlier.training["before"] is None
    trained_on = set(read_seen(second).films.tolist())
    assert trained_on > set(read_seen(first / "model.safetensors").films.tolist())
    assert card.training["films_total"] == len(trained_on) == len(read_seen(second).films)
    unmoved = pretrain(
        replace(
            tiny,
            weights=first,
            out=tmp_path / "x",
            epochs=0.2,
            optimizer=OptimizerConfig(lr=1e-12, final_lr=0.0),
        )
    )
    learned, kept = (load_file(folder / "model.safetensors") for folder in (first, unmoved))
    assert all(np.allclose(learned[name], kept[name], atol=1e-6) for name in learned if name != "pos_embed")


def test_a_run_from_a_foreign_file_names_it_and_claims_no_total(tiny, tmp_path):
    write_mim(tmp_path / "mim.pt", tiny.encoder)
    card = evax.open_bundle(pretrain(replace(tiny, epochs=0.3, weights=tmp_path / "mim.pt"))).card
    assert card.training["before"] == {"weights": "mim.pt"}
    assert card.training["images_total"] is None
    assert card.preprocess.mean == common_preprocess([evax.open_store(tiny.stores[0])], 64).mean


def test_a_run_from_published_weights_keeps_their_normalisation(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("EVAX_WEIGHTS", str(tmp_path))
    row = RELEASED["eva_x_tiny_mim"]
    write_mim(tmp_path / row.file, tiny.encoder)
    config = replace(tiny, epochs=0.3, weights=Path("eva_x_tiny_mim"))
    card = evax.open_bundle(pretrain(config)).card
    assert (card.preprocess.mean, card.preprocess.std) == (row.mean, row.std)
    assert card.training["before"] == {"weights": "eva_x_tiny_mim"}
    store = evax.open_store(tiny.stores[0])
    chain = preprocess_of(
        replace(config, weights=Path("eva02_tiny")), [store], EncoderWeights(config.encoder, "eva02_tiny")
    )
    assert chain.mean == RELEASED["eva02_tiny"].mean  # EVA-02's, one per colour


def test_pre_training_does_not_start_from_a_classifier(tiny, tmp_path):
    from evax.deploy.bundle import Card, save_bundle
    from evax.models.classifier import Classifier

    classifier = Classifier(evax.create_encoder(tiny.encoder), 1)
    card = Card(kind="classifier", encoder=tiny.encoder, preprocess=Preprocess(), findings=("Effusion",))
    save_bundle(tmp_path / "bundle", card, classifier)
    with pytest.raises(ConfigError, match=r"bundle is a classifier; pre-training starts from an encoder"):
        pretrain(replace(tiny, weights=tmp_path / "bundle"))
    assert not tiny.out.exists()


def test_a_tracked_run_shows_its_curves_and_probes_and_learns_the_same(tiny, phantom_store, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(tiny, out=tmp_path / "tracked", epochs=0.5, probe_store=phantom_store)
    tracked = losses(replace(config, track=("tensorboard",)))
    shown = EventAccumulator(str(config.out / "tensorboard")).Reload()
    assert [point.value for point in shown.Scalars("step/loss")] == pytest.approx(tracked)
    assert [point.step for point in shown.Scalars("probe/linear_auc")] == [0, len(tracked)]
    assert losses(replace(config, out=tmp_path / "plain")) == tracked


def test_threads_change_nothing(tiny, tmp_path):
    assert losses(tiny) == losses(replace(tiny, out=tmp_path / "three", workers=3))


def test_a_killed_run_goes_on_bit_for_bit(tiny, tmp_path):
    config = replace(tiny, epochs=6.0)
    pretrain(replace(config, out=tmp_path / "whole"))
    command = command_of(config)
    process = started_until_step_7(config, command)
    process.kill()
    process.wait()
    assert not (config.out / "encoder").exists()
    assert subprocess.run([*command, "--resume"], check=False, capture_output=True).returncode == 0
    whole, resumed = (
        load_file(out / "encoder" / "model.safetensors") for out in (tmp_path / "whole", config.out)
    )
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_saves_its_last_step_first(tiny, number, status):
    config = replace(tiny, epochs=60.0)
    process = started_until_step_7(config, command_of(replace(config, checkpoint_every=10_000)))
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    done = max(line["step"] for line in events(config.out, "step"))
    assert f"stopped after step {done} of" in said
    assert "--resume continues" in said
    assert [path.stem for path in (config.out / "checkpoints").iterdir()] == [f"step-{done:07d}"]


def test_a_log_that_broke_off_in_a_line_does_not_stop_the_run_that_goes_on(tiny):
    config = replace(tiny, epochs=6.0)
    process = started_until_step_7(config, command_of(config))
    process.kill()
    process.wait()
    with (config.out / "log.jsonl").open("a") as log:
        log.write('{"event": "step", "lo')
    before = (config.out / "config.yaml").read_text()
    pretrain(replace(config, resume=True, checkpoint_every=2))
    assert events(config.out, "resume")[0]["environment"]["torch"]
    assert (config.out / "config.yaml").read_text() == before
    assert json.loads((config.out / "report.json").read_text())["final_cosine"] > 0


def test_a_loss_that_is_no_number_ends_the_run_before_anything_is_learned_from_it(tiny):
    with pytest.raises(
        DataError, match=r"The (loss|gradient) of step \d+ is (nan|inf).*lower --optimizer.lr.*checkpoint"
    ):
        pretrain(replace(tiny, epochs=20, optimizer=OptimizerConfig(lr=1e30, warmup=0.0, clip_norm=0.0)))
    assert not (tiny.out / "encoder").exists()


def test_a_probe_store_that_cannot_probe_is_refused_before_anything_is_written(
    tiny, phantom_store, phantoms, tmp_path
):
    from evax.data.building import build_store

    manifest = evax.open_store(phantom_store).manifest
    only_train = replace(manifest, table=manifest.table.assign(split="train"), root=phantoms)
    build_store(only_train, tmp_path / "only-train", size=96)
    with pytest.raises(DataError, match="has no val images: prepare it with --validation above 0"):
        pretrain(replace(tiny, probe_store=tmp_path / "only-train"))
    assert not tiny.out.exists()


def test_a_run_folder_that_exists_is_left_alone(tiny):
    pretrain(tiny)
    before = sorted(path.stat().st_mtime_ns for path in tiny.out.rglob("*"))
    with pytest.raises(
        ConfigError, match=r"exists. Choose another --out, continue with --resume, or delete it"
    ):
        pretrain(tiny)
    assert sorted(path.stat().st_mtime_ns for path in tiny.out.rglob("*")) == before


def test_resume_needs_a_run_and_the_same_options(tiny):
    with pytest.raises(ConfigError, match="There is no run to resume"):
        pretrain(replace(tiny, resume=True))
    pretrain(tiny)
    with pytest.raises(WeightsError, match=r"belongs to another run \(mask_ratio was 0.3, is 0.4\)"):
        pretrain(replace(tiny, resume=True, mask_ratio=0.4))


def test_a_batch_larger_than_the_store_is_said_with_the_steps_it_leaves(tiny, caplog):
    pretrain(replace(tiny, batch_size=100, epochs=5.0))
    films = events(tiny.out, "start")[0]["films"]
    steps = len(events(tiny.out, "step"))
    assert (
        f"--batch-size 100 is more than the {films} images of an epoch: 5 epochs are {steps}" in caplog.text
    )


def test_images_of_the_test_split_are_never_trained_on(phantom_store):
    store = evax.open_store(phantom_store)
    films = images_outside_tests([store, store])
    assert len(films) == 2 * (len(store) - len(store.rows("test")))
    trained_on = {films.pixels(film).tobytes() for film in range(len(films))}
    assert not trained_on & {store.pixels(row).tobytes() for row in store.rows("test")}


def test_images_are_normalised_with_the_common_statistics_of_all_stores(phantom_store, phantoms, tmp_path):
    from evax.data.building import build_store
    from evax.data.manifest import Manifest
    from evax.data.sources import read_source

    whole = read_source("csv", phantoms, {})
    bright = Manifest(
        table=whole.table.iloc[:7].reset_index(drop=True),
        findings=whole.findings,
        exclusive=False,
        source="x",
        root=phantoms,
    )
    stores = [evax.open_store(phantom_store), build_store(bright, tmp_path / "few", size=96)]
    rows = (stores[0].rows("train"), range(7))  # no split is named in the second one
    measured = [store.pixels(row).ravel() for store, some in zip(stores, rows, strict=True) for row in some]
    pixels = np.concatenate(measured) / 255
    chain = common_preprocess(stores, 64)
    assert chain.mean == pytest.approx(pixels.mean())
    assert chain.std == pytest.approx(pixels.std())
    with pytest.raises(DataError, match=r"different sizes \[80, 96\]"):
        common_preprocess([stores[0], build_store(bright, tmp_path / "other", size=80)], 64)


def test_unknown_names_are_refused_before_anything_is_written(tiny, capsys):
    arguments = ["pretrain", str(tiny.stores[0]), "--out", str(tiny.out)]
    assert run([*arguments, "--tokenizer", "efficientnet_lite9"]) == 1
    assert (
        "No tokenizer is called 'efficientnet_lite9'. Did you mean 'efficientnet_lite0'"
        in capsys.readouterr().err
    )
    assert run([*arguments, "--encoder", "eva_x_tiny"]) == 1
    assert not tiny.out.exists()

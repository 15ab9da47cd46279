"""Equal runs leave equal bundles, byte for byte, wherever they and their data lie."""

import shutil
from dataclasses import replace

import pytest

from evax.config import to_plain
from evax.data.building import build_store
from evax.data.sources import read_source
from evax.data.split import assign_splits
from evax.files import read_json
from evax.jobs.finetune import FinetuneConfig, finetune
from evax.jobs.pretrain import pretrain
from evax.jobs.segment import segment
from evax.options.adaptation import SegmentConfig
from evax.pretraining import loop
from evax.pretraining import watch as watching
from pretraining_runs import tiny_run


@pytest.fixture(scope="module")
def stores(phantoms, tmp_path_factory):
    """The same store at two places; every split has masks."""
    here, there = (tmp_path_factory.mktemp(name) / name for name in ("here", "there"))
    manifest = assign_splits(read_source("csv", phantoms, {}), validation=0.25, test=0.25, seed=3)
    build_store(manifest, here, size=96)
    return here, shutil.copytree(here, there)


@pytest.fixture(scope="module")
def encoder(stores, tmp_path_factory):
    out = tmp_path_factory.mktemp("pretrained") / "run"
    return pretrain(tiny_run(stores[0], out, epochs=0.5, probe_store=stores[0]))


def files_of(bundle):
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


def test_a_pretraining_and_the_same_killed_and_resumed_elsewhere_leave_the_same_bundle(
    encoder, stores, tmp_path, monkeypatch
):
    config = tiny_run(stores[1], tmp_path / "again", epochs=0.5, probe_store=stores[1], checkpoint_every=1)
    save = loop.save_checkpoint

    def killed(folder, step, *facts):
        save(folder, step, *facts)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    again = pretrain(replace(config, resume=True))
    assert files_of(again) == files_of(encoder)
    assert sorted(files_of(again)) == ["card.json", "films.u64", "model.safetensors", "patients.u64"]
    ours, theirs = (read_json(folder.parent / "report.json") for folder in (encoder, again))
    assert ours["images_per_s"] > 0
    assert theirs["resumed"] == 1
    assert "images_per_s" not in read_json(encoder / "card.json")["training"]


@pytest.mark.parametrize("job", [finetune, segment])
def test_equal_classifiers_and_segmenters_are_equal_bundles(job, encoder, stores, tmp_path):
    moved = shutil.copytree(encoder, tmp_path / "moved")
    kind = {finetune: FinetuneConfig, segment: SegmentConfig}[job]
    bundles = [
        job(
            kind(
                store=store, weights=weights, out=tmp_path / name, image_size=64, steps=2, batch_size=4,
                validate_every=1, resamples=20, workers=1, precision="fp32", compile="off",
            )
        )
        for store, weights, name in ((stores[0], encoder, "here"), (stores[1], moved, "there"))
    ]  # fmt: skip
    first, second = map(files_of, bundles)
    assert first == second
    for place in (*map(str, stores), str(tmp_path), str(encoder)):
        assert place.encode() not in first["card.json"]
    recipe = read_json(bundles[0] / "card.json")["training"]["recipe"]
    assert (recipe["steps"], recipe["seed"]) == (2, 0)
    reports = [read_json(bundle.parent / "report.json") for bundle in bundles]
    assert [report["recipe"]["store"] for report in reports] == [str(store) for store in stores]
    assert [report["weights"] for report in reports] == [str(encoder), str(moved)]
    assert reports[0]["weights_digest"] == reports[1]["weights_digest"] is not None
    assert to_plain(recipe).keys() < reports[0]["recipe"].keys()


@pytest.mark.parametrize(("every", "wanted"), [(0.05, [0, 1, 2, 3]), (0.001, [0, 1, 2, 3]), (0.4, [0, 2, 3])])
def test_probes_go_on_to_the_end_however_short_their_distance(stores, tmp_path, monkeypatch, every, wanted):
    probed = list[int]()
    monkeypatch.setattr("evax.pretraining.run.probe_features", lambda *of_encoder: "result")
    monkeypatch.setattr(watching.Watch, "probe", lambda self, step, images, result: probed.append(step))
    config = tiny_run(stores[0], tmp_path / "run", epochs=0.5, probe_every=every, probe_store=stores[0])
    pretrain(config)
    assert probed == wanted


@pytest.mark.parametrize(
    ("job", "later"),
    [(finetune, "evax.adaptation.classify.examine"), (segment, "evax.adaptation.segment.draw_masks")],
)
def test_a_trained_network_is_kept_when_a_later_part_of_the_report_fails(
    job, later, stores, tmp_path, monkeypatch
):
    def fail(*arguments, **options):
        raise RuntimeError("later")

    monkeypatch.setattr(later, fail)
    kind = {finetune: FinetuneConfig, segment: SegmentConfig}[job]
    config = kind(
        store=stores[0], out=tmp_path / "run", image_size=64, steps=2, batch_size=4,
        validate_every=1, resamples=20, workers=1, precision="fp32", compile="off",
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="later"):
        job(config)
    assert sorted(files_of(config.out / "bundle")) == [
        "card.json", "films.u64", "model.safetensors", "patients.u64",
    ]  # fmt: skip
    assert not (config.out / "report.json").exists()

"""Published weights become bundles, and bundles go back to the layouts that others read."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import evax
from baseline_files import densenet121, old_densenet
from evax.cli import run
from evax.data.phantom import make_phantom
from evax.data.preprocess import Preprocess
from evax.data.radiograph import Radiograph
from evax.deploy.bundle import Card, read_card, save_bundle
from evax.deploy.published import PublishedFile
from evax.errors import ConfigError, WeightsError
from evax.jobs.zoo import zoo
from evax.models.classifier import Classifier
from evax.models.encoders import EVA_X, build_encoder
from evax.options.results import ZooConfig
from evax.published import IMAGENET_MEAN, IMAGENET_STD
from evax.weights.released import RELEASED
from evax.weights.share import TIMM_ARCHITECTURES, save_timm
from official_files import forward_as_released, official_fine_tuned, official_mim, write_fine_tuned, write_mim

TINY, SMALL, _ = EVA_X
FINDINGS = ("Effusion", "Mass")


def random_network(kind, rotary_grid=14):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_encoder(TINY, ref_feat_shape=(rotary_grid, rotary_grid))
        for key, parameter in network.named_parameters():  # large enough for positions to matter
            is_scale = "norm" in key and key.endswith("weight")
            torch.nn.init.normal_(parameter, mean=float(is_scale), std=0.1)
        if kind == "classifier":
            network = Classifier(network, len(FINDINGS))
            torch.nn.init.normal_(network.head.weight)
    return network.eval()


def bundle_of(folder, network):
    kind = "classifier" if isinstance(network, Classifier) else "encoder"
    findings = FINDINGS if kind == "classifier" else ()
    card = Card(kind=kind, encoder=TINY, preprocess=Preprocess(mean=0.4, std=0.2), findings=findings)
    return save_bundle(folder, card, network)


def convert(source, to, out, **options):
    return zoo(ZooConfig(action="convert", source=str(source), to=to, out=out, **options))


@pytest.fixture(scope="module")
def encoder():
    return random_network("encoder")


@pytest.fixture(scope="module")
def classifier():
    return random_network("classifier", rotary_grid=16)


@pytest.fixture(scope="module")
def images():
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))


def test_list_shows_every_file_and_which_lie_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVAX_WEIGHTS", str(tmp_path))
    (tmp_path / RELEASED["eva_x_tiny_chexpert"].file).touch()
    assert run(["zoo", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in RELEASED:
        (line,) = [line for line in lines if f" {name} " in line]
        assert ("yes" in line) == (name == "eva_x_tiny_chexpert")
    assert any("307.6 MB" in line and "MIT" in line and SMALL in line for line in lines)


def test_list_of_one_name_tells_address_licence_normalisation_and_the_checksum_that_was_recorded(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("EVAX_WEIGHTS", str(tmp_path))
    row = RELEASED["resnet50_biovil"]
    (tmp_path / "checksums.json").write_text(json.dumps({row.file: {"sha256": "abc"}}))
    assert run(["zoo", "list", "resnet50_biovil"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in (f"url: {row.url}", "licence: MIT", "mean: 0.0", "std: 1.0", "sha256_when_fetched: abc"):
        assert line in lines
    assert run(["zoo", "list", "resnet50_bio"]) == 1
    assert "Did you mean 'resnet50_biovil'" in capsys.readouterr().err


def test_a_published_480_pixel_classifier_becomes_a_bundle_that_predict_runs(tmp_path):
    film = tmp_path / "film.png"
    Image.fromarray(np.rint(make_phantom(seed=5, index=0).pixels * 255).astype(np.uint8)).save(film)
    source = tmp_path / RELEASED["eva_x_small_covidx3"].file
    state = write_fine_tuned(source, SMALL, outputs=3, input_size=480)
    bundle, table = tmp_path / "bundle", tmp_path / "scores.csv"
    assert run(["zoo", "convert", str(source), "--to", "bundle", "--out", str(bundle)]) == 0
    card = read_card(bundle)
    assert card.findings == ("Normal", "Pneumonia", "COVID-19")
    assert card.exclusive
    assert card.preprocess == Preprocess(store_size=480, input_size=480, resize_size=480)
    assert card.thresholds == {"Normal": None, "Pneumonia": None, "COVID-19": None}
    assert card.licence.startswith("MIT")
    assert run(["predict", str(bundle), str(film), "--out", str(table)]) == 0
    (row,) = list(csv.DictReader(table.open()))
    network_input = torch.from_numpy(card.preprocess.to_network_input(evax.read_image(film)))
    patches = forward_as_released(state, network_input.expand(1, 3, -1, -1))[:, 1:]
    state = {key: value.double() for key, value in state.items()}
    pooled = torch.nn.functional.layer_norm(
        patches.mean(dim=1), (384,), state["fc_norm.weight"], state["fc_norm.bias"], eps=1e-6
    )
    expected = (pooled @ state["head.weight"].T + state["head.bias"]).softmax(-1)[0]
    assert [float(row[name]) for name in card.findings] == pytest.approx(expected.tolist(), abs=1e-3)
    assert row["predicted"] == card.findings[int(expected.argmax())]
    assert sum(float(row[name]) for name in card.findings) == pytest.approx(1, abs=1e-5)


def test_a_renamed_file_needs_to_be_told_what_it_is_like(tmp_path):
    source = tmp_path / "mine.pth"
    write_fine_tuned(source, TINY, outputs=5)
    convert(source, "bundle", tmp_path / "bundle", like="eva_x_tiny_chexpert")
    assert read_card(tmp_path / "bundle").findings[-1] == "Effusion"
    for like, message in (
        (None, "mine.pth has not the name of a published file.*--like"),
        ("eva_x_tiny_cxr14", "does not fit a head of 14 findings"),
        ("eva_x_small_covidx4", r"\(1, 197, 192\), expected 901 tokens for 480 pixels"),
        ("eva_x_tiny_mim", "has a head, so it was fine-tuned"),
        ("eva_x_small_siim", r"layout of mmseg.*evax zoo fetch eva_x_small_siim"),
        ("resnet50_imagenet", "does not fit resnet50 as a file of the layout vit"),
    ):
        with pytest.raises(ConfigError if like is None else WeightsError, match=message):
            convert(source, "bundle", tmp_path / "x", like=like)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("full_precision", [False, True])
def test_a_published_name_becomes_an_encoder_bundle_in_the_precision_asked_for(
    full_precision, tmp_path, monkeypatch
):
    monkeypatch.setenv("EVAX_WEIGHTS", str(tmp_path))
    exact = write_mim(tmp_path / RELEASED["eva_x_tiny_mim"].file, TINY, rotary_grid=16)
    out = tmp_path / "bundle"
    convert("eva_x_tiny_mim", "bundle", out, full_precision=full_precision)
    weight = exact["norm.weight"]
    for network in (evax.open_bundle(out).network, evax.create_encoder(TINY, out)):
        assert network.rotary_grid == 16  # travels with the weights
        assert torch.equal(network.fc_norm.weight, weight if full_precision else weight.half().float())
    card = read_card(out)
    assert card.kind == "encoder"
    assert card.preprocess == Preprocess()
    assert card.training["precision"] == ("float32" if full_precision else "float16")


def test_an_encoder_written_officially_has_the_official_names_and_shapes(tmp_path, encoder):
    bundle_of(tmp_path / "bundle", encoder)
    path = convert(tmp_path / "bundle", "official", tmp_path / "official.pt")
    state = torch.load(path, weights_only=True)["module"]
    official = {
        key: value.shape
        for key, value in official_mim(TINY).items()
        if not key.startswith(("mask_token", "lm_head."))
    }
    assert {key: value.shape for key, value in state.items()} == official
    back = evax.create_encoder(TINY, path).state_dict()
    assert all(torch.equal(value, back[key]) for key, value in encoder.state_dict().items())


def test_a_classifier_written_officially_computes_the_same_by_the_released_arithmetic(
    tmp_path, classifier, images
):
    bundle_of(tmp_path / "bundle", classifier)
    path = tmp_path / "official.pth"
    assert run(["zoo", "convert", str(tmp_path / "bundle"), "--to", "official", "--out", str(path)]) == 0
    state = torch.load(path, weights_only=True)["model"]
    assert state.keys() == official_fine_tuned(TINY, 2).keys()
    with torch.no_grad():
        ours = classifier.encoder.encode(images).patches.double()
    assert torch.allclose(forward_as_released(state, images)[:, 1:], ours, rtol=1e-3, atol=1e-3)
    assert torch.equal(state["head.weight"], classifier.head.weight)
    assert evax.create_encoder(TINY, path).rotary_grid == 16


def test_timm_and_transformers_open_the_converted_classifier_and_agree(tmp_path, classifier, images):
    from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

    bundle_of(tmp_path / "bundle", classifier)
    folder = tmp_path / "timm"
    convert(tmp_path / "bundle", "timm", folder)
    with torch.no_grad():
        logits = classifier(images)
        pooled = classifier.encoder.fc_norm(classifier.encoder.encode(images).patches.mean(dim=1))
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert torch.allclose(model(images), logits, atol=1e-4)
        features = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
        assert torch.allclose(features(images), pooled, atol=1e-5)
        wrapped = AutoModelForImageClassification.from_pretrained(folder).eval()
        assert torch.allclose(wrapped(images).logits, logits, atol=1e-4)
        assert list(wrapped.config.id2label.values()) == list(FINDINGS)
        bare = AutoModel.from_pretrained(folder).eval()
        assert torch.allclose(bare(images).pooler_output, pooled, atol=1e-5)
    settings = timm.data.resolve_data_config({}, model=model)
    assert (settings["mean"], settings["std"], settings["crop_mode"]) == ([0.4] * 3, [0.2] * 3, "squash")
    film = Image.new("RGB", (300, 250), (51, 51, 51))
    shown = AutoImageProcessor.from_pretrained(folder)(film)["pixel_values"]
    assert shown.shape == (1, 3, 224, 224)
    assert torch.allclose(shown, torch.full_like(shown, -1.0), atol=1e-5)  # (0.2 - 0.4) / 0.2
    assert "Not a medical device" in (folder / "config.json").read_text()


@pytest.mark.parametrize(
    ("name", "resized", "side"),
    [
        ("eva_x_tiny_cxr14", 256, 224),
        ("eva_x_small_chexpert", 256, 224),
        ("eva_x_tiny_chexpert", 224, 224),
        ("resnet50_mgca_cxr14", 256, 224),
    ],
)
def test_a_fine_tuned_file_gets_the_central_crop_it_was_tuned_with(name, resized, side):
    row = RELEASED[name]
    chain = PublishedFile(name, None).card().preprocess
    assert chain == Preprocess(resized, side, row.mean, row.std, resize_size=resized)
    assert PublishedFile("eva_x_tiny_mim", None).card().preprocess == Preprocess()


def test_timm_is_told_the_central_crop(tmp_path, classifier):
    save_timm(tmp_path, TINY, classifier, FINDINGS, 0.4, 0.2, 224 / 256, ("", ""))
    shown = timm.data.create_transform(
        **timm.data.resolve_data_config(json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"])
    )
    film = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    chain = Preprocess(store_size=256, input_size=224, mean=0.4, std=0.2, resize_size=256)
    seen = shown(Image.fromarray(film).convert("RGB"))[0]
    assert np.allclose(seen, chain.to_input(film), atol=1e-5)


def test_timm_and_transformers_open_the_converted_encoder_and_agree(tmp_path, encoder, images):
    from transformers import AutoModel

    bundle_of(tmp_path / "bundle", encoder)
    folder = tmp_path / "folder"
    convert(tmp_path / "bundle", "transformers", folder)
    with torch.no_grad():
        encoded = encoder.encode(images)
        expected = torch.cat([encoded.cls[:, None], encoded.patches], dim=1)
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert torch.allclose(model.forward_features(images), expected, atol=1e-4)
        assert torch.allclose(
            AutoModel.from_pretrained(folder).eval()(images).last_hidden_state, expected, atol=1e-4
        )
        assert torch.equal(evax.create_encoder(TINY, folder).pos_embed, encoder.pos_embed)


@pytest.mark.parametrize("name", EVA_X)
def test_every_size_has_an_architecture_in_timm_with_the_same_tensors(name):
    with torch.device("meta"):  # sizes only
        ours = build_encoder(name)
        theirs = timm.create_model(TIMM_ARCHITECTURES[name], patch_size=16, num_classes=0)
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == {
        key: tensor.shape for key, tensor in theirs.state_dict().items()
    }


def test_a_converted_folder_needs_timm_only(tmp_path, encoder):
    bundle_of(tmp_path / "bundle", encoder)
    convert(tmp_path / "bundle", "timm", tmp_path / "timm")
    program = (
        "import sys, timm; model = timm.create_model('local-dir:timm', pretrained=True); "
        "print(sum(p.numel() for p in model.parameters()), 'evax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["5525184", "False"], done.stderr


def test_a_baseline_becomes_a_bundle_with_its_colours_and_stays_out_of_the_authors_layout(tmp_path):
    source = tmp_path / RELEASED["densenet121_imagenet"].file
    reference = densenet121()
    torch.save(old_densenet(reference.state_dict()), source)
    convert(source, "bundle", tmp_path / "bundle")
    predictor = evax.open_bundle(tmp_path / "bundle")
    assert predictor.card.preprocess == Preprocess(336, 224, IMAGENET_MEAN, IMAGENET_STD)
    assert predictor.card.training["source"].endswith(source.name)
    phantom = Radiograph(make_phantom(seed=5, index=0).pixels)
    film = torch.from_numpy(predictor.network_input(phantom))[None]
    with torch.inference_mode():
        expected = reference.features(film).relu().mean(dim=(2, 3))[0]
    feature = torch.from_numpy(predictor.predict_inputs(film.numpy())[0])
    assert torch.allclose(feature, expected, atol=1e-4)
    with pytest.raises(WeightsError, match="Only EVA-X encoders go to the authors' layout"):
        convert(tmp_path / "bundle", "official", tmp_path / "x")


class Malice:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('owned').touch()",))


def test_a_file_that_would_run_code_is_one_line_with_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = RELEASED["eva_x_tiny_cxr14"].file
    torch.save({"model": official_fine_tuned(TINY, 14), "args": Malice()}, file)
    assert run(["zoo", "convert", file, "--to", "bundle", "--out", "bundle"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"evax zoo: {file} holds more than weights, and evax runs no code")
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action": "fetch"}, "zoo fetch needs a name"),
        ({"action": "convert", "source": "x", "to": "timm"}, "needs --to .* and --out"),
        ({"action": "list", "out": "x"}, "zoo list does not take out"),
        ({"action": "fetch", "source": "x", "like": "y"}, "zoo fetch does not take like"),
    ],
)
def test_options_of_another_action_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ZooConfig(**options)


def test_what_cannot_be_converted_is_refused_before_anything_is_written(tmp_path, encoder):
    bundle = bundle_of(tmp_path / "bundle", encoder)
    out = tmp_path / "out"
    for source, to, folder, changes, message in (
        (bundle, "bundle", out, {}, "is a bundle: it goes to official"),
        (bundle, "timm", out, {"full_precision": True}, "without like or full_precision"),
        ("eva_x_tiny_cxr", "timm", out, {}, "Did you mean 'eva_x_tiny_cxr14'"),
        ("eva_x_tiny_cxr14", "timm", out, {"like": "eva_x_tiny_mim"}, "like describes a file that is there"),
        (bundle, "timm", bundle, {}, "bundle exists. Choose another --out"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert(source, to, folder, **changes)
    assert not out.exists()

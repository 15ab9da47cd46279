import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evax
from bundles import TINY, random_card, random_network
from evax.data.preprocess import Preprocess
from evax.data.store import open_store
from evax.deploy.bundle import Card, read_card, save_bundle, starting_preprocess
from evax.deploy.predictor import BATCH, open_bundle
from evax.deploy.torch_runtime import TorchPredictor
from evax.errors import ConfigError, DataError, WeightsError
from evax.models.encoders import build_encoder

PREPROCESS = Preprocess(store_size=80, input_size=64, mean=0.4, std=0.2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    findings, thresholds = ("Effusion", "Mass"), {"Effusion": 0.3, "Mass": None}
    card, network = (
        random_card(findings, preprocess=PREPROCESS, thresholds=thresholds),
        random_network(findings),
    )
    return save_bundle(tmp_path_factory.mktemp("bundle"), card, network), network


@pytest.fixture
def film(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 90), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "film.png")
    return tmp_path / "film.png"


def test_a_bundle_predicts_what_the_network_in_memory_predicts(bundle, film):
    folder, network = bundle
    prediction = evax.open_bundle(folder)(film)
    assert list(prediction) == ["Effusion", "Mass"]
    stored = PREPROCESS.to_store(evax.read_image(film).pixels)
    with torch.no_grad():
        expected = torch.sigmoid(network(torch.from_numpy(PREPROCESS.to_input(stored)[None, None])))[0]
    assert list(prediction.values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_published_weights_bring_their_normalisation(phantom_store):
    store = open_store(phantom_store)
    for weights in ("eva_x_tiny_mim", "weights/eva_x_tiny_patch16_merged520k_mim.pt"):
        chain = starting_preprocess(TINY, Path(weights), store, 64)
        assert chain == Preprocess(store.size, 64, bits=store.bits)  # the statistics of Merged-520k
    assert starting_preprocess(TINY, Path("weights/mine.pt"), store, 64).mean == store.mean


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_bundle_reads_a_16_bit_picture_at_the_depth_of_its_training(bundle, tmp_path, suffix, caplog):
    dark = np.random.default_rng(0).integers(0, 900, (100, 90)).astype(np.uint16)
    path = tmp_path / f"dark.{suffix}"
    Image.fromarray(dark).save(path)
    card = replace(read_card(bundle[0]), preprocess=replace(PREPROCESS, bits=12))
    predictor = open_bundle(save_bundle(tmp_path / "deep", card, bundle[1]))
    as_trained = predictor(evax.Radiograph((dark / 4095).astype(np.float32)))
    assert predictor(path) == pytest.approx(as_trained, abs=1e-6)
    assert "guessed" not in caplog.text
    assert predictor(evax.read_image(path)) != pytest.approx(as_trained, abs=1e-6)
    assert "depth of an image was guessed (issue narrow_range)" in caplog.text
    assert "evax.read_image(path, bits=12)" in caplog.text
    assert open_bundle(bundle[0])(path) != pytest.approx(as_trained, abs=1e-6)  # taken for 10 bits


def test_inputs_of_another_shape_or_type_or_with_nan_are_refused(bundle, film):
    predictor = open_bundle(bundle[0])
    good = predictor.network_input(evax.read_image(film))[None]
    bad = [good[0], good[:, :, 1:], np.repeat(good, 3, axis=1), good.astype(np.float64), good * np.nan]
    for inputs in (*bad, (good * 50).astype(np.uint8)):
        for answer in (predictor.predict_inputs, lambda each: predictor.maps(each, "norm1")):
            with pytest.raises(DataError, match=r"finite float32 numbers of shape \(images, 1, 64, 64\)"):
                answer(inputs)
    assert predictor.predict_inputs(good).shape == (1, 2)


@pytest.fixture
def many(tmp_path):
    """More images than are scored at a time, as files and in memory, of different shapes."""
    films = []
    for number in range(BATCH + 3):
        pixels = np.random.default_rng(number).integers(0, 256, (60 + number, 90), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        films.append((str, Path, evax.read_image)[number % 3](tmp_path / f"{number}.png"))
    return films


def test_several_images_are_answered_one_by_one_in_their_order(bundle, many):
    predictor = open_bundle(bundle[0])
    answers = predictor(many)
    assert len(answers) == len(many)
    for film, answer in zip(many, answers, strict=True):
        assert answer == pytest.approx(predictor(film), abs=1e-6)
    array = predictor.predict(many)
    np.testing.assert_allclose(array, [list(answer.values()) for answer in answers])
    assert predictor(tuple(many[:1])) == predictor(iter(many[:1])) == [predictor(many[0])]
    assert predictor([]) == []


def test_of_many_images_a_few_are_in_memory_at_a_time(bundle, many):
    predictor, read, ahead = open_bundle(bundle[0]), [], []
    forward = predictor.forward

    def films():
        for film in many:
            read.append(film)
            yield film

    def counted(inputs):
        ahead.append(len(read))
        return forward(inputs)

    predictor.forward = counted
    assert len(predictor(films())) == len(many)
    assert ahead == [BATCH, len(many)]


def test_an_image_of_several_that_cannot_be_read_is_named(bundle, many, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no film")
    with pytest.raises(DataError, match=r"broken.png is not a readable"):
        open_bundle(bundle[0])([*many, tmp_path / "broken.png"])


@pytest.mark.parametrize("kind", ["encoder", "segmenter"])
def test_an_encoder_gives_a_vector_and_a_segmenter_masks_for_each_of_several_images(kind, many):
    findings = ("Lung", "Heart") if kind == "segmenter" else ()
    thresholds = dict.fromkeys(findings, 0.5)
    card = random_card(findings, kind=kind, preprocess=PREPROCESS, thresholds=thresholds)
    predictor = TorchPredictor(card, random_network(findings, kind=kind))
    for film, answer in zip(many[:3], predictor(many[:3]), strict=True):
        alone = predictor(film)
        if kind == "encoder":
            assert answer == pytest.approx(alone, abs=1e-5)
        else:
            assert [mask.shape for mask in answer.values()] == [mask.shape for mask in alone.values()]
            assert all((answer[name] == alone[name]).mean() > 0.999 for name in findings)


def test_the_card_survives_the_way_to_disk_and_back(bundle):
    card = read_card(bundle[0])
    assert card.preprocess == PREPROCESS
    assert card.findings == ("Effusion", "Mass")
    assert card.thresholds == {"Effusion": 0.3, "Mass": None}
    assert "Not a medical device" in card.intended_use


def test_an_encoder_bundle_gives_a_feature_vector_and_its_weights_start_another_encoder(tmp_path, film):
    encoder = build_encoder(TINY, img_size=64)
    save_bundle(tmp_path / "encoder", Card(kind="encoder", encoder=TINY, preprocess=PREPROCESS), encoder)
    assert open_bundle(tmp_path / "encoder")(film).shape == (192,)
    loaded = evax.create_encoder(TINY, tmp_path / "encoder", img_size=64)
    assert all(
        torch.equal(a, b)
        for a, b in zip(encoder.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_a_classifier_bundle_starts_an_encoder_too(bundle):
    folder, network = bundle
    encoder = evax.create_encoder(TINY, folder, img_size=64)
    assert torch.equal(encoder.pos_embed, network.encoder.pos_embed)


def test_weights_of_another_encoder_are_refused(bundle, tmp_path):
    folder, _ = bundle
    content = json.loads((folder / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(content | {"findings": ["Effusion"]}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="does not fit the bundle's card"):
        open_bundle(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match="no model.safetensors"):
        open_bundle(tmp_path)


def test_an_unknown_runtime_is_refused(bundle):
    with pytest.raises(ConfigError, match="No runtime is called 'onxx'. Did you mean 'onnx'"):
        open_bundle(bundle[0], runtime="onxx")

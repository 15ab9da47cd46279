"""The claim of docs/how-to/finetune.md about doubtful labels, with a real small network on phantoms."""

import numpy as np
import pytest
import torch
from PIL import Image

from evax.adaptation.features import encode_images
from evax.data.phantom import FINDINGS, make_phantom
from evax.data.preprocess import Preprocess
from evax.evaluation.suspicion import held_out_probabilities, suspicion
from evax.runs.device import start_fabric
from evax.weights.encoders import create_encoder


@pytest.mark.long
def test_half_of_the_labels_turned_over_on_phantoms_are_among_the_most_suspicious_tenth():
    encoder = create_encoder("efficientnet_lite0", "imagenet")
    encoder.eval()
    chain = Preprocess(store_size=128, input_size=128, mean=127 / 255, std=128 / 255)
    fabric, features, labels, patients = start_fabric("fp32"), [], [], []
    for index in range(600):
        phantom = make_phantom(7, index)
        film = Image.fromarray(np.rint(255 * phantom.pixels).astype(np.uint8)).resize((128, 128))
        with torch.inference_mode():
            patches = encode_images(encoder, np.asarray(film)[None, None], chain, fabric).patches
        features.append(patches[0].mean(dim=0).numpy())
        labels.append([float(phantom.labels[finding]) for finding in FINDINGS])
        patients.append(f"p{phantom.patient}")
    flips = np.random.default_rng(8).random((600, len(FINDINGS))) < 0.1
    given_labels = np.where(flips, 1 - np.array(labels), labels)
    held_out = held_out_probabilities(np.array(features), given_labels, patients)
    order = np.argsort(-suspicion(held_out, given_labels), axis=None)
    assert flips.ravel()[order[: round(0.1 * flips.size)]].sum() >= 0.5 * flips.sum()

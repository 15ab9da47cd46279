"""Bundles of random networks, as small as a test needs."""

from __future__ import annotations

import torch

from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, save_bundle
from evax.models.classifier import Classifier
from evax.models.encoders import build_encoder
from evax.models.segmenter import Segmenter

TINY = "eva_x_tiny_patch16_224"


def random_network(findings=(), *, kind="", encoder=TINY, size=64, seed=0, std=1.0):
    """kind: a classifier where there are findings and an encoder elsewhere, unless it is said."""
    kind = kind or ("classifier" if findings else "encoder")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_encoder(encoder, img_size=size)
        if kind == "classifier":
            network = Classifier(network, len(findings))
            torch.nn.init.normal_(network.head.weight, std=std)
        elif kind == "segmenter":
            network = Segmenter(network, len(findings), 8)
    return network.eval()


def random_card(findings=(), *, kind="", encoder=TINY, size=64, store_size=96, **fields):
    """fields: others of the card."""
    kind = kind or ("classifier" if findings else "encoder")
    chain = Preprocess(store_size=store_size, input_size=size)
    return Card(kind=kind, encoder=encoder, findings=tuple(findings), **({"preprocess": chain} | fields))


def random_bundle(
    folder, findings=(), *, kind="", encoder=TINY, size=64, store_size=96, seed=0, std=1.0, **fields
):
    network = random_network(findings, kind=kind, encoder=encoder, size=size, seed=seed, std=std)
    card = random_card(findings, kind=kind, encoder=encoder, size=size, store_size=store_size, **fields)
    return save_bundle(folder, card, network)

"""Files of the paper's baselines with random tensors, under the names, nesting and types of the published
ones (paper-facts.md 7), each beside the network that its own library builds.
"""

import argparse
import contextlib
import re
import warnings

import timm
import torch
import torchvision
from torch import nn


def shaken(network):
    """The network with statistics and biases that matter, so that a tensor in the wrong place changes the
    features.
    """
    chance = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=chance) + 0.5)
            elif tensor.is_floating_point() and (tensor.ndim == 1 or "token" in name or "pos" in name):
                tensor.add_(torch.randn(tensor.shape, generator=chance) * 0.1)
    return network.eval()


def resnet50():
    return shaken(torchvision.models.resnet50())


def densenet121():
    return shaken(torchvision.models.densenet121())


def resnet50_maps(network):
    return nn.Sequential(*list(network.children())[:-2])


def densenet121_maps(network):
    return nn.Sequential(network.features, nn.ReLU())


def biovil(state):
    """hi-ml's ImageModel: the ResNet keeps its unused head; a projector of 1x1 convolutions."""
    projector = {
        "0.weight": (128, 2048, 1, 1), "1.weight": (128,), "1.bias": (128,), "1.running_mean": (128,),
        "1.running_var": (128,), "3.weight": (128, 128, 1, 1), "3.bias": (128,),
    }  # fmt: skip
    return {f"encoder.encoder.{key}": value for key, value in state.items()} | {
        f"projector.model.{key}": torch.zeros(shape) for key, shape in projector.items()
    }


def lightning(state):
    """A checkpoint of PyTorch Lightning with hyper-parameters and the state of loops and callbacks."""
    return {
        "epoch": 49, "global_step": 1000, "pytorch-lightning_version": "1.6.0", "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}}, "optimizer_states": [{"state": {0: {"step": 3}}}],
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(2.5)}},
        "lr_schedulers": [], "hparams_name": "kwargs",
        "hyper_parameters": {"img_encoder": "resnet_50", "emb_dim": 128, "betas": (0.9, 0.99)},
    }  # fmt: skip


def mgca(state):
    others = (
        "img_encoder_q.global_embed.head.0.weight", "img_encoder_q.local_embed.head.3.bias",
        "text_encoder_q.model.embeddings.word_embeddings.weight", "patch_local_atten_layer.in_proj_weight",
        "word_local_atten_layer.out_proj.bias", "prototype_layer.weight",
    )  # fmt: skip
    encoder = {f"img_encoder_q.model.{key}": value for key, value in state.items()}
    return lightning(encoder | {key: torch.zeros(3) for key in others})


def medklip(state):
    """DataParallel; children 0, 1 and 4 to 6 of a ResNet-50, whose layer4 MedKLIP has not."""
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6}
    encoder = {
        f"module.res_features.{numbers[key.split('.')[0]]}.{key.split('.', 1)[1]}": value
        for key, value in state.items()
        if key.split(".")[0] in numbers
    }
    others = (
        "res_l1.weight", "res_l2.bias", "disease_embedding_layer.weight", "cl_fc.weight",
        "decoder.layers.0.self_attn.in_proj_weight", "decoder.norm.weight", "classifier.bias",
    )  # fmt: skip
    return {
        "model": encoder | {f"module.{key}": torch.zeros(2) for key in others},
        "optimizer": {"state": {}, "param_groups": []}, "lr_scheduler": {"step": 1}, "epoch": 60,
    }  # fmt: skip


def moco(state):
    """MoCo v2: DataParallel, query and key encoder, each with a projection of two layers, and the queue."""
    kept = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
    head = "fc" if "conv1.weight" in state else "classifier"
    projection = {f"{head}.{i}.{kind}": torch.zeros(4) for i in (0, 2) for kind in ("weight", "bias")}
    return {
        "epoch": 200, "arch": "resnet50", "optimizer": {"state": {}},
        "state_dict": {f"module.encoder_q.{key}": value for key, value in (kept | projection).items()}
        | {f"module.encoder_k.{key}": value for key, value in projection.items()}
        | {"module.encoder_k.anything": torch.zeros(2), "module.queue": torch.zeros(128, 8),
           "module.queue_ptr": torch.zeros(1, dtype=torch.long)},
    }  # fmt: skip


def old_densenet(state):
    """torchvision before 0.3: `norm.1` inside the dense layers, and no counters of batches."""
    return {
        re.sub(r"(denselayer\d+\.)(norm|conv)(\d)", r"\1\2.\3", key): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def smp(state):
    """Medical MAE's DenseNet: the encoder of a U-Net of segmentation_models_pytorch, under `model`."""
    encoder = {f"model.encoder.{key}": value for key, value in state.items() if key.startswith("features.")}
    others = ("model.decoder.blocks.0.conv1.0.weight", "model.segmentation_head.0.bias")
    return {"model": encoder | {key: torch.zeros(2) for key in others}, "args": argparse.Namespace(lr=1e-3)}


def fine_tuned(state):
    """What the authors' train.py saves of a CNN."""
    return {
        "model": state, "optimizer": {"state": {}}, "epoch": "best", "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="resnet50", nb_classes=14),
    }  # fmt: skip


def vit(name="vit_small_patch16_224", depth=2, img_size=64, **options):
    """timm's own ViT: class token pooled, final norm on every token."""
    return shaken(timm.create_model(name, depth=depth, img_size=img_size, **options))


def mae(state):
    """Encoder and decoder of MAE: no head; the same norm name."""
    encoder = {key: value for key, value in state.items() if not key.startswith("head.")}
    others = ("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_embed.bias",
              "decoder_blocks.0.attn.qkv.weight", "decoder_norm.bias", "decoder_pred.weight")  # fmt: skip
    return {
        "model": encoder | {key: torch.zeros(1, 1, 2) for key in others},
        "optimizer": {"state": {}}, "epoch": 799, "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(mask_ratio=0.75, lr=1e-3),
    }  # fmt: skip


def dinov2(folder, img_size=56):
    """transformers' Dinov2Model, saved by it: the published names, in safetensors."""
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 1}
    network = shaken(Dinov2Model(Dinov2Config(image_size=img_size, patch_size=14, **sizes)))
    network.save_pretrained(folder)
    return network


@contextlib.contextmanager
def torchxrayvision():
    """The package, which silences every warning when it is imported."""
    with warnings.catch_warnings():
        import torchxrayvision as package

        yield package

"""Files of tokenizers with random tensors under the exact names, nesting and extras of the published ones."""

import timm
import torch

from evax.models.tokenizers import TOKENIZERS


def random_timm(name, seed=1, **options):
    """A timm network whose every value, norms included, is drawn; in eval mode."""
    torch.manual_seed(seed)
    network = timm.create_model(name, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for key, buffer in network.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_()
            elif key.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return network


def mgca_checkpoint(tower):
    """What PyTorch Lightning writes for an MGCA model with this ViT as image tower; paper-facts.md 2.3."""
    state = {f"img_encoder_q.model.{key}": value for key, value in tower.state_dict().items()}
    state |= {
        "img_encoder_q.global_embed.head.0.weight": torch.randn(4, 8),
        "img_encoder_q.global_embed.head.1.running_var": torch.ones(4),
        "img_encoder_q.local_embed.head.0.weight": torch.randn(4, 8, 1),
        "text_encoder_q.model.embeddings.word_embeddings.weight": torch.randn(9, 8),
        "patch_local_atten_layer.in_proj_weight": torch.randn(12, 4),
        "word_local_atten_layer.out_proj.bias": torch.randn(4),
        "prototype_layer.weight": torch.randn(5, 4),
    }
    return {
        "epoch": 3, "global_step": 100, "pytorch-lightning_version": "1.6.4", "state_dict": state,
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(1.5)}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 2e-5, "params": [0]}]}],
        "lr_schedulers": [{"cycle": 0}], "hparams_name": "kwargs", "hyper_parameters": {"emb_dim": 128},
    }  # fmt: skip


def eva_clip_checkpoint(tower):
    """The authors' layout of EVA-CLIP: the image tower under `visual.` with their names, and text."""
    state = {}
    for key, value in tower.state_dict().items():
        for ours, official in (
            ("mlp.fc1_g.", "mlp.w1."), ("mlp.fc1_x.", "mlp.w2."), ("attn.q_proj.bias", "attn.q_bias"),
            ("attn.v_proj.bias", "attn.v_bias"), ("attn.norm.", "attn.inner_attn_ln."),
        ):  # fmt: skip
            key = key.replace(ours, official)
        if "blocks.0.attn.q_proj.weight" in tower.state_dict():  # g/14 has no gate: fc1 and fc2 as in timm
            key = key.replace("mlp.norm.", "mlp.ffn_ln.").replace("mlp.fc2.", "mlp.w3.")
        state[f"visual.{key}"] = value.half()
    state |= {
        "visual.rope.freqs_cos": torch.zeros(256, 16).half(),
        "text.positional_embedding": torch.randn(7, 8),
    }
    return state | {"logit_scale": torch.tensor(4.6)}


def small(name):
    """timm's options that make a named tokenizer quick, its kind and names left as they are."""
    width = {"mgca_vit_base_patch16": 48}.get(name, 64)
    return TOKENIZERS[name].network, {"depth": 2, "embed_dim": width, "num_heads": 2}

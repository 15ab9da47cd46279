"""Draws docs/architecture.svg: the rooms of evax, and which may import which (from tests/test_imports.py).

An arrow leads from a room to one that it may import; arrows that follow from others are left out.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
ROOMS = {  # room: (centre of its box in columns, what it holds)
    "cli": (2.0, "command line"),
    "jobs": (2.0, "one file per command"),
    "pretraining": (3.0, "masked patches, no labels"),
    "adaptation": (3.0, "classifier, segmenter, probe"),
    "comparison": (1.0, "finished runs, compared"),
    "pages": (1.3, "HTML pages and figures"),
    "runs": (0.6, "run folder, log, checkpoints"),
    "deploy": (3.0, "bundles, predictors, ONNX"),
    "options": (0.2, "config of every command"),
    "explain": (2.0, "Grad-CAM, localisation"),
    "weights": (3.6, "published files, safe loading"),
    "evaluation": (0.2, "metrics and intervals"),
    "data": (2.0, "images, stores, splits"),
    "models": (3.6, "encoders, heads, tokenizers"),
}
COLUMN, ROW, WIDTH, HEIGHT, MARGIN = 230, 96, 206, 48, 24
STYLE = """text { font-family: Helvetica, Arial, sans-serif; text-anchor: middle; }
.name { font-size: 15px; font-weight: bold; fill: #12324a; } .what { font-size: 12px; fill: #41525e; }
rect { fill: #eef4f8; stroke: #5b7f99; } .base { fill: #f4f1ea; stroke: #a3967a; }
path { fill: none; stroke: #7d93a3; stroke-width: 1.4; marker-end: url(#tip); }"""


def allowed_imports() -> tuple[set[str], dict[str, set[str]]]:
    """Base modules, and for each room the rooms it may import, as tests/test_imports.py states them."""
    names: dict[str, object] = {}
    for node in ast.parse((ROOT / "tests" / "test_imports.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in (
            "BASE", "LEARNING", "MAY_IMPORT",
        ):  # fmt: skip
            exec(compile(ast.Module([node], []), "test_imports.py", "exec"), names)
    base, rooms = names["BASE"], names["MAY_IMPORT"]
    assert isinstance(base, set)
    assert isinstance(rooms, dict)
    return base, {room: set(below) for room, below in rooms.items() if room != "__main__"}


def direct(rooms: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the imports that follow from others."""
    below: dict[str, set[str]] = {}

    def everything(room: str) -> set[str]:
        if room not in below:
            below[room] = rooms[room].union(*map(everything, rooms[room]))
        return below[room]

    return {
        room: {other for other in wanted if not any(other in everything(third) for third in wanted)}
        for room, wanted in rooms.items()
    }


def drawing() -> str:
    """The picture as SVG."""
    base, rooms = allowed_imports()
    arrows, floors = direct(rooms), {}

    def floor(room: str) -> int:
        if room not in floors:
            floors[room] = 1 + max(map(floor, rooms[room]), default=0)
        return floors[room]

    top = max(map(floor, rooms))
    centre = {
        room: (MARGIN + WIDTH / 2 + ROOMS[room][0] * COLUMN, MARGIN + (top - floors[room]) * ROW)
        for room in rooms
    }
    width, height = 2 * MARGIN + WIDTH + int(3.8 * COLUMN), 2 * MARGIN + top * ROW + HEIGHT
    parts = []
    for room, targets in sorted(arrows.items()):
        ordered = sorted(targets, key=lambda target: centre[target][0])
        for place, target in enumerate(ordered, 1):
            (x, y), (to_x, to_y) = centre[room], centre[target]
            start = x - WIDTH / 2 + WIDTH * place / (len(ordered) + 1)
            callers = sorted(
                (other for other in arrows if target in arrows[other]), key=lambda r: centre[r][0]
            )
            end = to_x - WIDTH / 2 + WIDTH * (callers.index(room) + 1) / (len(callers) + 1)
            straight = max(y + HEIGHT, to_y - ROW + HEIGHT)  # past the floors between, then a curve
            middle = (straight + to_y) / 2
            parts.append(
                f'<path d="M{start:.0f} {y + HEIGHT:.0f} V{straight:.0f} C{start:.0f} {middle:.0f} '
                f'{end:.0f} {middle:.0f} {end:.0f} {to_y - 2:.0f}"/>'
            )
    for room, (x, y) in sorted(centre.items()):
        parts += [
            f'<rect x="{x - WIDTH / 2:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
            f'<text class="name" x="{x:.0f}" y="{y + 20:.0f}">{escape(room)}</text>',
            f'<text class="what" x="{x:.0f}" y="{y + 37:.0f}">{escape(ROOMS[room][1])}</text>',
        ]
    y, x = MARGIN + top * ROW, width / 2
    parts += [
        f'<rect class="base" x="{MARGIN}" y="{y}" width="{width - 2 * MARGIN}" height="{HEIGHT}" rx="6"/>',
        f'<text class="name" x="{x:.0f}" y="{y + 20}">base: every room may import it</text>',
        f'<text class="what" x="{x:.0f}" y="{y + 37}">{escape(", ".join(sorted(base)))}</text>',
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}">',
            "<title>Rooms of evax. An arrow leads to a room that may be imported.</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path d="M0 0 L8 4 L0 8 z" style="fill:#7d93a3;stroke:none;marker-end:none"/>'
            "</marker></defs>",
            f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
            *parts,
            "</svg>\n",
        ]
    )


def main() -> int:
    """Writes the picture."""
    PICTURE.write_text(drawing(), encoding="utf-8")
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

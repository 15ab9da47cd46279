"""Question: of the images that two stores share by file name, how many pairs does `evax audit` find, and what
are the pairs that the names do not list?

Run `evax audit FIRST SECOND --out AUDIT` first. The sheet shows every pair that no name lists, for a person
to count the true ones.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from PIL import Image

from circumstances import keep
from evax.data.store import open_store
from evax.files import read_json

THUMB, PAIRS_IN_A_ROW = 130, 7


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("audit", type=Path)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--name", default="audit-named-pairs")
    options = parser.parse_args()
    stores = {path.name: open_store(path) for path in (options.first, options.second)}
    stems = {name: [Path(image).stem for image in s.manifest.table["image"]] for name, s in stores.items()}
    first, second = stems.values()
    row_of = {stem: row for row, stem in enumerate(first)}
    named = {(row_of[stem], row) for row, stem in enumerate(second) if stem in row_of}
    found, others, same_patient = set(), [], 0
    with (options.audit / "duplicates.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            ends = [(line["store"], int(line["row"])), (line["other_store"], int(line["other_row"]))]
            rows = tuple(row for _, row in sorted(ends, key=lambda end: list(stores).index(end[0])))
            if ends[0][0] != ends[1][0] and rows in named:
                found.add(rows)
                continue
            others.append((*ends, line["kind"]))
            patients = [stores[name].manifest.table["patient"].iloc[row] for name, row in ends]
            same_patient += patients[0] == patients[1]
    draw(stores, others, options.sheet)
    audit = read_json(options.audit / "audit.json")
    keep(
        options.name,
        "of the images that two stores share by name, how many pairs does evax audit find?",
        {
            "films": [len(store) for store in stores.values()],
            "named pairs": len(named),
            "found": len(found),
            "recall": len(found) / len(named),
            "pairs no name lists": len(others),
            "of these with the very same pixels": sum(kind == "exact" for *_, kind in others),
            "of these of one patient": same_patient,
            "audit": audit | {"environment": read_json(options.audit / "environment.json")},
        },
    )


def draw(stores, pairs, path):
    rows = -(-len(pairs) // PAIRS_IN_A_ROW) or 1
    width, height = 2 * THUMB + 8, THUMB + 6
    sheet = Image.new("L", (PAIRS_IN_A_ROW * width, rows * height), 255)
    for number, (first, second, _) in enumerate(pairs):
        for side, (name, row) in enumerate((first, second)):
            film = Image.fromarray(stores[name].pixels(row)).resize((THUMB, THUMB))
            down, across = divmod(number, PAIRS_IN_A_ROW)
            sheet.paste(film, (across * width + side * (THUMB + 1), down * height))
    sheet.save(path)


if __name__ == "__main__":
    main()

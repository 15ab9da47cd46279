"""COVID-19 images of Hannover Medical School."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from evax.data.sources.record import PublicSet, archive
from evax.errors import DataError
from evax.files import open_csv, read_text, replaced_whole


def write_labels(folder: Path) -> None:
    """labels.csv of the repository's data.csv: what `evax prepare` reads of it."""
    rows = list(csv.DictReader(io.StringIO(read_text(folder / "data.csv"))))
    columns = ("patient_id", "projection", "sex", "age")
    if not rows or (missing := [name for name in ("image_id", *columns) if name not in rows[0]]):
        raise DataError(f"{folder / 'data.csv'} lacks {', '.join(missing) if rows else 'rows'}.")
    with replaced_whole(folder / "labels.csv") as unfinished, open_csv(unfinished) as file:
        writer = csv.writer(file)
        writer.writerow(("image", "patient", "view", "sex", "age", "COVID-19"))
        for row in rows:
            writer.writerow((f"png/{row['image_id']}.png", *(row[name] for name in columns), 1))


PUBLIC_SET = PublicSet(
    what="243 images of 71 adults with COVID-19 (Hannover Medical School)",
    terms="CC BY 3.0",
    page="https://github.com/ml-workgroup/covid-19-image-repository",
    archives=(
        archive(
            "covid-19-image-repository-master.zip",
            "https://github.com/ml-workgroup/covid-19-image-repository/archive/refs/heads/master.zip",
        ),
    ),
    top="covid-19-image-repository-master",
    complete=write_labels,
    layout="labels.csv (made of data.csv)  png/*.png",
    source="csv",
)

"""Question: does the memory of `evax pretrain` and `evax embed` grow with the images of a store?

The same commands on stores of 1,024 and 8,192 images of 336 pixels, each in a process of its own. Counted is
the largest anonymous memory, which the system cannot drop; pages of the store's files are not in it: they are
read when needed and dropped when something else needs the room.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from circumstances import keep
from evax.data.building import SHARD_FILMS, build_store
from evax.data.phantom_release import write_phantoms
from evax.data.sources import read_source
from evax.data.split import assign_splits

SHARDS = (2, 16)
ENCODER = "eva_x_tiny_patch16_224"


def grown_store(small: Path, out: Path, shards: int) -> Path:
    """The images of a small store again and again, with one bit noise, under names of their own."""
    table = pa.ipc.open_file(pa.memory_map(str(small / "shard-00000.arrow"))).read_all()
    films = np.stack([np.frombuffer(film.as_buffer(), np.uint8) for film in table["pixels"].chunk(0)])
    chance = np.random.default_rng(0)
    out.mkdir(parents=True)
    for number in range(shards):
        rows = np.arange(SHARD_FILMS) % len(films)
        part = table.take(rows)
        pixels = films[rows] ^ chance.integers(0, 2, (SHARD_FILMS, films.shape[1]), np.uint8)
        names = [f"{number}-{row}" for row in range(SHARD_FILMS)]
        columns = {"pixels": pa.array([film.tobytes() for film in pixels], pa.large_binary())}
        columns |= {"image": pa.array(names), "patient": pa.array(names)}
        for name, column in columns.items():
            part = part.set_column(part.schema.get_field_index(name), name, column)
        part = part.combine_chunks()
        with (
            pa.OSFile(str(out / f"shard-{number:05d}.arrow"), "wb") as file,
            pa.ipc.new_file(file, part.schema) as writer,
        ):
            writer.write_table(part, max_chunksize=len(part))
    card = json.loads((small / "store.json").read_text(encoding="utf-8"))
    card |= {"films": shards * SHARD_FILMS, "shards": sorted(path.name for path in out.glob("*.arrow"))}
    (out / "store.json").write_text(json.dumps(card | {"fingerprint": str(shards)}), encoding="utf-8")
    return out


def anonymous_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def peak_of(arguments: list[str]) -> float:
    """Largest anonymous memory of an evax command, looked at every 20 ms."""
    process = subprocess.Popen([sys.executable, "-m", "evax", *arguments], stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, anonymous_mib(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"evax {' '.join(arguments)} failed")
    return round(peak, 1)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_phantoms(work / "films", films=32, seed=0)
        manifest = read_source("csv", work / "films", {})
        build_store(assign_splits(manifest, validation=0.2, test=0.2, seed=0), work / "small", size=336)
        pretrain, embed, films = {}, {}, []
        for shards in SHARDS:
            store = grown_store(work / "small", work / f"store{shards}", shards)
            films.append(shards * SHARD_FILMS)
            run = work / f"run{shards}"
            few = 20 * 32 / (films[-1] * 0.75)  # about 20 steps
            learn = ["--image-size", "64", "--batch-size", "32", "--epochs", f"{few:.5f}"]
            options = ["--precision", "fp32", "--compile", "off", "--workers", "1"]
            pretrain[films[-1]] = peak_of(["pretrain", str(store), "--out", str(run), *learn, *options])
            table = ["--image-size", "32", "--out", str(work / f"{shards}.parquet"), "--precision", "fp32"]
            embed[films[-1]] = peak_of(["embed", str(store), "--bundle", str(run / "encoder"), *table])
    keep(
        "store_memory",
        __doc__.split("\n")[0].removeprefix("Question: "),
        {
            "store_mib": {count: round(count * 336**2 / 2**20) for count in films},
            "anonymous_mib": {"pretrain": pretrain, "embed": embed},
        },
    )


if __name__ == "__main__":
    main()

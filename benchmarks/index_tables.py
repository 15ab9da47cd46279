"""Question: how long does it take to index a whole release, from its tables to a manifest?

ChestX-ray14 and CheXpert with their complete tables, MIMIC-CXR with one of the published size (its tables are
for credentialed users only), as tests/published_tables.py lays them out. No image is there or read. One
thread. EVAX_SHARED names the folder with the released lists.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

import published_tables  # noqa: E402  # lies with the tests that assert the counts
from circumstances import keep  # noqa: E402
from evax.data.sources import list_source  # noqa: E402

ROUNDS = 3


def main() -> None:
    shared = Path(os.environ.get("EVAX_SHARED", ROOT.parent / "shared")) / "data"
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, write in {
            "chestxray14": lambda raw: published_tables.chestxray14(raw, shared),
            "chexpert": published_tables.chexpert,
            "mimic_cxr": lambda raw: published_tables.mimic_cxr(raw, tested=600),
        }.items():
            raw = Path(folder) / name
            raw.mkdir()
            write(raw)
            seconds = []
            for _ in range(ROUNDS):
                clock, processor = time.perf_counter(), time.process_time()
                manifest = list_source(name, raw, {})
                seconds.append((time.perf_counter() - clock, time.process_time() - processor))
            results[name] = {
                "kept": len(manifest.table),
                "left_out": len(manifest.left_out),
                "seconds": round(min(clock for clock, _ in seconds), 2),
                "processor_seconds": round(min(processor for _, processor in seconds), 2),
            }
            print(name, results[name], flush=True)
    keep("index_tables", __doc__.split("\n")[0].removeprefix("Question: "), results)


if __name__ == "__main__":
    main()

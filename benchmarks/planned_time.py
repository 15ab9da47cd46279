"""Question: how close to the time that was asked for do `--hours` and `--minutes` end?

Each case is a whole command in a process of its own, on a store of phantoms. `ratio`: its time by the clock
over the time that was asked for. `others`: share of the processor time spent meanwhile that was spent by
other processes; where it is not small and steady, no estimate can be right.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from circumstances import keep
from evax.data.building import build_store
from evax.data.phantom_release import write_phantoms
from evax.data.sources import read_source
from evax.data.split import assign_splits

FILMS, SIZE = 200, 128
MINUTES = (1, 2)
SMALL = ["--image-size", str(SIZE), "--batch-size", "32"]
CASES = {
    "pretrain": lambda minutes: ["--hours", str(minutes / 60)],
    "finetune": lambda minutes: ["--minutes", str(minutes)],
}


def phantom_store(folder: Path) -> Path:
    """Phantoms as a labelled store of small images."""
    write_phantoms(folder / "phantoms", films=FILMS, workers=2)
    manifest = read_source("csv", folder / "phantoms", {})
    return build_store(
        assign_splits(manifest, validation=0.2, test=0.2, seed=0), folder / "store", size=SIZE
    ).path


def processor_seconds() -> tuple[float, float]:
    """Spent so far: by all processes of the machine, and by those that were started here."""
    ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="utf-8").split("\n")[0].split()[1:8]]
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK"), own.ru_utime + own.ru_stime


def planned(command: str, minutes: int, store: Path, out: Path) -> dict:
    """Runs the command; what it took and what it had planned."""
    options = [*CASES[command](minutes), *SMALL, "--out", str(out)]
    before, start = processor_seconds(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "evax", command, str(store), *options],
        check=True, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    seconds = time.perf_counter() - start
    everyone, own = (now - then for now, then in zip(processor_seconds(), before, strict=True))
    recipe = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    return {
        "command": command,
        "asked_s": 60 * minutes,
        "took_s": round(seconds, 1),
        "ratio": round(seconds / (60 * minutes), 3),
        "others": round(max(0.0, 1 - own / everyone), 2),
        "length": {name: recipe[name] for name in ("steps", "epochs") if recipe.get(name)},
        "plan": next(line for line in done.stderr.splitlines() if line.startswith("Plan: ")),
    }


def main() -> None:
    with TemporaryDirectory() as folder:
        store = Path(sys.argv[1]) if len(sys.argv) > 1 else phantom_store(Path(folder))
        runs = [
            planned(command, minutes, store, Path(folder) / f"{command}-{minutes}")
            for command in CASES
            for minutes in MINUTES
        ]
    question = __doc__.split("\n")[0].removeprefix("Question: ")
    keep("planned_time", question, {"films": FILMS, "options": SMALL, "runs": runs})


if __name__ == "__main__":
    main()

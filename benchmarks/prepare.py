"""Question: how many images does `evax prepare` read per second and core, and does its memory grow with them?

The command itself is run, with two reading processes. Rate: images per second of processor time of all its
processes, from the difference of a short and a long run, so that their start is not in it; images of the kinds
of read_images.py. Memory: the largest sum of anonymous memory (RssAnon) of all its processes, looked at every
20 ms, on small PNGs (64 x 64, stored at 336 x 336 as always): what one image needs does not tell whether the
number of images matters. The files of a run are hard links to a few pictures; each is read by itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from circumstances import keep
from evax.data.phantom import make_phantom
from read_images import KINDS, write_films

WORKERS = 2
MEMORY_FILMS = (1_000, 20_000)
RATE_FILMS = (10, 50)
DRAWN = 12
LOOK_EVERY_S = 0.02


def links(pictures: list[Path], count: int, folder: Path) -> Path:
    folder.mkdir()
    for number in range(count):
        picture = pictures[number % len(pictures)]
        (folder / f"{number:06d}{picture.suffix}").hardlink_to(picture)
    return folder


def small_films(folder: Path) -> list[Path]:
    folder.mkdir()
    for patient in range(DRAWN):
        pixels = (make_phantom(0, patient).pixels * 255).astype(np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{patient}.png")
    return sorted(folder.iterdir())


def tree_of(pid: int) -> list[int]:
    """A process and everything it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(each for child in children for each in tree_of(int(child)))]


def anonymous_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def run(raw: Path, out: Path) -> dict[str, float]:
    """Seconds by the clock, processor seconds of all processes, MB of anonymous memory at the peak."""
    command = [sys.executable, "-m", "evax", "prepare", "--source", "folders", "--raw", str(raw)]
    command += ["--out", str(out), "--workers", str(WORKERS)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0
    while True:
        peak = max(peak, sum(map(anonymous_mb, tree_of(process.pid))))
        pid, status, used = os.wait4(process.pid, os.WNOHANG)  # of the process and those it waited for
        if pid:
            break
        time.sleep(LOOK_EVERY_S)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}.")
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "processor_s": round(used.ru_utime + used.ru_stime, 2),
        "anonymous_mb": round(peak, 1),
    }


def rates(folder: Path) -> dict[str, dict]:
    write_films(folder)
    measured = {}
    for kind in KINDS:
        pictures = sorted((folder / kind).iterdir())
        few, many = (
            run(links(pictures, count, folder / f"{kind}-{count}"), folder / f"{kind}-{count}.store")
            for count in RATE_FILMS
        )
        rate = (RATE_FILMS[1] - RATE_FILMS[0]) / (many["processor_s"] - few["processor_s"])
        measured[kind] = {"films_per_processor_s": round(rate, 1), "runs": [few, many]}
    return measured


def memory(folder: Path) -> dict[str, object]:
    pictures = small_films(folder / "small")
    runs = {
        count: run(links(pictures, count, folder / str(count)), folder / f"{count}.store")
        for count in MEMORY_FILMS
    }
    few, many = (runs[count]["anonymous_mb"] for count in MEMORY_FILMS)
    return {"runs": runs, "growth": round(many / few - 1, 3)}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rate").mkdir()
        measured = {"workers": WORKERS, "rate": rates(folder / "rate"), "memory": memory(folder)}
    keep("prepare", __doc__.split("\n")[0].removeprefix("Question: "), measured)


if __name__ == "__main__":
    main()

"""An image that keeps its decoder busy for ever costs its time limit and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from evax.data import workers
from evax.data.preprocess import Preprocess
from evax.data.store import open_store


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no processor timers")
def test_a_decoder_that_does_not_end_is_stopped():
    endless = "from evax.data import workers\nwith workers._time_limit(0.3):\n    while True: pass"
    done = subprocess.run([sys.executable, "-c", endless], timeout=60, check=False)
    assert done.returncode == -signal.SIGPROF


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no processor timers")
def test_the_limit_ends_with_the_image():
    with workers._time_limit(5):
        pass
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_a_worker_that_is_killed_between_two_reads_costs_nothing(phantoms):
    film = workers.ImageFiles(next(phantoms.glob("images/*.png")), phantoms)
    chain = Preprocess(store_size=32, input_size=32)
    with workers.ImageReaders(1) as readers:
        (before,) = readers.read([film], chain)
        os.kill(readers._processes._all[0]._running.pid, signal.SIGKILL)  # as where memory runs out
        (after,) = readers.read([film], chain)
    assert before.pixels == after.pixels


def test_a_script_without_a_guard_of_its_main_part_builds_a_store(phantoms, tmp_path):
    (tmp_path / "raw").mkdir()
    for path in sorted(phantoms.glob("images/*.png"))[:3]:
        shutil.copy(path, tmp_path / "raw")
    lines = [
        "from pathlib import Path",
        "from evax.jobs.prepare import PrepareConfig, prepare",
        "print('once')",
        f"raw, out = Path({str(tmp_path / 'raw')!r}), Path({str(tmp_path / 'store')!r})",
        "prepare(PrepareConfig(raw=raw, out=out, source='folders', size=32, workers=2))",
    ]
    script = tmp_path / "script.py"
    script.write_text("\n".join(lines))
    done = subprocess.run([sys.executable, script], timeout=120, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("once")) == (0, 1), done.stderr
    assert len(open_store(tmp_path / "store")) == 3

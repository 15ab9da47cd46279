"""A film that keeps its decoder busy for ever costs its time limit and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from evax.data import workers
from evax.data.preprocess import Preprocess


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no processor timers")
def test_a_decoder_that_does_not_end_is_stopped():
    endless = "from evax.data import workers\nwith workers._time_limit(0.3):\n    while True: pass"
    done = subprocess.run([sys.executable, "-c", endless], timeout=60, check=False)
    assert done.returncode == -signal.SIGPROF  # the pool reports such a film and goes on with a new process


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no processor timers")
def test_the_limit_ends_with_the_film():
    with workers._time_limit(5):
        pass
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_a_worker_that_is_killed_between_two_reads_costs_nothing(phantoms):
    film = workers.FilmFiles(next(phantoms.glob("images/*.png")), phantoms)
    chain = Preprocess(store_size=32, input_size=32)
    with workers.FilmReaders(1) as readers:
        (before,) = readers.read([film], chain)
        os.kill(next(iter(readers._pool._processes)), signal.SIGKILL)  # as where memory runs out
        deadline = time.monotonic() + 30
        while not readers._pool._broken and time.monotonic() < deadline:
            time.sleep(0.01)
        (after,) = readers.read([film], chain)
    assert before.pixels == after.pixels

"""A film that keeps its decoder busy for ever costs its time limit and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from evax.data import workers


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

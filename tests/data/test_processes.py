"""Processes make calls in order; what ends one of them costs that call, and none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from evax.data.processes import Crashed, Processes

ENDS = "__import__('os')._exit(3)"


def answers(processes, *texts):
    """What comes of each text as an expression, in order."""
    results = []
    for call in processes.calls(eval, ((text,) for text in texts)):
        try:
            results.append(call.result())
        except (Crashed, ZeroDivisionError) as error:
            results.append(type(error))
    return results


def test_answers_come_in_order_and_a_process_that_ends_or_raises_costs_its_call_alone():
    texts = ["1 + 1", ENDS, "1 / 0", "__import__('time').sleep(0.1) or 'late'", "'x' * 300_000", ENDS, "7"]
    with Processes(2) as processes:
        for _ in range(2):
            found = answers(processes, *texts)
            assert found == [2, Crashed, ZeroDivisionError, "late", "x" * 300_000, Crashed, 7]


def test_what_a_decoder_prints_is_no_answer(capfd):
    texts = ["print('noise' * 9)", "__import__('os').system('echo echo')", "5"]
    with Processes(1) as processes:
        assert answers(processes, *texts) == [None, 0, 5]
    assert capfd.readouterr().out == ""


def test_more_calls_than_are_made_ahead_are_all_made():
    with Processes(1) as processes:
        assert answers(processes, *map(str, range(50))) == list(range(50))


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(happens, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not happens() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert happens()


PID, LONG = "__import__('os').getpid()", "__import__('time').sleep(60)"


def test_an_error_in_the_parent_ends_what_is_still_running_at_once():
    start, pids = time.monotonic(), []

    def interrupted():
        with Processes(1) as processes:
            for call in processes.calls(eval, [(PID,)] + [(LONG,)] * 9):
                pids.append(call.result())
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 30
    assert not is_running(*pids)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_parent_leaves_no_process_behind(tmp_path):
    script = tmp_path / "script.py"
    lines = [
        "from evax.data.processes import Processes",
        f"for call in Processes(1).calls(eval, [({PID!r},)] + [({LONG!r},)] * 9):",
        "    print(call.result(), flush=True)",
    ]
    script.write_text("\n".join(lines))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    wait_until(lambda: not is_running(pid))
